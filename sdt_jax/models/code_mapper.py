"""The authors' sequence model (paper, section 4.4): noise -> a template for each frame.

A discriminator tells the templates of frames from those of real clips.
"""

import flax.linen as nn
import jax

from sdt_jax.models import layers

NUM_BLOCKS = 7
"""Of both networks. A frame depends on noise up to this many frames away."""


class CodeMapper(nn.Module):
  """Standard normal noise -> templates that change from frame to frame.

  Attributes:
    channels: number of channels of the noise and of all blocks.
    size: dimension of a template.
    axis_name: device axis over which batch norm averages.
    dtype: type of the activations, see `layers`.
  """

  channels: int = 256
  size: int = 32
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(self, noise: jax.Array, train: bool) -> jax.Array:
    """(B, T, channels) -> (B, T, size)."""
    options = {"norm": "bn", "axis_name": self.axis_name, "dtype": self.dtype}
    x = noise
    for i in range(NUM_BLOCKS):
      x = layers.plain(self.channels, name=f"block{i}", **options)(x, train)
    return layers.OutputConv(self.size, kernel=1, name="output")(x)


class CodeDiscriminator(nn.Module):
  """Scores templates one by one; the attributes are those of `CodeMapper`."""

  channels: int = 256
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(self, codes: jax.Array, train: bool) -> jax.Array:
    """Templates (N, size) -> scores (N,)."""
    options = {"axis_name": self.axis_name, "dtype": self.dtype}
    x = codes
    for i in range(NUM_BLOCKS):
      x = layers.LinearBlock(self.channels, name=f"block{i}", **options)(x, train)
    init = layers.pytorch_init(self.channels)
    output = nn.Dense(1, kernel_init=init, bias_init=init, name="linear")
    return output(layers.at_least_float32(x))[..., 0]
