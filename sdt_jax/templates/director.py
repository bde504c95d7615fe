"""Templates that change over a sound of any length, chosen block by block."""

import abc

import numpy as np

from sdt_jax import audio

BLOCK = audio.CLIP_FRAMES
"""Frames in a block: as many as a training clip has."""


class Director(abc.ABC):
  """Chooses the templates of one sound. A new one is made for every sound.

  A whole sound and a live one are directed by the same calls: one for each block, in
  order. Of a live sound, the block that begins has not been heard yet.
  """

  @abc.abstractmethod
  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    """Chooses the templates of the next block.

    Args:
      heard: 68,266 or 68,267 samples of the block before, at 16 kHz; None for the first
        block.
      coming: those of the next block, or fewer at the end of the sound; None if they
        are not known yet.

    Returns:
      (BLOCK, D) float32, one template for each frame.
    """

  def direct(self, sound: np.ndarray) -> np.ndarray:
    """The templates (T, D) of all frames of a sound (samples,) at 16 kHz."""
    num_frames = audio.num_frames(len(sound))
    heard, rows = None, []
    for first in range(0, num_frames, BLOCK):
      coming = sound[audio.num_samples(first) : audio.num_samples(first + BLOCK)]
      rows.append(self.next(heard, coming))
      heard = coming
    return np.concatenate(rows)[:num_frames]


class Constant(Director):
  """A given template.

  Args:
    code: (D,), or (T, D) for the first T frames, of which the last one continues.
  """

  def __init__(self, code: np.ndarray):
    self._rows, self._frame = np.atleast_2d(code), 0

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    del heard, coming
    frames = np.arange(self._frame, self._frame + BLOCK)
    self._frame += BLOCK
    return self._rows[np.minimum(frames, len(self._rows) - 1)]


class Moved(Director):
  """The templates of another director, moved by the same vector.

  Args:
    director: what is moved.
    offset: (D,).
  """

  def __init__(self, director: Director, offset: np.ndarray):
    self._director, self._offset = director, offset

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    return self._director.next(heard, coming) + self._offset


def minimum_jerk(x: np.ndarray) -> np.ndarray:
  """Rises from 0 at x <= 0 to 1 at x >= 1 without a jump in speed or acceleration.

  The course of a hand that moves from place to place (Flash and Hogan, 1985).
  """
  x = np.clip(x, 0, 1)
  return x**3 * (10 - 15 * x + 6 * x * x)
