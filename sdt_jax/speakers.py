"""A speaker's pose statistics: what its poses are normalised with.

A table describes one form of the pose (hierarchical or global): mean and std of the
2 x 121 coordinates over the frames of the train split, in pixels relative to the neck,
and the factor that brings the speaker to the common size. The tables of the published
speakers are data (`assets/speaker_stats.json`); a new speaker gets its own from its
train split (`RunningStatistics`).
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax import pose
from sdt_jax.errors import UserError
from sdt_jax.pose import PoseTable

# Shoulder width that the published scale factors bring every speaker's mean pose to.
COMMON_SHOULDER_WIDTH_PX = 316.16084

# Below the precision of a keypoint: keeps a point that never moves from dividing by 0.
MIN_STD_PX = 0.1

_PUBLISHED = pathlib.Path(__file__).parent / "assets" / "speaker_stats.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Speaker:
  """A name with the tables of both forms; some published ones lack `global_`."""

  name: str
  hierarchical: PoseTable
  global_: PoseTable | None

  def table(self, hierarchical: bool) -> PoseTable:
    """The table of that form.

    Raises:
      UserError: there is no table of the global form for this speaker.
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
  """Names of the speakers whose tables were published."""
  return sorted(_published())


def published(name: str) -> Speaker:
  """The published tables of a speaker.

  Raises:
    UserError: no tables were published under this name.
  """
  if name not in _published():
    raise UserError(
      f"speaker {name!r} has no published statistics; known: "
      + ", ".join(published_names())
    )
  return from_json(name, _published()[name], str(_PUBLISHED))


def to_json(speaker: Speaker) -> dict[str, Any]:
  """Plain containers for `json.dumps`; inverse of `from_json`."""
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
    tables: what `to_json` gave.
    where: the file it comes from, for the error message.

  Raises:
    UserError: a field is missing, of the wrong shape, not finite or not positive.
  """
  if not isinstance(tables, dict) or "hierarchical" not in tables:
    raise UserError(
      f"{where}: speaker {name!r} has no 'hierarchical' statistics; restore the file"
    )
  parsed = {
    form: _table_from_json(tables[form], f"{where}: speaker {name!r}, {form}")
    for form in ("hierarchical", "global")
    if form in tables
  }
  return Speaker(name, parsed["hierarchical"], parsed.get("global"))


def _table_from_json(table: Any, where: str) -> PoseTable:
  try:
    mean, std = (
      np.asarray(table[k], np.float32).reshape(2, kp.NUM_KEYPOINTS)
      for k in ("mean", "std")
    )
    scale_factor = float(table["scale_factor"])
  except (KeyError, TypeError, ValueError, OverflowError) as e:
    raise UserError(
      f"{where}: expected mean and std of {2 * kp.NUM_KEYPOINTS} numbers and a "
      f"scale_factor ({type(e).__name__}: {e}); restore the file"
    ) from e
  finite = all(np.isfinite(x).all() for x in (mean, std, scale_factor))
  if not (finite and (std > 0).all() and scale_factor > 0):
    raise UserError(
      f"{where}: mean, std and scale_factor must be finite, the latter two positive"
    )
  return PoseTable(mean, std, scale_factor)


class _Moments:
  """Running count, sum and sum of squares of (..., 2, 121) coordinates."""

  def __init__(self):
    self.count = np.zeros(kp.NUM_KEYPOINTS, np.int64)
    self._sum = np.zeros((2, kp.NUM_KEYPOINTS))
    self._sum_of_squares = np.zeros((2, kp.NUM_KEYPOINTS))

  def add(self, poses: np.ndarray, valid: np.ndarray) -> None:
    poses = np.where(valid[:, None], poses, 0).astype(np.float64)
    self.count += valid.sum(0)
    self._sum += poses.sum(0)
    self._sum_of_squares += np.square(poses).sum(0)

  def table(self, scale_factor: float) -> PoseTable:
    mean = self._sum / self.count
    variance = self._sum_of_squares / self.count - np.square(mean)
    std = np.sqrt(np.maximum(variance, MIN_STD_PX**2))
    return PoseTable(mean.astype(np.float32), std.astype(np.float32), scale_factor)


class RunningStatistics:
  """Statistics of a speaker from its train split, which comes piece by piece.

  Points that were not detected are left out; in the hierarchical form also those whose
  parent was not.
  """

  def __init__(self):
    self._hierarchical, self._global = _Moments(), _Moments()

  def add(self, poses_px: np.ndarray, detected: np.ndarray) -> None:
    """Takes in (T, 2, 121) poses and (T, 121) which of their points count."""
    valid = pose.detected_with_parent(detected)
    self._hierarchical.add(pose.to_hierarchical(poses_px), valid)
    self._global.add(poses_px, detected)

  def speaker(self, name: str) -> Speaker:
    """The statistics so far.

    Raises:
      UserError: some keypoint was never detected, or the shoulders coincide.
    """
    missing = [
      kp.KEYPOINTS_121[i] for i in np.flatnonzero(self._hierarchical.count == 0)
    ]
    if missing:
      more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
      raise UserError(
        f"speaker {name}: never detected in the train split: "
        f"{', '.join(missing[:5])}{more}"
      )
    mean = self._hierarchical.table(1.0).mean
    width = np.linalg.norm(mean[:, kp.LEFT_SHOULDER] - mean[:, kp.RIGHT_SHOULDER])
    if width < 1:
      raise UserError(
        f"speaker {name}: the mean shoulder width is {width:.3f} px; are these poses?"
      )
    scale = COMMON_SHOULDER_WIDTH_PX / float(width)
    return Speaker(name, self._hierarchical.table(scale), self._global.table(scale))


def from_poses(name: str, poses_px: np.ndarray, detected: np.ndarray) -> Speaker:
  """`RunningStatistics` in one go, of (N, 2, 121) frames and (N, 121) bool."""
  statistics = RunningStatistics()
  statistics.add(poses_px, detected)
  return statistics.speaker(name)
