"""Pose statistics of speakers, used to normalise their poses.

A table describes one form of the poses (hierarchical or global): the mean and std of
each coordinate over the frames of the train split, in pixels, and the factor that
scales the speaker to the common size. The tables of the published speakers are in
`assets/speaker_stats.json`; they are the work of Qian Shenhan, under the MIT licence
(`assets/LICENSES.md`). Those of a new speaker are computed from the train split
(`RunningStatistics`).
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax import pose
from sdt_jax.errors import UserError
from sdt_jax.pose import PoseTable

# Shoulder width of every speaker's mean pose, once scaled by a published factor.
COMMON_SHOULDER_WIDTH_PX = 316.16084

# Less than the precision of a keypoint; avoids division by 0 where nothing moves.
MIN_STD_PX = 0.1

_PUBLISHED = pathlib.Path(__file__).parent / "assets" / "speaker_stats.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Speaker:
  """The tables of a speaker. Some published speakers have no `global_` table."""

  name: str
  hierarchical: PoseTable
  global_: PoseTable | None

  def table(self, hierarchical: bool) -> PoseTable:
    """The table of the hierarchical or of the global form.

    Raises:
      UserError: this speaker has no table of the global form.
    """
    if hierarchical:
      return self.hierarchical
    if self.global_ is None:
      raise UserError(
        f"speaker {self.name}: no published statistics of global poses; use "
        "hierarchical poses, or train with --config.dataset.statistics=pack"
      )
    return self.global_


@functools.cache
def _published() -> dict[str, Any]:
  return json.loads(_PUBLISHED.read_text())


def published_names() -> list[str]:
  """Names of the speakers with published tables."""
  return sorted(_published())


def published(name: str) -> Speaker:
  """The published tables of a speaker.

  Raises:
    UserError: there are no published tables for this speaker.
  """
  if name not in _published():
    raise UserError(
      f"speaker {name!r} has no published statistics; known: "
      + ", ".join(published_names())
    )
  return from_json(name, _published()[name], str(_PUBLISHED))


def to_json(speaker: Speaker) -> dict[str, Any]:
  """Speaker -> containers for `json.dumps`. Inverse of `from_json`."""
  forms = {"hierarchical": speaker.hierarchical, "global": speaker.global_}
  return {
    form: {
      "mean": table.mean.ravel().tolist(),
      "std": table.std.ravel().tolist(),
      "scale_factor": table.scale_factor,
    }
    for form, table in forms.items()
    if table is not None
  }


def from_json(name: str, tables: Any, where: str) -> Speaker:
  """Inverse of `to_json`.

  Args:
    name: the speaker's name.
    tables: the output of `to_json`.
    where: the file that contains the tables, for error messages.

  Raises:
    UserError: a field is missing, has the wrong shape, or is not finite or positive.
  """
  if not isinstance(tables, dict) or "hierarchical" not in tables:
    raise UserError(
      f"{where}: speaker {name!r} has no 'hierarchical' statistics; restore the file"
    )
  parsed = {
    form: _table_from_json(tables[form], form, f"{where}: speaker {name!r}, {form}")
    for form in ("hierarchical", "global")
    if form in tables
  }
  return Speaker(name, parsed["hierarchical"], parsed.get("global"))


def _table_from_json(table: Any, form: str, where: str) -> PoseTable:
  try:
    shape = kp.UPPER_BODY.shape
    mean, std = (
      np.asarray(table[k], np.float32).reshape(shape) for k in ("mean", "std")
    )
    scale_factor = float(table["scale_factor"])
  except (KeyError, TypeError, ValueError, OverflowError) as e:
    raise UserError(
      f"{where}: mean and std must have {math.prod(kp.UPPER_BODY.shape)} numbers, "
      f"scale_factor must be a number ({type(e).__name__}: {e}); restore the file"
    ) from e
  finite = all(np.isfinite(x).all() for x in (mean, std, scale_factor))
  if not (finite and (std > 0).all() and scale_factor > 0):
    raise UserError(
      f"{where}: mean, std and scale_factor must be finite, std and scale_factor "
      "positive; restore the file"
    )
  return PoseTable(mean, std, scale_factor, form == "hierarchical")


class _Moments:
  """Running count, sum and sum of squares of the coordinates of poses."""

  def __init__(self):
    self.count = np.zeros(kp.UPPER_BODY.num_joints, np.int64)
    self._sum = np.zeros(kp.UPPER_BODY.shape)
    self._sum_of_squares = np.zeros(kp.UPPER_BODY.shape)

  def add(self, poses: np.ndarray, valid: np.ndarray) -> None:
    poses = np.where(valid[:, None], poses, 0).astype(np.float64)
    self.count += valid.sum(0)
    self._sum += poses.sum(0)
    self._sum_of_squares += np.square(poses).sum(0)

  def table(self, scale_factor: float, hierarchical: bool) -> PoseTable:
    mean = self._sum / self.count
    variance = self._sum_of_squares / self.count - np.square(mean)
    std = np.sqrt(np.maximum(variance, MIN_STD_PX**2))
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    return PoseTable(mean, std, scale_factor, hierarchical)


class RunningStatistics:
  """Statistics of a speaker, accumulated over the clips of the train split.

  Points that were not detected are ignored; in the hierarchical form also points whose
  parent was not detected.
  """

  def __init__(self):
    self._hierarchical, self._global = _Moments(), _Moments()

  def add(self, poses_px: np.ndarray, detected: np.ndarray) -> None:
    """Adds poses (T, dims, joints); `detected` (T, joints) bool masks their points."""
    valid = pose.detected_with_parent(detected)
    self._hierarchical.add(pose.to_hierarchical(poses_px), valid)
    self._global.add(poses_px, detected)

  def speaker(self, name: str) -> Speaker:
    """The statistics of all frames added so far.

    Raises:
      UserError: a joint was never detected, or the shoulders coincide.
    """
    never = self._hierarchical.count == 0
    missing = [n for n, m in zip(kp.UPPER_BODY.names, never, strict=True) if m]
    if missing:
      more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
      raise UserError(
        f"speaker {name}: never detected in the train split: "
        f"{', '.join(missing[:5])}{more}"
      )
    mean = self._hierarchical.table(1.0, True).mean
    left, right = mean[:, kp.UPPER_BODY.indices("left_shoulder", "right_shoulder")].T
    width = np.linalg.norm(left - right)
    if width < 1:
      raise UserError(
        f"speaker {name}: the mean shoulder width is {width:.3f} px; are these poses?"
      )
    scale = COMMON_SHOULDER_WIDTH_PX / float(width)
    tables = self._hierarchical.table(scale, True), self._global.table(scale, False)
    return Speaker(name, *tables)


def from_poses(name: str, poses_px: np.ndarray, detected: np.ndarray) -> Speaker:
  """`RunningStatistics` of poses (T, dims, joints) and `detected` (T, joints)."""
  statistics = RunningStatistics()
  statistics.add(poses_px, detected)
  return statistics.speaker(name)
