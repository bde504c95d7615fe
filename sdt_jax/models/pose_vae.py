"""The pose VAE: a clip of poses <-> its template."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdt_jax import keypoints as kp
from sdt_jax.models import layers

# The decoder starts from two frames and doubles their number five times.
_SEED_FRAMES = 2
_DOUBLINGS = 5


class PoseEncoder(nn.Module):
  """A clip of poses -> mean and log variance of its template."""

  channels: int = 256
  size: int = 32
  axis_name: str | None = None
  dtype: layers.Dtype = None
  norm: str = "bn"

  @nn.compact
  def __call__(self, poses: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """(B, T >= 32, dims, joints) normalised poses -> mean, log variance: (B, size)."""
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    x = poses.reshape(*poses.shape[:2], -1)
    for i in range(2):
      x = layers.plain(self.channels, name=f"block{i}", **options)(x, train)
    for i in range(2, 6):
      x = layers.down(self.channels, name=f"block{i}", **options)(x, train)
    x = layers.down(2 * self.size, name="block6", **options)(x, train)
    code = layers.at_least_float32(x[:, 0])
    return code[:, 0::2], code[:, 1::2]


class PoseDecoder(nn.Module):
  """A template -> a clip of 64 frames."""

  channels: int = 256
  axis_name: str | None = None
  dtype: layers.Dtype = None
  norm: str = "bn"
  pose_shape: tuple[int, int] = kp.UPPER_BODY.shape

  @nn.compact
  def __call__(self, template: jax.Array, train: bool) -> jax.Array:
    """(B, size) -> (B, 64, dims, joints) normalised poses."""
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    x = jnp.repeat(template[:, None], _SEED_FRAMES, axis=1)
    for i in range(_DOUBLINGS, 0, -1):
      x = layers.resize_linear(x, (2 * x.shape[1],))
      x = layers.plain(self.channels, name=f"d{i}", **options)(x, train)
    for i in range(4):
      x = layers.plain(self.channels, name=f"block{i}", **options)(x, train)
    x = layers.OutputConv(math.prod(self.pose_shape), kernel=1, name="output")(x)
    return x.reshape(*x.shape[:2], *self.pose_shape)


class PoseVAE(nn.Module):
  """Encoder and decoder; the template is sampled from the encoder's Gaussian.

  Attributes:
    channels: number of channels in all blocks but the encoder's last.
    size: dimension of the template.
    axis_name: device axis over which batch norm averages.
    dtype: type of the activations, see `layers`.
    norm: see `layers.ConvBlock`; the original's is "bn".
    pose_shape: (dims, joints) of the poses.
  """

  channels: int = 256
  size: int = 32
  axis_name: str | None = None
  dtype: layers.Dtype = None
  norm: str = "bn"
  pose_shape: tuple[int, int] = kp.UPPER_BODY.shape

  def setup(self):
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    self.encoder = PoseEncoder(self.channels, self.size, **options)
    self.decoder = PoseDecoder(self.channels, pose_shape=self.pose_shape, **options)

  def __call__(
    self, poses: jax.Array, noise: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Encodes, samples a template and decodes it.

    Args:
      poses: (B, 64, dims, joints) normalised poses.
      noise: (B, size) standard normal noise of the reparameterisation.
      train: batch norm uses (and records) the statistics of this batch.

    Returns:
      poses (B, 64, dims, joints), mean (B, size), log variance (B, size).
    """
    mean, log_var = self.encoder(poses, train)
    template = mean + noise * jnp.exp(0.5 * log_var)
    return self.decoder(template, train), mean, log_var

  def encode(self, poses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance (B, size), computed with the running statistics."""
    return self.encoder(poses, train=False)

  def decode(self, template: jax.Array) -> jax.Array:
    """(B, size) -> (B, 64, dims, joints), computed with the running statistics."""
    return self.decoder(template, train=False)
