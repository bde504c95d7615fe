"""How well learnt templates predict the hidden ones of the synthetic speaker."""

from typing import NamedTuple

import numpy as np

from sdt_jax.errors import UserError

_RIDGE = 1e-2  # of the features' total variance
_HELD_OUT = 0.25  # of the videos


class ProbeResult(NamedTuple):
  """R^2 on held-out videos: 1 is perfect, 0 is no better than the mean.

  Attributes:
    r2: (K,) for each hidden coordinate.
    chance: mean R^2 with the templates shuffled among the clips.
  """

  r2: np.ndarray
  chance: float


def linear_probe(
  templates: np.ndarray, hidden: np.ndarray, videos: np.ndarray, seed: int = 0
) -> ProbeResult:
  """Ridge regression from learnt to hidden templates, scored on held-out videos.

  Args:
    templates: (N, D) learnt, of the training clips.
    hidden: (N, K) true templates of the same clips.
    videos: (N,) the video of each clip; clips of a video overlap, so the split is by
      video.
    seed: for the split and the shuffling.

  Raises:
    UserError: there are fewer than four videos.
  """
  rng = np.random.default_rng(seed)
  names = rng.permutation(np.unique(videos))
  if len(names) < 4:
    raise UserError(f"the probe needs clips of 4 videos or more, found {len(names)}")
  test = np.isin(videos, names[: max(1, round(_HELD_OUT * len(names)))])
  shuffled = rng.permutation(templates)
  return ProbeResult(
    _held_out_r2(templates, hidden, test),
    float(_held_out_r2(shuffled, hidden, test).mean()),
  )


def _held_out_r2(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
  """(K,) R^2 on the rows `test` of a fit to the others."""
  x_mean, y_mean = x[~test].mean(0), y[~test].mean(0)
  a, b = x[~test] - x_mean, y[~test] - y_mean
  gram = a.T @ a
  ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
  weights = np.linalg.solve(gram + ridge, a.T @ b)
  error = y[test] - y_mean - (x[test] - x_mean) @ weights
  total = y[test] - y[test].mean(0)
  return 1 - np.square(error).sum(0) / np.square(total).sum(0)
