"""Plain operations of the networks, on arrays (batch, *spatial, channels).

`cpu` has versions of them that are faster on the CPU; `layers` chooses.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

EPSILON = 1e-5


def convolve(
  x: jax.Array, kernel: jax.Array, stride: int, padding: int, dilation: int = 1
) -> jax.Array:
  """Convolution; stride, zero padding and dilation apply to every spatial dimension.

  x is (batch, *spatial, channels in), kernel (*size, channels in, channels out).
  """
  dims = x.ndim - 2
  spatial = "DHW"[3 - dims :]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,) * dims,
    padding=[(padding, padding)] * dims,
    rhs_dilation=(dilation,) * dims,
    dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
  )


def instance_norm(x: jax.Array, mask: jax.Array | None, axes: Sequence[int]):
  """Normalises over `axes` by the mean and biased variance where `mask` is true."""

  def mean(x):
    return jnp.mean(x, tuple(axes), keepdims=True, where=mask)

  centred = x - mean(x)
  return centred * jax.lax.rsqrt(mean(jnp.square(centred)) + EPSILON)
