"""The blocks that every network here is built of.

Conventions: channels last; 2-D maps are (batch, mel, time, channels), 1-D sequences
(batch, time, channels). Parameters and statistics are float32; `dtype` is what
convolutions compute, and blocks hand on, their activations in: None for float32,
bfloat16 to be fast where the hardware has it.

Sequences of a batch may differ in length: `lengths` (batch,) says how many time steps
of each count. The results for those do not depend on the steps that follow, which are
zero in the input and the output of every block. That is for inference: the batch
statistics of training count all steps. Without `lengths` all steps count.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdt_jax.models import convolution
from sdt_jax.models.normalization import EPSILON, instance_norm

NormKind = Literal["bn", "in", "in_star"]
Dtype = Any

_SLOPE = 0.2


class BatchNorm(nn.Module):
  """Batch norm as PyTorch computes it, over all devices of the axis.

  The running variance is unbiased (Flax's own is biased); `momentum` is the weight of
  the new batch, as in PyTorch. With `axis_name` the statistics are those of the global
  batch (SyncBN).
  """

  momentum: float = 0.1
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    features = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (features,))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
    var = self.variable("batch_stats", "var", jnp.ones, (features,))
    if not train:
      return _affine(x, mean.value, var.value, scale, bias)

    # While parameters are made there is no axis to average over.
    axis = None if self.is_initializing() else self.axis_name
    batch_mean = _mean(x, axis)
    batch_var = _mean(jnp.square(x - batch_mean), axis)
    if not self.is_initializing():
      count = x.size // features * (jax.lax.axis_size(axis) if axis else 1)
      unbiased = batch_var * (count / max(count - 1, 1))
      mean.value += self.momentum * (batch_mean - mean.value)
      var.value += self.momentum * (unbiased - var.value)
    return _affine(x, batch_mean, batch_var, scale, bias)


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Mean of each channel over everything else, here and on the other devices."""
  local = jnp.mean(x, axis=tuple(range(x.ndim - 1)))
  return jax.lax.pmean(local, axis_name) if axis_name else local


def _affine(x, mean, var, scale, bias):
  return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias


def time_mask(x: jax.Array, lengths: jax.Array | None) -> jax.Array | None:
  """What counts of (batch, ..., time, channels): bool (batch, 1, ..., time, 1)."""
  if lengths is None:
    return None
  shape = (x.shape[0], *(1,) * (x.ndim - 3), x.shape[-2], 1)
  return (jnp.arange(x.shape[-2]) < lengths[:, None]).reshape(shape)


def cut(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
  """Zeros after the end of each sequence, (batch, ..., time, channels)."""
  mask = time_mask(x, lengths)
  return x if mask is None else jnp.where(mask, x, 0)


class ConvBlock(nn.Module):
  """Convolution without bias, norm, LeakyReLU 0.2.

  Attributes:
    features: channels out.
    kernel: size of the kernel, one number for each spatial dimension.
    stride: of all spatial dimensions.
    padding: zeros on both sides of all spatial dimensions.
    norm: "bn" batch norm; "in" instance norm over the spatial dimensions of each
      channel; "in_star" the same in 2-D, but in 1-D over the channels at each time
      step (IN* of the paper's Table 3).
    axis_name: device axis that batch norm averages over.
    dtype: of the activations, see above.
  """

  features: int
  kernel: Sequence[int]
  stride: int = 1
  padding: int = 1
  norm: NormKind = "bn"
  axis_name: str | None = None
  dtype: Dtype = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, lengths: jax.Array | None = None
  ) -> jax.Array:
    """`lengths` are those of `x`, which is zero after them."""
    spatial = len(self.kernel)
    x = nn.Conv(
      self.features,
      self.kernel,
      strides=(self.stride,) * spatial,
      padding=[(self.padding, self.padding)] * spatial,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
      dtype=self.dtype,
      conv_general_dilated=convolution.for_flax,
      name="conv",
    )(x)
    x = at_least_float32(x)
    lengths = self.lengths_after(lengths)
    if self.norm == "bn":
      x = BatchNorm(axis_name=self.axis_name, name="norm")(x, train)
    elif self.norm == "in_star" and spatial == 1:
      x = instance_norm(x, axes=(-1,))
    else:
      x = instance_norm(x, range(1, 1 + spatial), time_mask(x, lengths))
    x = cut(nn.leaky_relu(x, _SLOPE), lengths)
    return x if self.dtype is None else x.astype(self.dtype)

  def lengths_after(self, lengths: jax.Array | None) -> jax.Array | None:
    """Lengths of what comes out, from those of what goes in."""
    if lengths is None:
      return None
    return (lengths + 2 * self.padding - self.kernel[-1]) // self.stride + 1


def at_least_float32(x: jax.Array) -> jax.Array:
  """`x`, but never in half precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def plain(features: int, **kwargs) -> ConvBlock:
  """1-D block that keeps the length."""
  return ConvBlock(features, kernel=(3,), **kwargs)


def down(features: int, **kwargs) -> ConvBlock:
  """1-D block that halves the length."""
  return ConvBlock(features, kernel=(4,), stride=2, **kwargs)


class OutputConv(nn.Module):
  """The last layer of a network: a 1-D convolution with bias, PyTorch's default init.

  PyTorch draws weight and bias uniformly from +-1 / sqrt(fan in). It computes float32.
  """

  features: int
  kernel: int
  padding: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bound = (self.kernel * x.shape[-1]) ** -0.5

    def uniform(key, shape, dtype=jnp.float32):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Conv(
      self.features,
      (self.kernel,),
      padding=[(self.padding, self.padding)],
      kernel_init=uniform,
      bias_init=uniform,
      name="conv",
    )(at_least_float32(x))


def resize_linear(x: jax.Array, spatial: Sequence[int]) -> jax.Array:
  """Linear resize to `spatial`: half-pixel centres, no antialiasing."""
  shape = (x.shape[0], *spatial, x.shape[-1])
  return jax.image.resize(
    x, shape, "linear", antialias=False, precision=jax.lax.Precision.HIGHEST
  )


def resize_time(
  x: jax.Array,
  size: int,
  lengths: jax.Array | None = None,
  new_lengths: jax.Array | None = None,
) -> jax.Array:
  """(B, T, C) -> (B, size, C) as `resize_linear`; sequence i to `new_lengths[i]`."""
  if lengths is None or new_lengths is None:
    return resize_linear(x, (size,))
  scale, last = (new_lengths / lengths)[:, None], lengths[:, None] - 1
  at = (jnp.arange(size) + 0.5) * (1 / scale) - 0.5  # rounds as jax.image does
  at = jnp.clip(at, 0, last)
  before = jnp.floor(at).astype(int)
  after = jnp.minimum(before + 1, last)
  weight = (at - before)[..., None]
  rows = functools.partial(jnp.take_along_axis, x, axis=1)
  blended = (1 - weight) * rows(before[..., None]) + weight * rows(after[..., None])
  return cut(blended, new_lengths)
