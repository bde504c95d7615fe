"""Loss terms equal their formulas; gradients near degenerate variances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax.methods import losses

RNG = np.random.default_rng(0)
TEMPLATES = RNG.standard_normal((6, 5)).astype(np.float32) * 0.7 + 0.3


def _naive_template_kl(templates: np.ndarray) -> float:
  """KL of the fitted Gaussian from the standard normal, dimension by dimension."""
  total = 0.0
  for column in templates.astype(np.float64).T:
    mean = sum(column) / len(column)
    var = sum((x - mean) ** 2 for x in column) / (len(column) - 1)
    total += 0.5 * (-np.log(var) + mean**2 + var - 1)
  return total / templates.shape[1]


def test_l1_is_the_mean_absolute_error():
  a, b = RNG.standard_normal((2, 3, 4, *kp.UPPER_BODY.shape))
  assert losses.l1(a, b) == pytest.approx(np.mean(np.abs(a - b)), rel=1e-5)
  assert losses.l1(a, a) == 0


def test_smooth_l1_is_quadratic_up_to_one_and_linear_beyond():
  zeros = np.zeros((1, 1, *kp.UPPER_BODY.shape))
  for error, expected in ((0, 0), (0.5, 0.125), (1, 0.5), (3, 2.5), (-3, 2.5)):
    assert losses.smooth_l1(zeros + error, zeros) == pytest.approx(expected)
    assert losses.mse(zeros + error, zeros) == pytest.approx(error**2)


def test_lips_only_has_a_gradient_at_the_20_points_of_the_lips():
  poses = RNG.standard_normal((2, 3, *kp.UPPER_BODY.shape))
  grads = jax.grad(lambda x: jnp.sum(losses.lips_only(x)))(poses)
  lips = kp.UPPER_BODY.indices(*(f"face_{i}" for i in range(48, 68)))
  expected = np.zeros_like(poses)
  expected[..., lips] = 1
  np.testing.assert_array_equal(grads, expected)


def test_template_kl_is_the_formula_with_frames_as_samples():
  by_frame = RNG.standard_normal((4, 3, 5)).astype(np.float32)
  for templates in (TEMPLATES, by_frame):
    expected = _naive_template_kl(templates.reshape(-1, 5))
    assert losses.template_kl(templates) == pytest.approx(expected, rel=1e-5)


def test_template_kl_is_zero_for_standard_moments():
  # Two points with mean 0 and unbiased variance 1.
  templates = np.array([[0.5**0.5], [-(0.5**0.5)]], np.float32)
  assert losses.template_kl(templates) == pytest.approx(0, abs=1e-6)
  assert losses.template_kl(2 * templates) > 0.1
  assert losses.template_kl(templates + 1) > 0.1


def test_the_gradient_of_template_kl_equals_finite_differences():
  gradient = jax.grad(losses.template_kl)(jnp.asarray(TEMPLATES))
  for row, column in ((0, 0), (3, 2), (5, 4)):
    step = np.zeros_like(TEMPLATES, np.float64)
    step[row, column] = 1e-4
    up, down = (_naive_template_kl(TEMPLATES + s) for s in (step, -step))
    assert gradient[row, column] == pytest.approx((up - down) / 2e-4, rel=1e-3)


@pytest.mark.parametrize("constant", [[0], [0, 1, 2, 3, 4]])
def test_template_kl_is_zero_while_any_variance_is_zero(constant):
  templates = TEMPLATES.copy()
  templates[:, constant] = 0.25  # the float32 mean of this value is exact
  value, gradient = jax.value_and_grad(losses.template_kl)(jnp.asarray(templates))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_a_tiny_variance_gives_a_finite_gradient():
  value, gradient = jax.value_and_grad(losses.template_kl)(
    jnp.asarray(TEMPLATES) * 1e-6
  )
  assert value > 1
  assert np.isfinite(gradient).all()
  assert np.abs(gradient).max() > 0


def test_gaussian_kl_is_the_formula():
  mean, log_var = RNG.standard_normal((2, 3, 4))
  expected = np.mean(0.5 * (np.exp(log_var) + mean**2 - 1 - log_var))
  assert losses.gaussian_kl(mean, log_var) == pytest.approx(expected, rel=1e-5)


def test_gaussian_kl_is_minimal_for_the_standard_normal():
  zero = jnp.zeros((2, 3))
  value, gradients = jax.value_and_grad(losses.gaussian_kl, argnums=(0, 1))(zero, zero)
  assert value == 0
  for gradient in gradients:
    np.testing.assert_array_equal(gradient, 0)
  for mean, log_var in ((0.1, 0), (0, 0.1), (0, -0.1)):
    assert losses.gaussian_kl(zero + mean, zero + log_var) > 0


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_least_squares_is_the_formula(target):
  score = RNG.standard_normal((4, 15))
  expected = np.mean((score - target) ** 2)
  assert losses.least_squares(score, target) == pytest.approx(expected, rel=1e-5)
  assert losses.least_squares(np.full((2, 3), target), target) == 0


def test_frame_distance_is_the_mean_norm_and_flat_where_frames_are_equal():
  codes = RNG.standard_normal((2, 4, 5)).astype(np.float32)
  codes[0, 1] = codes[0, 2]
  norms = [np.linalg.norm(c[t + 1] - c[t]) for c in codes for t in range(3)]
  assert losses.frame_distance(codes) == pytest.approx(np.mean(norms), rel=1e-5)
  grads = jax.grad(losses.frame_distance)(codes)
  assert np.all(np.isfinite(grads))
  still = jax.grad(losses.frame_distance)(np.ones_like(codes))
  np.testing.assert_array_equal(still, 0)
