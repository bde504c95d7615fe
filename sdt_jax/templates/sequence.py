"""Templates drawn by the sequence model: the mapper hears no speech, only noise."""

from collections.abc import Callable

import numpy as np

from sdt_jax.models.code_mapper import NUM_BLOCKS
from sdt_jax.templates.director import BLOCK, Director


class SequenceDirector(Director):
  """Templates that change continuously, block after block.

  They equal those of one evaluation over the whole sound. Its noise also continues
  before the first and after the last frame, so that, unlike in a clip of the original,
  no frame sees the zero padding at the ends.

  Args:
    decode: noise (T, noise_size) -> templates (T, D), for example
      `Method.draw_templates`; always called with the same T.
    noise_size: see `Method.noise_size`.
    seed: of the noise.
  """

  def __init__(
    self, decode: Callable[[np.ndarray], np.ndarray], noise_size: int, seed: int
  ):
    self._decode, self._noise_size, self._seed = decode, noise_size, seed
    self._block = 0

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    del heard, coming
    before, now, after = (self.noise(self._block + i) for i in (-1, 0, 1))
    noise = np.concatenate([before[-NUM_BLOCKS:], now, after[:NUM_BLOCKS]])
    self._block += 1
    return np.asarray(self._decode(noise), np.float32)[NUM_BLOCKS:-NUM_BLOCKS]

  def noise(self, block: int) -> np.ndarray:
    """Noise (BLOCK, noise_size) of a block; -1 is the one before the first."""
    rng = np.random.default_rng((self._seed, block + 1))
    return rng.standard_normal((BLOCK, self._noise_size), np.float32)
