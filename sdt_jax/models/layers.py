"""Building blocks of the networks.

Arrays are channels-last: 2-D maps are (batch, mel, time, channels), 1-D sequences
(batch, time, channels). Parameters and statistics are float32. `dtype` is the type in
which convolutions compute and blocks return their activations: None for float32, or
bfloat16 for speed on hardware that supports it.

The sequences of a batch may differ in length: `lengths` (batch,) is the number of valid
time steps of each. Every block takes and returns zeros after these, so padding does not
affect the results for the valid steps. This is for inference: in training, the batch
statistics include all steps. Without `lengths`, all steps are valid.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from sdt_jax.models import cpu, operations

Dtype = Any

SLOPE = 0.2
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _choose(plain: Callable[..., jax.Array], on_cpu: Callable[..., jax.Array]):
  """An operation on arrays: `on_cpu` if it runs on a CPU, `plain` on other devices."""

  def operation(*arrays: jax.Array | None, **options) -> jax.Array:
    return jax.lax.platform_dependent(
      *arrays,
      cpu=functools.partial(on_cpu, **options),
      default=functools.partial(plain, **options),
    )

  return operation


convolve_2d = _choose(operations.convolve, cpu.convolve)
instance_norm = _choose(operations.instance_norm, cpu.instance_norm)


class BatchNorm(nn.Module):
  """Batch norm as PyTorch computes it.

  The running variance is unbiased (in `flax.linen.BatchNorm` it is biased). `momentum`
  is the weight of the new batch, as in PyTorch. With `axis_name`, the statistics are
  those of the global batch (SyncBN).
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

    # `init` runs outside the device axis.
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
  """Mean of each channel over all other axes, and over the devices of `axis_name`."""
  local = jnp.mean(x, axis=tuple(range(x.ndim - 1)))
  return jax.lax.pmean(local, axis_name) if axis_name else local


def _affine(x, mean, var, scale, bias):
  return (x - mean) * (jax.lax.rsqrt(var + operations.EPSILON) * scale) + bias


class GroupNorm(nn.Module):
  """Group norm as PyTorch computes it: over the spatial dimensions and a group."""

  num_groups: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x (batch, *spatial, channels); `mask` as `time_mask` returns it."""
    features = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (features,))
    bias = self.param("bias", nn.initializers.zeros, (features,))
    groups = x.reshape(*x.shape[:-1], self.num_groups, features // self.num_groups)
    mask = None if mask is None else mask[..., None]
    axes = (*range(1, x.ndim - 1), x.ndim)
    return operations.instance_norm(groups, mask, axes).reshape(x.shape) * scale + bias


def time_mask(x: jax.Array, lengths: jax.Array | None) -> jax.Array | None:
  """Valid steps of x (batch, ..., time, channels): bool (batch, 1, ..., time, 1)."""
  if lengths is None:
    return None
  shape = (x.shape[0], *(1,) * (x.ndim - 3), x.shape[-2], 1)
  return (jnp.arange(x.shape[-2]) < lengths[:, None]).reshape(shape)


def mask_after(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
  """x (batch, ..., time, channels) with zeros after the end of each sequence."""
  mask = time_mask(x, lengths)
  return x if mask is None else jnp.where(mask, x, 0)


class _Conv(nn.Module):
  """Convolution without bias; see `ConvBlock` for the attributes."""

  features: int
  kernel: Sequence[int]
  stride: int
  padding: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", KERNEL_INIT, shape, jnp.float32)
    x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
    if len(self.kernel) == 1:
      return operations.convolve(x, kernel, self.stride, self.padding)
    return convolve_2d(x, kernel, stride=self.stride, padding=self.padding)


class ConvBlock(nn.Module):
  """Convolution without bias, norm, LeakyReLU with slope 0.2.

  Attributes:
    features: number of output channels.
    kernel: size of the kernel in each spatial dimension.
    stride: the same in all spatial dimensions.
    padding: number of zeros on each side of all spatial dimensions.
    norm: "bn" is batch norm; "in" is instance norm over the spatial dimensions;
      "in_star" is the same in 2-D, but in 1-D it normalises over the channels at each
      time step (IN* in Table 3 of the paper); "gn16" is group norm with 16 groups.
    axis_name: device axis over which batch norm averages.
    dtype: see the module's docstring.
  """

  features: int
  kernel: Sequence[int]
  stride: int = 1
  padding: int = 1
  norm: str = "bn"
  axis_name: str | None = None
  dtype: Dtype = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, lengths: jax.Array | None = None
  ) -> jax.Array:
    """`lengths` are those of `x`, which is zero after them."""
    x = _Conv(
      self.features, self.kernel, self.stride, self.padding, self.dtype, name="conv"
    )(x)
    x = at_least_float32(x)
    lengths = self.lengths_after(lengths)
    if self.norm == "bn":
      x = BatchNorm(axis_name=self.axis_name, name="norm")(x, train)
    elif self.norm == "in_star" and len(self.kernel) == 1:
      x = instance_norm(x, None, axes=(-1,))
    elif self.norm.startswith("gn"):
      groups = int(self.norm.removeprefix("gn"))
      x = GroupNorm(groups, name="norm")(x, time_mask(x, lengths))
    else:
      x = instance_norm(x, time_mask(x, lengths), axes=range(1, x.ndim - 1))
    x = mask_after(nn.leaky_relu(x, SLOPE), lengths)
    return x if self.dtype is None else x.astype(self.dtype)

  def lengths_after(self, lengths: jax.Array | None) -> jax.Array | None:
    """Lengths of the output sequences, given those of the input."""
    if lengths is None:
      return None
    return (lengths + 2 * self.padding - self.kernel[-1]) // self.stride + 1


class LinearBlock(nn.Module):
  """Linear layer without bias, batch norm over all but the last axis, ReLU.

  The attributes are those of `ConvBlock`.
  """

  features: int
  axis_name: str | None = None
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    linear = nn.Dense(
      self.features,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=KERNEL_INIT,
      name="fc",
    )
    x = at_least_float32(linear(x))
    x = nn.relu(BatchNorm(axis_name=self.axis_name, name="norm")(x, train))
    return x if self.dtype is None else x.astype(self.dtype)


def at_least_float32(x: jax.Array) -> jax.Array:
  """Casts half precision to float32; leaves float32 and float64 unchanged."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def plain(features: int, **kwargs) -> ConvBlock:
  """1-D block that keeps the length."""
  return ConvBlock(features, kernel=(3,), **kwargs)


def down(features: int, **kwargs) -> ConvBlock:
  """1-D block that halves the length."""
  return ConvBlock(features, kernel=(4,), stride=2, **kwargs)


class OutputConv(nn.Module):
  """Last layer of a network: a 1-D convolution with bias, computed in float32."""

  features: int
  kernel: int
  padding: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = pytorch_init(self.kernel * x.shape[-1])
    return nn.Conv(
      self.features,
      (self.kernel,),
      padding=[(self.padding, self.padding)],
      kernel_init=init,
      bias_init=init,
      name="conv",
    )(at_least_float32(x))


def pytorch_init(fan_in: int) -> Callable[..., jax.Array]:
  """PyTorch's default for weight and bias: uniform in +-1 / sqrt(fan in)."""
  bound = fan_in**-0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return uniform


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
  """Resizes (B, T, C) to (B, size, C) as `resize_linear` does.

  With lengths, sequence i is resized from `lengths[i]` to `new_lengths[i]` steps.
  """
  if lengths is None or new_lengths is None:
    return resize_linear(x, (size,))
  scale, last = (new_lengths / lengths)[:, None], lengths[:, None] - 1
  at = (jnp.arange(size) + 0.5) * (1 / scale) - 0.5  # rounded as in jax.image
  at = jnp.clip(at, 0, last)
  before = jnp.floor(at).astype(int)
  after = jnp.minimum(before + 1, last)
  weight = (at - before)[..., None]
  rows = functools.partial(jnp.take_along_axis, x, axis=1)
  blended = (1 - weight) * rows(before[..., None]) + weight * rows(after[..., None])
  return mask_after(blended, new_lengths)
