import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax.models.convolution import conv

# Size of the map, kernel, stride, padding: those of the networks, and odd ones.
CASES = {
  "plain": ((7, 6), (3, 3), 1, 1),
  "halves even": ((8, 6), (4, 4), 2, 1),
  "halves odd": ((9, 7), (4, 4), 2, 1),
  "closes the map": ((10, 8), (6, 3), 1, 0),
  "kernel no multiple of the stride": ((11, 9), (3, 5), 2, 1),
  "stride 3": ((11, 10), (4, 3), 3, 2),
  "rows that no kernel reaches": ((10, 11), (2, 3), 4, 0),
}


def _reference(x, kernel, stride, padding):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _inputs(case, dtype):
  size, kernel, stride, padding = CASES[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), dtype)
  weights = jnp.asarray(rng.normal(size=(*kernel, 3, 5)), dtype)
  shape = jax.eval_shape(lambda: _reference(x, weights, stride, padding)).shape
  gradient = jnp.asarray(rng.normal(size=shape), dtype)
  return x, weights, gradient, stride, padding


def _gradients(convolve, x, weights, gradient, stride, padding):
  y, vjp = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, weights)
  return y, *vjp(gradient)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_lax(case):
  with jax.enable_x64(True):
    inputs = _inputs(case, jnp.float64)
    ours = _gradients(conv, *inputs)
    theirs = _gradients(_reference, *inputs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["halves odd", "closes the map"])
def test_bfloat16_stays_bfloat16(case):
  inputs = _inputs(case, jnp.bfloat16)
  ours = _gradients(conv, *inputs)
  theirs = _gradients(_reference, *inputs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.dtype == jnp.bfloat16
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(b).max())


@pytest.mark.parametrize("case", ["halves odd", "closes the map"])
def test_gradients_under_vmap_in_jit(case):
  x, weights, gradient, stride, padding = _inputs(case, jnp.float32)
  both = jax.jit(
    jax.vmap(
      functools.partial(_gradients, conv, stride=stride, padding=padding),
      in_axes=(0, None, 0),
    )
  )(x[:, None], weights, gradient[:, None])
  y, dx, dk = _gradients(_reference, x, weights, gradient, stride, padding)
  np.testing.assert_allclose(both[0][:, 0], y, atol=1e-4)
  np.testing.assert_allclose(both[1][:, 0], dx, atol=1e-4)
  np.testing.assert_allclose(both[2].sum(0), dk, atol=1e-4)


def test_no_gradient_multiplies_by_zeros_between_rows():
  """What the module is for: the strided layer's gradients have no dilation."""
  x, weights, gradient, stride, padding = _inputs("halves even", jnp.float32)
  function = functools.partial(_gradients, stride=stride, padding=padding)
  inputs = (x, weights, gradient)
  ours, plain = (
    jax.jit(functools.partial(function, f)).lower(*inputs).compile().as_text()
    for f in (conv, _reference)
  )
  assert "_dilate=" in plain
  assert "_dilate=" not in ours
