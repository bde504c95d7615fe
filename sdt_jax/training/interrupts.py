"""Stopping a run in good order: SIGTERM and Ctrl-C ask, they do not break off."""

import contextlib
import os
import signal
from collections.abc import Iterator


class StopRequest:
  """Whether the run was asked to stop.

  Attributes:
    requested: True from the first signal on.
  """

  def __init__(self):
    self.requested = False

  def _handle(self, number: int, frame) -> None:
    if self.requested and number == signal.SIGINT:
      # An exception would wait for what is being saved and drawn; a run that is
      # killed loses nothing, so this is as good.
      os._exit(130)
    self.requested = True


@contextlib.contextmanager
def catch() -> Iterator[StopRequest]:
  """Turns SIGTERM and Ctrl-C into a request; a second Ctrl-C leaves at once."""
  stop = StopRequest()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.signal(number, stop._handle) for number in numbers}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
