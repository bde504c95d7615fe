"""Every metric, with its direction and unit. A new metric is one line here.

Formulas and sources are in the docstrings of `metrics` and `frechet`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from sdt_jax.evaluation import frechet, metrics
from sdt_jax.evaluation.metrics import Estimate

Better = Literal["lower", "higher", "like the truth"]


class Motion(NamedTuple):
  """S renderings of N clips, and what is computed from them for several metrics.

  Attributes:
    poses_px: final poses (N, T, dims, joints) of each rendering.
    speeds: (S, N, bins) `metrics.hand_speed_histogram`.
    codes: mean and log variance (S, N, D) from a pose VAE; None without one.
  """

  poses_px: Sequence[np.ndarray]
  speeds: np.ndarray
  codes: tuple[np.ndarray, np.ndarray] | None


class Sounds(NamedTuple):
  """What beat metrics need besides motion: audio onsets, and the arms' mean change.

  Attributes:
    onsets: times in seconds, for each clip (`metrics.audio_onsets`).
    mean_change: (4,) `metrics.mean_angle_change` of training clips.
  """

  onsets: list[np.ndarray]
  mean_change: np.ndarray


class Metric(NamedTuple):
  """A metric; exactly one of the `of_` attributes is set.

  Attributes:
    name: in logs and files.
    unit: "" for none.
    better: which values are better.
    of_pair: (poses_px, truth_px) -> (B,), traceable.
    of_normalized: the same for normalised poses in the form of the model.
    of_motion: poses_px -> (B,), traceable; the truth's is reported as `<name>_truth`.
    of_set: (motion, truth, sounds) -> value over all clips; None if it is undefined.
    label: in tables; "" for the name.
    original: its name in the authors' code; "" if it is not there.
  """

  name: str
  unit: str
  better: Better
  of_pair: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  of_normalized: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  of_motion: Callable[[jax.Array], jax.Array] | None = None
  of_set: Callable[[Motion, Motion, Sounds], Estimate | None] | None = None
  label: str = ""
  original: str = ""

  def title(self) -> str:
    """Label, unit and direction, for a table."""
    unit = f" ({self.unit})" if self.unit else ""
    hint = ", higher is better" if self.better == "higher" else ""
    return f"{self.label or self.name}{unit}{hint}"


def _beats(motion: Motion, truth: Motion, sounds: Sounds) -> Estimate:
  renderings = [metrics.bc_ha2g(poses_px, *sounds) for poses_px in motion.poses_px]
  beats, weights = (np.stack(arrays) for arrays in zip(*renderings, strict=True))
  weight = weights.sum(0)
  per_clip = (beats * weights).sum(0) / np.maximum(weight, 1)  # weights are counts
  return metrics.summarize({"beats": per_clip}, {"beats": weight})["beats"]


def _hellinger(motion: Motion, truth: Motion, sounds: Sounds) -> Estimate:
  return metrics.hellinger_speed(motion.speeds.sum(0), truth.speeds.sum(0))


def _ftd(motion: Motion, truth: Motion, sounds: Sounds) -> Estimate | None:
  if motion.codes and truth.codes:
    return frechet.ftd(motion.codes[0], truth.codes[0][0])


def _ftd_mu_logvar(motion: Motion, truth: Motion, sounds: Sounds) -> Estimate | None:
  if motion.codes and truth.codes:
    return frechet.ftd_mu_logvar(*motion.codes, *(code[0] for code in truth.codes))


_LIKE: Better = "like the truth"
_PCK = functools.partial(metrics.pck, alpha=0.2)

METRICS = (
  Metric("l2", "px", "lower", of_pair=metrics.l2, label="L2", original="L2_dist"),
  Metric(
    "l1_regression",
    "std",
    "lower",
    of_normalized=metrics.l1_regression,
    label="L1",
    original="G_reg_loss",
  ),
  Metric(
    "lip_sync",
    "",
    "lower",
    of_pair=metrics.lip_sync,
    label="lip-sync error",
    original="lip_sync_error_n",
  ),
  Metric("pck@0.2", "", "higher", of_pair=_PCK, label="PCK@0.2"),
  Metric("lvd", "px/s", "lower", of_pair=metrics.lvd, label="LVD"),
  Metric(
    "diversity_l1", "px", _LIKE, of_motion=metrics.diversity_l1, label="diversity"
  ),
  Metric("acceleration", "px/s²", _LIKE, of_motion=metrics.acceleration),
  Metric("jerk", "px/s³", _LIKE, of_motion=metrics.jerk),
  Metric("bone_length_cv", "", _LIKE, of_motion=metrics.bone_length_cv),
  Metric("bc_ha2g", "", "higher", of_set=_beats, label="beat consistency"),
  Metric("hellinger_speed", "", "lower", of_set=_hellinger, label="Hellinger, hands"),
  Metric("ftd", "", "lower", of_set=_ftd, label="FTD", original="FGD_mu"),
  Metric(
    "ftd_mu_logvar",
    "",
    "lower",
    of_set=_ftd_mu_logvar,
    label="FTD, mean+log var",
    original="FGD_mu_logvar",
  ),
)

ORIGINAL_NAMES = {m.name: m.original for m in METRICS if m.original}
"""Name of a metric -> its name in the logs of the authors' code."""


def per_clip(
  poses_px: jax.Array, truth_px: jax.Array, poses_norm: jax.Array, truth_norm: jax.Array
) -> dict[str, jax.Array]:
  """Every metric that is defined for a single clip.

  Args:
    poses_px: (B, T, dims, joints) final poses, T >= 4.
    truth_px: the same for the truth.
    poses_norm, truth_norm: the same poses, normalised, in the form of the model.

  Returns:
    name -> (B,).
  """
  values = {}
  for metric in METRICS:
    if metric.of_pair:
      values[metric.name] = metric.of_pair(poses_px, truth_px)
    elif metric.of_normalized:
      values[metric.name] = metric.of_normalized(poses_norm, truth_norm)
    elif metric.of_motion:
      values[metric.name] = metric.of_motion(poses_px)
      values[f"{metric.name}_truth"] = metric.of_motion(truth_px)
  return values


def over_clips(motion: Motion, truth: Motion, sounds: Sounds) -> dict[str, Estimate]:
  """Every defined metric of the whole set of clips."""
  values = {m.name: m.of_set(motion, truth, sounds) for m in METRICS if m.of_set}
  return {name: value for name, value in values.items() if value is not None}
