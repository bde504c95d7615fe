import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax.models import normalization


def _reference(x, axes):
  average = jnp.mean(x, axes, keepdims=True)
  var = jnp.mean(jnp.square(x - average), axes, keepdims=True)
  return (x - average) / jnp.sqrt(var + 1e-5)


@pytest.mark.parametrize(
  ("shape", "axes"), [((2, 5, 7, 3), (1, 2)), ((2, 9, 3), (1,)), ((2, 9, 3), (-1,))]
)
def test_instance_norm_and_its_gradient(shape, axes):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    x = jnp.asarray(rng.normal(3.0, 2.0, shape))
    gradient = jnp.asarray(rng.normal(size=shape))
    ours, theirs = (
      jax.vjp(functools.partial(function, axes=axes), x)
      for function in (normalization.instance_norm, _reference)
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-10)
    np.testing.assert_allclose(ours[1](gradient)[0], theirs[1](gradient)[0], atol=1e-10)


def test_mean_of_a_large_map_is_exact():
  """Of far more values than float32 can add one by one."""
  x = jnp.asarray(np.random.default_rng(0).random((2, 80, 427, 4)) + 10, jnp.float32)
  expected = np.asarray(x, np.float64).mean((1, 2))
  ours = np.asarray(normalization.mean(x, (1, 2)), np.float64)[:, 0, 0]
  np.testing.assert_allclose(ours, expected, rtol=3e-7)
