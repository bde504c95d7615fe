"""Stopping a run in good order: SIGTERM and Ctrl-C ask, they do not break off."""

import contextlib
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
      raise KeyboardInterrupt  # the second Ctrl-C leaves at once
    self.requested = True


@contextlib.contextmanager
def catch() -> Iterator[StopRequest]:
  """Turns SIGTERM and Ctrl-C into a request; a second Ctrl-C breaks off after all."""
  stop = StopRequest()
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.signal(number, stop._handle) for number in numbers}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
