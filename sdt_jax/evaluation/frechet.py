"""Frechet Template Distance between the distributions of predicted and true motion.

A Gaussian is fitted to the pose VAE's codes of the predicted clips and one to those of
the true clips; the distance is the squared 2-Wasserstein distance of the two,
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
Everything is NumPy in float64. Covariances are unbiased (divided by N - 1), which is
what reproduces the authors' numbers. Between two finite sets the distance is biased
upwards by an amount that falls as 1/N: compare it only for sets of the same size.
"""

import numpy as np
import threadpoolctl

from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics
from sdt_jax.evaluation.metrics import Estimate


def frechet_distance(
  mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> np.ndarray:
  """Squared 2-Wasserstein distance of two Gaussians; never negative.

  Args:
    mean1, mean2: (..., D).
    cov1, cov2: (..., D, D) symmetric, positive semi-definite; may be singular.

  Returns:
    (...,) float64.

  Source: Dowson and Landau, "The Frechet distance between multivariate normal
  distributions" (1982). With C = A A^T, tr (C1 C2)^(1/2) is the sum of the singular
  values of A1^T A2, which needs no root of a product that is not symmetric.
  """
  overlap = np.swapaxes(_factor(cov1), -1, -2) @ _factor(cov2)
  shared = np.linalg.svd(overlap, compute_uv=False).sum(-1)
  traces = np.trace(cov1 + cov2, axis1=-2, axis2=-1)
  distance = np.square(mean1 - mean2).sum(-1) + traces - 2 * shared
  return np.maximum(distance, 0)


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(N, D) features of N clips -> their mean (D,) and unbiased covariance (D, D).

  Raises:
    UserError: there are fewer than two clips, or a feature is not finite.
  """
  features = _checked(features)
  mean = features.mean(0)
  centred = features - mean
  return mean, centred.T @ centred / (len(features) - 1)


def distance_of_clips(features_pred: np.ndarray, features_true: np.ndarray) -> float:
  """FTD without an interval, see `ftd`."""
  distance = frechet_distance(*gaussian(features_pred), *gaussian(features_true))
  return float(distance)


def ftd(
  features_pred: np.ndarray, features_true: np.ndarray, seed: int = 0
) -> Estimate:
  """Frechet Template Distance between predicted and true clips.

  Args:
    features_pred: (N, D) the pose VAE's means of the predicted clips, D = 32; or
      (S, N, D) of S renderings of each. As in the authors' code, the Gaussians are then
      fitted to all S * N predictions and to the truth repeated S times.
    features_true: (N, D) of the truth of the same clips, in the same order: the
      bootstrap draws each clip together with its renderings and its truth.
    seed: for the resampling.

  Raises:
    UserError: there are fewer than two clips, or a feature is not finite.

  Source: Speech Drives Templates (ICCV 2021), section 4.1.
  """
  if features_pred.shape[-2:] != features_true.shape:
    raise ValueError(f"{features_pred.shape} and {features_true.shape} are not paired")
  num_clips, num_features = features_true.shape
  features_pred = _checked(features_pred.reshape(-1, num_features))
  copies = len(features_pred) // num_clips
  features_true = _checked(np.tile(features_true, (copies, 1)))
  value = distance_of_clips(features_pred, features_true)
  draws = np.tile(metrics.bootstrap_draws(num_clips, seed), copies)
  # For thousands of small matrices on a busy machine, BLAS threads wait for each other
  # and take a hundred times as long as a single thread.
  with threadpoolctl.threadpool_limits(1, user_api="blas"):
    resampled = frechet_distance(
      *_resampled(features_pred, draws), *_resampled(features_true, draws)
    )
  return metrics.estimate(value, resampled, num_clips)


def ftd_mu_logvar(
  mean_pred: np.ndarray,
  logvar_pred: np.ndarray,
  mean_true: np.ndarray,
  logvar_true: np.ndarray,
  seed: int = 0,
) -> Estimate:
  """`ftd` on the VAE's means and log variances together: 32 numbers each, D = 64."""
  pred, truth = [mean_pred, logvar_pred], [mean_true, logvar_true]
  return ftd(np.concatenate(pred, -1), np.concatenate(truth, -1), seed)


def _checked(features: np.ndarray) -> np.ndarray:
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise UserError(
      f"FTD of {len(features)} clip: a Gaussian needs at least 2; evaluate more clips"
    )
  bad = int((~np.isfinite(features)).any(1).sum())
  if bad:
    raise UserError(
      f"FTD: the pose VAE's codes of {bad} of {len(features)} clips are not finite; "
      "did a training diverge?"
    )
  return features


def _factor(cov: np.ndarray) -> np.ndarray:
  """A with A A^T = `cov`; eigenvalues that rounding made negative count as 0."""
  eigenvalues, vectors = np.linalg.eigh(cov)
  return vectors * np.sqrt(np.maximum(eigenvalues, 0))[..., None, :]


def _resampled(
  features: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Means (R, D) and covariances (R, D, D) of the clips drawn (R, N) times each."""
  num_clips, centre = len(features), features.mean(0)
  centred = features - centre
  means = draws @ centred / num_clips
  second = np.stack([(centred * times[:, None]).T @ centred for times in draws])
  outer = means[:, :, None] * means[:, None, :]
  return means + centre, (second - num_clips * outer) / (num_clips - 1)
