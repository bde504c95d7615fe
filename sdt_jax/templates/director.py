"""Templates that change over a sound of any length, chosen block by block."""

import abc

import numpy as np

from sdt_jax import audio

BLOCK = audio.CLIP_FRAMES
"""Frames in a block: as many as a training clip has."""

_SAMPLES = audio.num_samples(BLOCK)


class Director(abc.ABC):
  """Chooses the templates of one sound. A new one is made for every sound.

  A whole sound and a live one are directed by the same calls: one for each block, in
  order. Of a live sound, the block that begins has not been heard yet.
  """

  @abc.abstractmethod
  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    """Chooses the templates of the next block.

    Args:
      heard: samples (S,) of the block before at 16 kHz; None for the first block.
      coming: samples (S,) of the next block, or fewer at the end of the sound; None if
        they are not known yet.

    Returns:
      (BLOCK, D) float32, one template for each frame.
    """

  def direct(self, sound: np.ndarray) -> np.ndarray:
    """The templates (T, D) of all frames of a sound (samples,) at 16 kHz."""
    num_frames = audio.num_frames(len(sound))
    heard, rows = None, []
    for first in range(0, num_frames, BLOCK):
      start = audio.num_samples(first)
      coming = sound[start : start + _SAMPLES]
      rows.append(self.next(heard, coming))
      heard = coming
    return np.concatenate(rows)[:num_frames]
