"""The two bounded queues of a client: sound on its way in, frames on their way out.

Both are used from the event loop only.
"""

import asyncio
import collections
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Sound(NamedTuple):
  """Samples (n,); `first` is the number of the first one in the client's sound."""

  first: int
  samples: np.ndarray


class Template(NamedTuple):
  """A change to a template (D,)."""

  code: np.ndarray


class Frame(NamedTuple):
  """A pose (dims, joints) and its number in the client's motion."""

  number: int
  pose_px: np.ndarray


class Inbox:
  """Sound and templates that wait to be processed, in the order in which they came.

  If more sound waits than `max_samples`, all of it is left out, so that processing
  continues with the latest sound.
  """

  def __init__(self, max_samples: float):
    self._max_samples = max_samples
    self._items: list[Sound | Template] = []
    self._received = 0
    self._ended = False
    self._changed = asyncio.Event()

  def put_sound(self, samples: np.ndarray) -> None:
    """Adds samples (n,), and joins them to sound before them."""
    waiting = sum(len(item.samples) for item in self._items if isinstance(item, Sound))
    if waiting + len(samples) > self._max_samples:
      templates = [item for item in self._items if isinstance(item, Template)]
      self._items = [*templates[-1:]]
    sound = Sound(self._received, samples)
    if self._items and isinstance(before := self._items[-1], Sound):
      sound = Sound(before.first, np.concatenate([before.samples, samples]))
      self._items.pop()
    self._items.append(sound)
    self._received += len(samples)
    self._changed.set()

  def put_template(self, code: np.ndarray) -> None:
    """Adds a template (D,), which replaces one directly before it."""
    if self._items and isinstance(self._items[-1], Template):
      self._items.pop()
    self._items.append(Template(code))
    self._changed.set()

  def end(self) -> None:
    """Nothing will be added."""
    self._ended = True
    self._changed.set()

  async def take(self) -> list[Sound | Template]:
    """Waits for items and takes them all; [] at the end."""
    await self._changed.wait()
    items, self._items = self._items, []
    if not self._ended:
      self._changed.clear()
    return items


class Outbox:
  """Frames that wait to be sent: the latest `max_frames`; older ones are dropped."""

  def __init__(self, max_frames: int):
    self._frames: collections.deque[Frame] = collections.deque(maxlen=max_frames)
    self._ended = False
    self._changed = asyncio.Event()

  def put(self, frames: Iterable[Frame]) -> None:
    self._frames.extend(frames)
    if self._frames:
      self._changed.set()

  def end(self) -> None:
    """Nothing will be added."""
    self._ended = True
    self._changed.set()

  async def take(self) -> list[Frame]:
    """Waits for frames and takes those up to the next gap; [] at the end."""
    await self._changed.wait()
    run: list[Frame] = []
    while self._frames and (not run or self._frames[0].number == run[-1].number + 1):
      run.append(self._frames.popleft())
    if not self._frames and not self._ended:
      self._changed.clear()
    return run
