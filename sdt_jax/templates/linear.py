"""Linear algebra of templates: regression, closed-form and separated directions.

Rows are clips or directions; a template has D numbers, a clip K attributes.
"""

from typing import NamedTuple

import numpy as np

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, relative to the mean variance of the inputs."""

_FOLDS = 5
_SOFTNESS = (1e-6, 1e6)  # range of s in `separate`


def ridge(
  x: np.ndarray, y: np.ndarray, groups: np.ndarray, intercept: bool = True
) -> np.ndarray:
  """Ridge regression; each output has its own strength, by cross-validation.

  Args:
    x: (N, D) inputs.
    y: (N, K) outputs.
    groups: (N,) rows of a group are left out together, such as clips of a recording.
    intercept: whether the means are removed first.

  Returns:
    (K, D) weights.
  """
  scores = [
    r2(y, _left_out(x, y, groups, intercept, [s] * y.shape[1])) for s in _STRENGTHS
  ]
  best = np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=0)
  return _fit(x, y, intercept, np.array(_STRENGTHS)[best])


def held_out_r2(
  x: np.ndarray, y: np.ndarray, groups: np.ndarray, intercept: bool = True
) -> np.ndarray:
  """(K,) R^2 of `ridge` on groups that it has not seen; NaN with one group."""
  return r2(y, _left_out(x, y, groups, intercept, None))


def r2(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """(K,) 1 is perfect, 0 is no better than the mean."""
  error = np.square(y - predicted).sum(0)
  total = np.square(y - y.mean(0)).sum(0)
  return 1 - error / np.maximum(total, np.finfo(float).tiny)


def _left_out(x, y, groups, intercept, strengths) -> np.ndarray:
  """(N, K) predictions of fits to the other folds; None: strengths of `ridge`."""
  names = np.random.default_rng(0).permutation(np.unique(groups))
  predicted = np.full(y.shape, np.nan)
  if len(names) < 2:
    return predicted
  for fold in np.array_split(names, min(_FOLDS, len(names))):
    out = np.isin(groups, fold)
    rest = x[~out], y[~out]
    if strengths is None:
      weights = ridge(*rest, groups[~out], intercept)
    else:
      weights = _fit(*rest, intercept, strengths)
    x_mean, y_mean = (a.mean(0) if intercept else 0 for a in rest)
    predicted[out] = (x[out] - x_mean) @ weights.T + y_mean
  return predicted


def _fit(x, y, intercept, strengths) -> np.ndarray:
  if intercept:
    x, y = x - x.mean(0), y - y.mean(0)
  values, vectors = np.linalg.eigh(x.T @ x)
  scale = max(values.mean(), np.finfo(float).tiny)
  inverse = 1 / (values[:, None] + scale * np.asarray(strengths))  # (D, K)
  return (vectors @ (inverse * (vectors.T @ (x.T @ y)))).T


def closed_form(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Closed-form factorisation of a layer (Shen and Zhou, 2021; section 4.3).

  Args:
    weights: A (outputs, D), the layer as a linear map of the template.

  Returns:
    Unit eigenvectors (D, D) of A^T A as rows, and their eigenvalues (D,), largest
    first. The largest number of each vector is positive.
  """
  values, vectors = np.linalg.eigh(weights.T @ weights)
  rows = vectors.T[::-1]
  largest = np.abs(rows).argmax(1)
  signs = np.sign(np.take_along_axis(rows, largest[:, None], 1))
  return rows * signs, np.maximum(values[::-1], 0)


class Separated(NamedTuple):
  """A direction (D,), and its length in standard deviations of the bank."""

  direction: np.ndarray
  length: float


def separate(
  moved: np.ndarray, held: np.ndarray, covariance: np.ndarray, longest: float
) -> Separated:
  """The direction that moves one attribute by 1 and holds others.

  It is d = C H^T (H C H^T)^-1 e: the shortest one, measured by the covariance C of the
  bank, with w d = 1 and H d = 0 for the others. Where attributes cannot be told apart,
  that leaves the bank. If it is longer than `longest`, the others are held less
  strictly: d minimises d^T C^-1 d + sum (H d)^2 / s, with the smallest possible s. If
  even the direction that holds nothing is too long, it is cut, and moves by less.

  Args:
    moved: w (D,), the attribute in standard deviations per unit of the template.
    held: H (n, D), the others, in the same way.
    covariance: C (D, D).
    longest: in standard deviations of the bank.
  """
  rows = np.concatenate([moved[None], held])
  spread = rows @ covariance @ rows.T
  if spread[0, 0] < np.finfo(float).tiny:
    return Separated(np.zeros_like(moved), 0.0)
  soft = np.diag(np.arange(len(rows)) > 0).astype(float)

  def solve(softness: float) -> Separated:
    weights = np.linalg.solve(spread + softness * soft, np.eye(len(rows))[0])
    length = float(np.sqrt(max(weights @ spread @ weights, 0)))
    return Separated(covariance @ rows.T @ weights, length)

  low, high = np.log(_SOFTNESS)
  if (strict := solve(np.exp(low))).length <= longest:
    return strict
  for _ in range(50):
    middle = (low + high) / 2
    fits = solve(np.exp(middle)).length <= longest
    low, high = (low, middle) if fits else (middle, high)
  direction, length = solve(np.exp(high))
  cut = min(1.0, longest / length)
  return Separated(cut * direction, cut * length)
