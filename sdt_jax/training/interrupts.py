"""Handles SIGTERM and Ctrl-C as requests to stop the run after the current step."""

import contextlib
import os
import signal
from collections.abc import Iterator


class StopRequest:
  """`requested` becomes True when a signal asks the run to stop."""

  requested = False

  def _handle(self, number: int, frame) -> None:
    if self.requested and number == signal.SIGINT:
      # An exception would first wait for the checkpoint and the video in progress.
      # Killing the process is safe: every file is either complete or absent.
      os._exit(130)
    self.requested = True


@contextlib.contextmanager
def catch() -> Iterator[StopRequest]:
  """Turns SIGTERM and Ctrl-C into a request; a second Ctrl-C exits immediately."""
  stop = StopRequest()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.signal(number, stop._handle) for number in numbers}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
