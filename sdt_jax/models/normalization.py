"""Means and instance norm, written so that the CPU spends little on them.

XLA on the CPU sums over spatial dimensions in a tree of small windows, seven times
slower than it multiplies each row of the map with ones.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

EPSILON = 1e-5


def instance_norm(
  x: jax.Array, axes: Sequence[int], mask: jax.Array | None = None
) -> jax.Array:
  """Zero mean and unit (biased) variance over `axes` of each sample, no parameters.

  The statistics are those of what `mask` lets through.
  """
  axes = tuple(axis % x.ndim for axis in axes)
  return _standardize(x, axes) if mask is None else _standardize_masked(x, axes, mask)


def _standardize_masked(x, axes, mask):
  average = _masked_mean(x, axes, mask)
  variance = _masked_mean(jnp.square(x - average), axes, mask)
  return (x - average) * jax.lax.rsqrt(variance + EPSILON)


def _masked_mean(x, axes, mask):
  # `jnp.mean(where=mask)` would count the mask at the full size of `x`.
  share = jnp.mean(mask, axis=axes, keepdims=True)
  return mean(jnp.where(mask, x, 0), axes) / share


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _standardize(x, axes: tuple[int, ...]):
  return _forward(x, axes)[0]


def _forward(x, axes):
  average = mean(x, axes)
  scale = jax.lax.rsqrt(mean(jnp.square(x - average), axes) + EPSILON)
  return (x - average) * scale, (x, average, scale)


def _backward(axes, saved, gradient):
  """Two means, where automatic differentiation takes five."""
  x, average, scale = saved
  y = (x - average) * scale
  along = y * mean(gradient * y, axes)
  return (scale * (gradient - mean(gradient, axes) - along),)


_standardize.defvjp(_forward, _backward)


def mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Mean over `axes`, which stay with length 1; x has channels last."""
  plain = functools.partial(jnp.mean, axis=axes, keepdims=True)
  if x.ndim - 2 not in axes:
    return plain(x)
  return jax.lax.platform_dependent(
    x, cpu=functools.partial(_mean_by_rows, axes=axes), default=plain
  )


def _mean_by_rows(x, axes):
  *batch, length, _ = x.shape
  every = tuple(range(len(batch)))
  sums = jax.lax.dot_general(
    jnp.ones((*batch, 1, length), x.dtype),
    x,
    (((x.ndim - 1,), (x.ndim - 2,)), (every, every)),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  return jnp.mean(sums / length, axis=axes, keepdims=True).astype(x.dtype)
