"""Discriminates real from generated motion or poses (the GAN of the S2G baseline)."""

import flax.linen as nn
import jax

from sdt_jax.models import layers


class MotionDiscriminator(nn.Module):
  """Patch discriminator over time, for the least-squares GAN loss."""

  channels: int = 256
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(self, motion: jax.Array, train: bool) -> jax.Array:
    """Poses (B, T, dims, joints), or their T differences, -> (B, T // 4) scores."""
    options = {"norm": "bn", "axis_name": self.axis_name, "dtype": self.dtype}
    x = motion.reshape(*motion.shape[:2], -1)
    x = layers.down(self.channels, name="block0", **options)(x, train)
    x = layers.down(2 * self.channels, name="block1", **options)(x, train)
    x = layers.plain(4 * self.channels, name="block2", **options)(x, train)
    return layers.OutputConv(1, kernel=3, padding=1, name="output")(x)[..., 0]
