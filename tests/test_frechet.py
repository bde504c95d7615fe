"""Frechet distance: closed forms, invariances, degenerate sets, intervals."""

import golden
import numpy as np
import pytest
import scipy.linalg

from sdt_jax.errors import UserError
from sdt_jax.evaluation import frechet

GOLDEN = golden.load("metrics")


def features(seed, clips=200, size=32, scale=1.0):
  return scale * np.random.default_rng(seed).normal(size=(clips, size))


def between(a, b):
  return frechet.frechet_distance(*frechet.gaussian(a), *frechet.gaussian(b))


def test_golden():
  mean, logvar = [(GOLDEN[f"{n}_pred"], GOLDEN[f"{n}_gt"]) for n in ("mu", "logvar")]
  assert frechet.ftd(*mean).value == pytest.approx(float(GOLDEN["FTD_mu"]), rel=1e-6)
  both = frechet.ftd_mu_logvar(mean[0], logvar[0], mean[1], logvar[1])
  assert both.value == pytest.approx(float(GOLDEN["FTD_mu_logvar"]), rel=1e-6)


def test_equal_sets_have_distance_0_even_with_fewer_clips_than_dimensions():
  for clips in (2, 10, 200):
    found = frechet.ftd(features(0, clips), features(0, clips))
    assert 0 <= found.value < 1e-10
    assert 0 <= found.high < 1e-10


def test_closed_form_of_diagonal_gaussians():
  rng = np.random.default_rng(0)
  mean1, mean2 = rng.normal(size=(2, 8))
  std1, std2 = rng.random((2, 8))
  std1[0] = std2[1] = 0  # singular, in different directions
  found = frechet.frechet_distance(mean1, np.diag(std1**2), mean2, np.diag(std2**2))
  expected = ((mean1 - mean2) ** 2).sum() + ((std1 - std2) ** 2).sum()
  np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_equals_the_definition_by_a_matrix_root():
  a, b = features(0), features(1, scale=1.5) @ features(2, 32) + 0.3
  (mean1, cov1), (mean2, cov2) = frechet.gaussian(a), frechet.gaussian(b)
  np.testing.assert_allclose(cov2, np.cov(b.T), rtol=1e-9, atol=1e-9)
  root = scipy.linalg.sqrtm(cov1 @ cov2).real
  expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)
  np.testing.assert_allclose(between(a, b), expected, rtol=1e-8)


def test_distance_is_invariant_to_rotation_and_order():
  a, b = features(0), 1.3 * features(1) + 0.2
  rotation = np.linalg.qr(features(2, 32))[0]
  np.testing.assert_allclose(between(a @ rotation, b @ rotation), between(a, b))
  np.testing.assert_allclose(between(b, a), between(a, b))
  shuffled = np.random.default_rng(0).permutation(b)
  np.testing.assert_allclose(between(a, shuffled), between(a, b))


def test_distance_grows_with_noise_and_is_small_between_two_halves():
  truth, noise = features(0, 4000, 8), features(1, 4000, 8)
  distances = [between(truth + s * noise, truth) for s in (0, 0.2, 0.5, 1, 2)]
  assert np.all(np.diff(distances) > 0)
  assert between(truth[:2000], truth[2000:]) < distances[2] / 2


def test_singular_covariances_give_a_real_distance_of_at_least_0():
  a, b = features(0, 5), features(1, 7)
  assert np.isfinite(between(a, b))
  flat = np.zeros((4, 32))
  np.testing.assert_allclose(between(flat, flat + 1), 32)


def test_many_distances_at_once_equal_one_by_one():
  pairs = [(features(i), 1.1 * features(i + 1)) for i in range(3)]
  fits = [(*frechet.gaussian(a), *frechet.gaussian(b)) for a, b in pairs]
  stacked = [np.stack(parts) for parts in zip(*fits, strict=True)]
  expected = [between(a, b) for a, b in pairs]
  np.testing.assert_allclose(frechet.frechet_distance(*stacked), expected)


def test_interval_equals_that_of_resampled_clips():
  """The fast moments from draw counts equal those of each resample."""
  a, b = features(0, 30, 4), features(1, 30, 4) + 0.5
  draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=5)
  means, covs = frechet._resampled(a, draws.astype(float))
  for i, times in enumerate(draws):
    mean, cov = frechet.gaussian(np.repeat(a, times, axis=0))
    np.testing.assert_allclose(means[i], mean, atol=1e-12)
    np.testing.assert_allclose(covs[i], cov, atol=1e-12)
  found = frechet.ftd(a, b)
  assert 0 <= found.low < found.value < found.high
  assert found.num_clips == 30
  assert frechet.ftd(a, b) == found
  assert frechet.ftd(a, b, seed=1) != found


def test_interval_covers_the_distance_of_other_clips():
  """Drawn from the same two distributions, in the same number."""
  results = [
    frechet.ftd(features(2 * i, 60, 4), 1.5 * features(2 * i + 1, 60, 4) + 0.5)
    for i in range(40)
  ]
  expected = np.mean([r.value for r in results])
  assert np.mean([r.low <= expected <= r.high for r in results]) >= 0.8


def test_too_few_or_broken_clips_are_refused():
  with pytest.raises(UserError, match="FTD of 1 clip"):
    frechet.ftd(features(0, 1), features(1, 1))
  with pytest.raises(UserError, match="at least 2"):
    frechet.gaussian(np.zeros((0, 32)))
  broken = features(0)
  broken[3:5, 1] = np.nan
  with pytest.raises(UserError, match="2 of 200 clips are not finite"):
    frechet.ftd(features(0), broken)
  with pytest.raises(ValueError, match="not paired"):
    frechet.ftd(features(0, 10), features(1, 11))
