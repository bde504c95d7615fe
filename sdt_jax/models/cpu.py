"""Versions of `operations` that XLA runs faster on the CPU, with equal results.

Convolution: for the gradients of a strided convolution, XLA multiplies by the zeros
between the rows; for those of an unpadded one, by the zeros around the map. That is two
to four times the work. The derivatives here are those of an equal convolution with
stride 1 and little padding. The forward pass is the plain one, which is fast.

Instance norm: XLA sums over spatial dimensions in a tree of small windows, which takes
seven times as long as multiplying each row of the map by ones.

Derivatives are defined in forward mode and linear in the tangents, so that JAX
transposes them for reverse mode.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from sdt_jax.models import operations


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """`operations.convolve` in 2-D; raises a ValueError for what it does not support."""
  if x.ndim != 4:
    raise ValueError(f"x has shape {x.shape}; give (batch, height, width, channels)")
  for name, value, least in (("stride", stride, 1), ("padding", padding, 0)):
    if not isinstance(value, int) or value < least:
      raise ValueError(f"{name} is {value}; give one integer of at least {least}")
  y = operations.convolve(x, kernel, stride, padding)
  if 0 in y.shape[1:3]:
    raise ValueError(
      f"kernel of shape {kernel.shape} exceeds x of shape {x.shape}, padding {padding}"
    )
  return y


@functools.partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(stride: int, padding: int, primals, tangents):
  x, kernel = primals
  dx, dkernel = tangents
  y = convolve(x, kernel, stride, padding)
  dy = jnp.zeros_like(y)
  if not isinstance(dx, SymbolicZero):
    dy += _with_fast_gradient(dx, kernel, stride, padding)
  if not isinstance(dkernel, SymbolicZero):
    dy += _by_blocks(x, dkernel, stride, padding)
  return y, dy


def _with_fast_gradient(x, kernel, stride: int, padding: int):
  """An equivalent convolution whose gradient for x wastes the least work on zeros."""
  if stride > 1:
    return _by_blocks(x, kernel, stride, padding)
  if padding == 0:
    return _by_rows(x, kernel)
  return operations.convolve(x, kernel, stride, padding)


def _by_blocks(x, kernel, stride: int, padding: int):
  """With stride 1 and no padding: blocks of stride x stride pixels become channels."""
  pads, kernel_pads = [], []
  for pixels, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True):
    blocks = -(-taps // stride)
    blocks_in = (pixels + 2 * padding - taps) // stride + blocks
    # Negative (a crop) if the kernel does not reach the last pixels.
    pads.append((padding, blocks_in * stride - pixels - padding, 0))
    kernel_pads.append((0, blocks * stride - taps, 0))
  none, zero = (0, 0, 0), jnp.zeros((), x.dtype)
  x = jax.lax.pad(x, zero, [none, *pads, none])
  kernel = jax.lax.pad(kernel[None], zero, [none, *kernel_pads, none, none])
  return operations.convolve(
    _blocks_to_channels(x, stride), _blocks_to_channels(kernel, stride)[0], 1, 0
  )


def _blocks_to_channels(x, stride: int):
  """(N, H, W, C, ...) -> (N, H / stride, W / stride, stride * stride * C, ...)."""
  n, height, width, *channels = x.shape
  rows, columns = height // stride, width // stride
  x = x.reshape(n, rows, stride, columns, stride, *channels)
  return x.swapaxes(2, 3).reshape(n, rows, columns, -1, *channels[1:])


def _by_rows(x, kernel):
  """With a kernel of one row: the rows under the original kernel become channels."""
  taps, width, channels, features = kernel.shape
  rows = x.shape[1] - taps + 1
  x = jnp.concatenate([x[:, i : i + rows] for i in range(taps)], axis=-1)
  kernel = kernel.swapaxes(0, 1).reshape(1, width, taps * channels, features)
  return operations.convolve(x, kernel, 1, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def instance_norm(x: jax.Array, mask: jax.Array | None, axes: Sequence[int]):
  """`operations.instance_norm`; raises a ValueError for what it does not support."""
  return _norm_and_scale(x, mask, axes)[0]


@instance_norm.defjvp
def _instance_norm_jvp(axes: Sequence[int], primals, tangents):
  """dy = u - mean(u) - y mean(y u), with u = scale dx.

  Automatic differentiation would take five means. Only the means are negated, because
  XLA would store a negated map.
  """
  x, mask = primals
  y, scale = _norm_and_scale(x, mask, axes)

  def minus_mean(u):
    return _broadcast(-mean(u, mask, axes), x, axes)

  u = scale * tangents[0]
  return y, u + minus_mean(u) + y * minus_mean(y * u)


def _norm_and_scale(x, mask, axes: Sequence[int]):
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"x has dtype {x.dtype}; give floating-point numbers")
  if mask is not None and (mask.dtype != bool or mask.ndim != x.ndim):
    raise ValueError(
      f"mask has dtype {mask.dtype} and shape {mask.shape}; give bool, {x.ndim}-D"
    )
  if not all(-x.ndim <= axis < x.ndim for axis in axes):
    raise ValueError(f"axes are {tuple(axes)}, but x has {x.ndim} dimensions")
  centred = x - mean(x, mask, axes)
  variance = mean(jnp.square(centred), mask, axes)
  scale = jax.lax.rsqrt(variance + operations.EPSILON)
  return centred * scale, scale


def mean(x: jax.Array, mask: jax.Array | None, axes: Sequence[int]) -> jax.Array:
  """Mean over `axes`, kept with length 1, of the values where `mask` is true."""
  if mask is not None:
    # `jnp.mean(where=mask)` would count the mask at the full size of x.
    share = jnp.mean(mask, tuple(axes), x.dtype, keepdims=True)
    return mean(jnp.where(mask, x, 0), None, axes) / share
  if _over_rows(x, axes):
    rows = _row_sums(x) / x.shape[-2]
    return jnp.mean(rows, tuple(axes), keepdims=True).astype(x.dtype)
  return jnp.mean(x, tuple(axes), keepdims=True)


def _broadcast(means, x, axes: Sequence[int]):
  """`means` in the shape of x; the transpose of this is a sum by `_row_sums`."""

  def total(x):
    rows = _row_sums(x) if _over_rows(x, axes) else x
    return jnp.sum(rows, tuple(axes), keepdims=True).astype(x.dtype)

  return jax.linear_transpose(total, x)(means)[0]


def _over_rows(x, axes: Sequence[int]) -> bool:
  return x.ndim - 2 in [axis % x.ndim for axis in axes]


def _row_sums(x):
  """(*batch, length, channels) -> (*batch, 1, channels), as products with ones."""
  *batch, length, _ = x.shape
  every = tuple(range(len(batch)))
  return jax.lax.dot_general(
    jnp.ones((*batch, 1, length), x.dtype),
    x,
    (((x.ndim - 1,), (x.ndim - 2,)), (every, every)),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
