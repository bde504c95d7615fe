"""Motion for a sound of any length, from windows as long as a training clip.

The network sees every window as it saw the clips in training: instance norm takes its
statistics over 64 frames of sound, whereas over a long sound they would differ from all
that it has learnt. Successive windows overlap; each contributes the frames that it
knows enough sound around, and a crossfade joins it to the one before.

    window k      |------ context ------|  fade  |  ...  | look-ahead |
    window k + 1            |------ context ------|  fade  |  ...  | look-ahead |

A whole sound is generated through the same stream as a live one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdt_jax import audio
from sdt_jax.synthesis.stream import NO_POSES, Stream
from sdt_jax.templates.director import Director

FRAMES = audio.CLIP_FRAMES

_SAMPLES = audio.num_samples(FRAMES)

Generate = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Sounds (n, samples), templates (n, 64, D) or None -> poses (n, 64, dims, joints)."""


class Schedule(NamedTuple):
  """Where windows lie, in frames; hop + look_ahead + fade is at most 64.

  Attributes:
    hop: between the ends of successive windows.
    look_ahead: sound that a window needs after the last frame that it contributes.
    fade: length of the crossfade between successive windows.
    first: end of the first window. Where a window begins before the sound, the sound
      is mirrored there.
  """

  hop: int
  look_ahead: int
  fade: int
  first: int = FRAMES

  @property
  def latency(self) -> int:
    """See `Stream.latency`."""
    return self.hop + self.look_ahead + self.fade - 1


# Chosen by measurement, see docs/generation.md.
WHOLE_SOUND = Schedule(hop=43, look_ahead=8, fade=13)


def live(look_ahead: int = 2, hop: int = 2, fade: int = 1) -> Schedule:
  """A schedule for a sound that is still being recorded."""
  return Schedule(hop, look_ahead, fade, first=hop + look_ahead + fade)


class WindowedStream(Stream):
  """A stream of a model that generates whole clips.

  Args:
    generate: the model.
    schedule: where windows lie.
    template: see `Stream`.
    at_once: largest number of windows that are generated together.
  """

  def __init__(
    self,
    generate: Generate,
    schedule: Schedule,
    template: np.ndarray | Director | None = None,
    at_once: int = 1,
  ):
    super().__init__(template)
    self._generate, self._schedule, self._at_once = generate, schedule, at_once
    self._next_end = schedule.first
    self._joined = 0  # number of frames that windows have contributed
    self._tail: np.ndarray | None = None  # the last `fade` of them, to be blended

  @property
  def latency(self) -> float:
    return self._schedule.latency

  def feed(self, samples: np.ndarray) -> np.ndarray:
    self._hear(samples)
    ends = []
    while audio.num_samples(self._next_end) <= self._num_samples():
      ends.append(self._next_end)
      self._next_end += self._schedule.hop
    poses_px = self._add_windows(ends, self._schedule.look_ahead)
    start = max(0, self._next_end - self._schedule.hop - FRAMES)
    self._forget(audio.num_samples(start), start)
    return poses_px

  def finish(self) -> np.ndarray:
    num_frames = audio.num_frames(self._num_samples())
    missing = audio.num_samples(num_frames) - self._num_samples()
    self._sound = np.pad(self._sound, (0, max(missing, 0)))
    poses_px = self._add_windows([num_frames] if num_frames else [], look_ahead=0)
    rest = [] if self._tail is None else [self._tail]
    return np.concatenate([poses_px, *rest])

  def _add_windows(self, ends: list[int], look_ahead: int) -> np.ndarray:
    """Generates the windows that end here; returns the poses that are final."""
    if not ends:
      return NO_POSES
    joined = []
    for first in range(0, len(ends), self._at_once):
      some = ends[first : first + self._at_once]
      templates = None
      if self._templates is not None:
        templates = np.stack([self._templates_of(end - FRAMES, end) for end in some])
      windows = self._generate(np.stack([self._sound_of(e) for e in some]), templates)
      for window, end in zip(windows, some, strict=True):
        joined.append(self._join(window, end, end - look_ahead))
    return np.concatenate(joined)

  def _join(self, window: np.ndarray, end: int, last: int) -> np.ndarray:
    """Adds the frames of a window before `last`; returns those that are final."""
    fade = 0 if self._tail is None else len(self._tail)
    start = end - FRAMES
    poses_px = window[self._joined - fade - start : last - start].copy()
    if self._tail is not None:
      weight = (np.arange(1, fade + 1) / (fade + 1))[:, None, None]
      poses_px[:fade] = (1 - weight) * self._tail + weight * poses_px[:fade]
    self._joined = last
    final = max(0, len(poses_px) - self._schedule.fade)
    self._tail = poses_px[final:]
    return poses_px[:final]

  def _sound_of(self, end: int) -> np.ndarray:
    """The sound (samples,) of the window that ends at this frame."""
    if end < FRAMES:
      heard = self._sound[: audio.num_samples(end)]
      return np.pad(heard, (_SAMPLES - len(heard), 0), mode="symmetric")
    start = audio.num_samples(end - FRAMES) - self._first_sample
    return self._sound[start : start + _SAMPLES]
