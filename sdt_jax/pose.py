"""What a pose is, and the way between its four forms.

    keypoints_137  (..., 3, 137)  x, y in picture pixels, confidence (OpenPose)
    poses_px       (..., 2, 121)  pixels relative to the neck ("global" form)
    hierarchical   (..., 2, 121)  the same, but face points relative to the nose tip
                                  and hand points relative to their wrist
    poses_norm     (..., 2, 121)  either form, minus the speaker's mean, over its std

Final poses, which are drawn and scored, are `poses_px` times the speaker's scale
factor, so that all speakers have one size. Every function takes NumPy or JAX arrays
and gives back the same kind.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

if TYPE_CHECKING:
  # What goes in, NumPy or JAX, comes out.
  Poses: TypeAlias = Any
  Keypoints: TypeAlias = Any
else:
  Poses = Float[np.ndarray | jax.Array, "*batch 2 121"]
  Keypoints = Shaped[np.ndarray | jax.Array, "..."]  # checked by hand, for users

_NUM_137 = len(kp.KEYPOINTS_137)

# Parent of each keypoint: `hierarchical = poses - has_parent * poses[..., parent]`.
_PARENT = np.arange(kp.NUM_KEYPOINTS)
_PARENT[kp.FACE] = kp.FACE_ROOT
_PARENT[kp.LEFT_HAND] = kp.LEFT_WRIST
_PARENT[kp.RIGHT_HAND] = kp.RIGHT_WRIST
_HAS_PARENT = (np.arange(kp.NUM_KEYPOINTS) != _PARENT).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class PoseTable:
  """Statistics of one form (hierarchical or global) of a speaker's poses.

  Attributes:
    mean: (2, 121) float32, pixels relative to the neck.
    std: (2, 121) float32, pixels, positive.
    scale_factor: common size / speaker's size, times which poses become final.
  """

  mean: np.ndarray
  std: np.ndarray
  scale_factor: float


def from_keypoints_137(keypoints: Keypoints) -> Poses:
  """Upper-body pose relative to the neck.

  Args:
    keypoints: (..., 3 or 2, 137) picture pixels; a third row (confidence) is dropped.

  Returns:
    (..., 2, 121) pixels relative to the neck.

  Raises:
    UserError: the last two axes are not (2 or 3, 137).
  """
  if keypoints.ndim < 2 or keypoints.shape[-2:] not in {(2, _NUM_137), (3, _NUM_137)}:
    raise UserError(
      f"keypoints have shape {tuple(keypoints.shape)}, expected (..., 3, {_NUM_137})"
    )
  xy = keypoints[..., :2, :]
  return xy[..., kp.FROM_137] - xy[..., kp.NECK_137, None]


def to_hierarchical(poses_px: Poses) -> Poses:
  """Global -> hierarchical; inverse of `to_global`. Any (..., 2, 121)."""
  return poses_px - _HAS_PARENT * poses_px[..., _PARENT]


def to_global(hierarchical: Poses) -> Poses:
  """Hierarchical -> global; inverse of `to_hierarchical`. Any (..., 2, 121)."""
  # A parent is never a child, so its own coordinates are already global.
  return hierarchical + _HAS_PARENT * hierarchical[..., _PARENT]


def normalize(poses: Poses, table: PoseTable) -> Poses:
  """(..., 2, 121) pixels -> zero mean, unit std; inverse of `denormalize`."""
  return (poses - table.mean) / table.std


def denormalize(poses_norm: Poses, table: PoseTable) -> Poses:
  """Inverse of `normalize`. Any (..., 2, 121)."""
  return poses_norm * table.std + table.mean


def to_final(poses_norm: Poses, table: PoseTable, hierarchical: bool) -> Poses:
  """What a model predicts -> final poses in pixels of the common speaker size.

  Args:
    poses_norm: (..., 2, 121) normalised poses.
    table: the table they were normalised with.
    hierarchical: the form that `table` describes.
  """
  poses = denormalize(poses_norm, table)
  if hierarchical:
    poses = to_global(poses)
  return poses * table.scale_factor


def to_form(poses_px: Poses, hierarchical: bool) -> Poses:
  """(..., 2, 121) global poses in the form that an experiment trains on."""
  return to_hierarchical(poses_px) if hierarchical else poses_px


def detected_with_parent(
  detected: Bool[np.ndarray, "*batch 121"],
) -> Bool[np.ndarray, "*batch 121"]:
  """(..., 121) bool: of the points whose hierarchical coordinates are meaningful."""
  return detected & detected[..., _PARENT]
