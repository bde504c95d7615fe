"""2-D convolution whose gradients are as fast on the CPU as the convolution itself.

Conventions: channels last; x (batch, height, width, channels in), kernel (height,
width, channels in, channels out).

XLA on the CPU takes the gradients of a strided convolution by multiplying with the
zeros between the rows, and those of one without padding with the zeros around the map:
two to four times the work. Here these gradients are taken of another convolution with
the same result, which has stride 1 and little margin. Forward passes, and other
devices, use the plain one; so do 1-D convolutions, which gain nothing.
"""

import functools

import jax
import jax.numpy as jnp


def for_flax(x, kernel, strides, padding, **options) -> jax.Array:
  """`conv` as `flax.linen.Conv` calls it, of a layer without groups or dilation."""
  if x.ndim == 4:
    return conv(x, kernel, strides[0], padding[0][0])
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """Convolution; `stride` and zero `padding` are those of both dimensions."""
  return _plain(x, kernel, stride, padding)


def _plain(x, kernel, stride: int, padding: int):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=[(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _forward(x, kernel, stride: int, padding: int):
  return _plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, saved, gradient):
  def plain(x, kernel, gradient):
    _, vjp = jax.vjp(lambda x, k: _plain(x, k, stride, padding), x, kernel)
    return vjp(gradient)

  def reformulated(x, kernel, gradient):
    _, to_x = jax.vjp(lambda x: _for_x(x, kernel, stride, padding), x)
    _, to_kernel = jax.vjp(lambda k: _by_blocks(x, k, stride, padding), kernel)
    return *to_x(gradient), *to_kernel(gradient)

  return jax.lax.platform_dependent(*saved, gradient, cpu=reformulated, default=plain)


conv.defvjp(_forward, _backward)


def _for_x(x, kernel, stride: int, padding: int):
  """`_plain` by the convolution whose gradient of x meets the fewest zeros."""
  if stride > 1:
    return _by_blocks(x, kernel, stride, padding)
  if padding == 0:
    return _by_rows(x, kernel)
  return _plain(x, kernel, stride, padding)


def _by_blocks(x, kernel, stride: int, padding: int):
  """With stride 1 and no padding: blocks of stride x stride pixels become channels."""
  pads, kernel_pads = [], []
  for pixels, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True):
    blocks = -(-taps // stride)
    blocks_in = (pixels + 2 * padding - taps) // stride + blocks
    # Negative, so a crop, where the last pixels are under no kernel.
    pads.append((padding, blocks_in * stride - pixels - padding, 0))
    kernel_pads.append((0, blocks * stride - taps, 0))
  none, zero = (0, 0, 0), jnp.zeros((), x.dtype)
  x = jax.lax.pad(x, zero, [none, *pads, none])
  kernel = jax.lax.pad(kernel[None], zero, [none, *kernel_pads, none, none])
  return _plain(
    _blocks_to_channels(x, stride), _blocks_to_channels(kernel, stride)[0], 1, 0
  )


def _blocks_to_channels(x, stride: int):
  """(N, H, W, C, ...) -> (N, H / stride, W / stride, stride * stride * C, ...)."""
  n, height, width, *channels = x.shape
  rows, columns = height // stride, width // stride
  x = x.reshape(n, rows, stride, columns, stride, *channels)
  return x.swapaxes(2, 3).reshape(n, rows, columns, -1, *channels[1:])


def _by_rows(x, kernel):
  """With a kernel of one row: the rows under the kernel become channels."""
  taps, width, channels, features = kernel.shape
  rows = x.shape[1] - taps + 1
  x = jnp.concatenate([x[:, i : i + rows] for i in range(taps)], axis=-1)
  kernel = kernel.swapaxes(0, 1).reshape(1, width, taps * channels, features)
  return _plain(x, kernel, 1, 0)
