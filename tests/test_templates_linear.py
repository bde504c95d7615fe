"""Regression, closed-form directions and separated directions, by their properties."""

import numpy as np
import pytest

from sdt_jax.templates import linear

RNG = np.random.default_rng(0)


def _data(noise, count=400):
  x = RNG.standard_normal((count, 6)) @ RNG.standard_normal((6, 6))
  weights = RNG.standard_normal((2, 6))
  y = x @ weights.T + 3
  return x, y + noise * y.std(0) * RNG.standard_normal(y.shape), weights


def test_ridge_finds_a_linear_map():
  x, y, weights = _data(noise=0)
  groups = np.arange(len(x)) // 20
  np.testing.assert_allclose(linear.ridge(x, y, groups), weights, rtol=0.05, atol=0.02)
  assert (linear.held_out_r2(x, y, groups) > 0.99).all()
  half = linear.held_out_r2(*_data(noise=1)[:2], groups)
  np.testing.assert_allclose(half, 0.5, atol=0.1)


def test_r2_of_noise_is_not_positive_even_if_rows_of_a_group_are_alike():
  """Neighbouring clips share frames, so a random split would look perfect."""
  groups = np.repeat(np.arange(12), 30)
  x = RNG.standard_normal((12, 8))[groups] + 0.01 * RNG.standard_normal((360, 8))
  y = RNG.standard_normal((12, 1))[groups]
  assert linear.held_out_r2(x, y, groups)[0] < 0.2
  assert linear.held_out_r2(x, y, np.arange(360))[0] > 0.7


def test_one_group_has_no_held_out_score():
  x, y, _ = _data(noise=0)
  assert np.isnan(linear.held_out_r2(x, y, np.zeros(len(x)))).all()
  assert np.isfinite(linear.ridge(x, y, np.zeros(len(x)))).all()


def test_closed_form_directions_are_ordered_by_their_effect_on_the_layer():
  axes = np.linalg.qr(RNG.standard_normal((4, 4)))[0].T
  outputs = np.linalg.qr(RNG.standard_normal((9, 4)))[0]
  weights = outputs @ np.diag([1.0, 5.0, 0.1, 2.0]) @ axes
  vectors, values = linear.closed_form(weights)
  np.testing.assert_allclose(values, [25, 4, 1, 0.01], atol=1e-9)
  overlap = np.abs(vectors @ axes[[1, 3, 0, 2]].T)
  np.testing.assert_allclose(overlap, np.eye(4), atol=1e-7)
  np.testing.assert_allclose(
    np.linalg.norm(weights @ vectors.T, axis=0), np.sqrt(values), atol=1e-7
  )
  assert (vectors[range(4), np.abs(vectors).argmax(1)] > 0).all()


def _length(direction, covariance):
  return np.sqrt(direction @ np.linalg.solve(covariance, direction))


def test_a_separated_direction_moves_one_attribute_only_on_the_shortest_way():
  root = RNG.standard_normal((8, 8))
  covariance = root @ root.T
  moved, held = RNG.standard_normal(8), RNG.standard_normal((3, 8))
  found = linear.separate(moved, held, covariance, longest=np.inf)
  assert moved @ found.direction == pytest.approx(1)
  np.testing.assert_allclose(held @ found.direction, 0, atol=1e-3)
  assert found.length == pytest.approx(_length(found.direction, covariance))
  others = np.linalg.svd(np.concatenate([moved[None], held]))[2][4:]
  for other in others:  # these change no attribute
    for step in (0.01, -0.01):
      longer = _length(found.direction + step * other, covariance)
      assert longer > found.length - 1e-6


def test_attributes_that_the_bank_hardly_separates_are_held_less_strictly():
  covariance = np.eye(2)
  moved, held = np.array([1.0, 0.0]), np.array([[0.9, 0.1]])
  strict = linear.separate(moved, held, covariance, longest=100)
  assert strict.length == pytest.approx(np.hypot(1, 9), rel=1e-3)
  leaks = [abs(held @ strict.direction)[0]]
  for longest in (5, 2, 1.1):
    found = linear.separate(moved, held, covariance, longest)
    assert found.length == pytest.approx(longest, rel=1e-3)
    assert moved @ found.direction == pytest.approx(1)
    leaks.append(abs(held @ found.direction)[0])
  assert leaks == sorted(leaks)
  assert leaks[-1] < 0.9  # of the direction that holds nothing


def test_a_direction_is_never_longer_than_allowed():
  found = linear.separate(np.array([0.1, 0]), np.zeros((0, 2)), np.eye(2), longest=2)
  np.testing.assert_allclose(found.direction, [2, 0], rtol=1e-3)
  assert found.length == pytest.approx(2, rel=1e-3)
  nothing = linear.separate(np.zeros(2), np.ones((1, 2)), np.eye(2), longest=2)
  np.testing.assert_array_equal(nothing.direction, 0)
