"""The representations of a pose and the conversions between them.

    keypoints     (..., dims + 1, joints)  `OPENPOSE` joints: image pixels, confidence
    poses_px      (..., dims, joints)      `UPPER_BODY` joints: pixels relative to the
                                           neck (the "global" form)
    hierarchical  (..., dims, joints)      as `poses_px`, but face points relative to
                                           the tip of the nose, hand points relative to
                                           the wrist
    poses_norm    (..., dims, joints)      either form, minus the speaker's mean,
                                           divided by the speaker's std

Poses are drawn and scored as final poses: `poses_px` times the speaker's scale factor,
so that all speakers have the same size. All functions accept NumPy or JAX arrays and
return the same kind.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

if TYPE_CHECKING:
  # Functions return the kind of array that they are given, NumPy or JAX.
  Keypoints: TypeAlias = Any
  Poses: TypeAlias = Any
  Detected: TypeAlias = Any
else:
  _DIMS, _JOINTS = kp.UPPER_BODY.shape
  Keypoints = Shaped[np.ndarray | jax.Array, "..."]  # its shape raises a UserError
  Poses = Float[np.ndarray | jax.Array, f"*batch {_DIMS} {_JOINTS}"]
  Detected = Bool[np.ndarray, f"*batch {_JOINTS}"]

# `hierarchical = poses - has_parent * poses[..., parent]`
_PARENT = kp.UPPER_BODY.parent_index
_HAS_PARENT = (np.arange(len(_PARENT)) != _PARENT).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class PoseTable:
  """Statistics of a speaker's poses in one form (hierarchical or global).

  Attributes:
    mean: (dims, joints) float32, pixels.
    std: (dims, joints) float32, pixels, positive.
    scale_factor: common size / speaker's size; multiplies poses to give final poses.
    hierarchical: the form.
  """

  mean: np.ndarray
  std: np.ndarray
  scale_factor: float
  hierarchical: bool


def from_openpose(keypoints: Keypoints) -> Poses:
  """Keypoints of `OPENPOSE` -> poses of `UPPER_BODY`. Inverse of `to_openpose`.

  Args:
    keypoints: (..., dims + 1, joints) image pixels and confidence, which is ignored
      and may be missing.

  Returns:
    (..., dims, joints) pixels relative to the neck.

  Raises:
    UserError: the last two axes have another shape.
  """
  skeleton, shape = kp.OPENPOSE, tuple(keypoints.shape)
  if shape[-2:] not in {skeleton.shape, skeleton.detection_shape}:
    rows, joints = skeleton.detection_shape
    raise UserError(f"keypoints have shape {shape}, expected (..., {rows}, {joints})")
  xy = keypoints[..., : skeleton.dims, :]
  return xy[..., kp.FROM_OPENPOSE] - xy[..., skeleton.index["neck"], None]


def to_openpose(
  poses_px: np.ndarray, neck_px: tuple[float, float], scale: float = 1.0
) -> np.ndarray:
  """Places poses in an image. Inverse of `from_openpose`; NumPy only.

  Args:
    poses_px: (T, dims, joints) pixels relative to the neck.
    neck_px: position of the neck in the image, in pixels.
    scale: image pixels per pixel of `poses_px`.

  Returns:
    (T, dims + 1, joints) float32 keypoints of `OPENPOSE`. The confidence is 1; joints
    that `UPPER_BODY` does not have are 0, 0, 0.
  """
  keypoints = np.zeros((len(poses_px), *kp.OPENPOSE.detection_shape), np.float32)
  neck = np.asarray(neck_px, np.float32)
  index = kp.OPENPOSE.index["neck"]
  keypoints[:, :-1, kp.FROM_OPENPOSE] = poses_px * scale + neck[:, None]
  keypoints[:, :-1, index] = neck
  keypoints[:, -1, [*kp.FROM_OPENPOSE, index]] = 1
  return keypoints


def to_hierarchical(poses_px: Poses) -> Poses:
  """Global -> hierarchical poses, (..., dims, joints). Inverse of `to_global`."""
  return poses_px - _HAS_PARENT * poses_px[..., _PARENT]


def to_global(hierarchical: Poses) -> Poses:
  """Hierarchical -> global poses, (..., dims, joints). Inverse of `to_hierarchical`."""
  # No parent has a parent itself, so the coordinates of parents are already global.
  return hierarchical + _HAS_PARENT * hierarchical[..., _PARENT]


def normalize(poses: Poses, table: PoseTable) -> Poses:
  """(..., dims, joints) pixels -> zero mean, unit std. Inverse of `denormalize`."""
  return (poses - table.mean) / table.std


def denormalize(poses_norm: Poses, table: PoseTable) -> Poses:
  """(..., dims, joints) normalised -> pixels. Inverse of `normalize`."""
  return poses_norm * table.std + table.mean


def from_global(poses_px: Poses, table: PoseTable) -> Poses:
  """(..., dims, joints) global poses -> normalised poses in the form of `table`."""
  form = to_hierarchical(poses_px) if table.hierarchical else poses_px
  return normalize(form, table)


def to_final(poses_norm: Poses, table: PoseTable) -> Poses:
  """(..., dims, joints) normalised -> final poses, pixels of the common size."""
  poses = denormalize(poses_norm, table)
  if table.hierarchical:
    poses = to_global(poses)
  return poses * table.scale_factor


def from_final(poses_px: Poses, table: PoseTable) -> Poses:
  """Inverse of `to_final`."""
  return from_global(poses_px / table.scale_factor, table)


def detected_with_parent(detected: Detected) -> Detected:
  """(..., joints) bool: whether a joint and its parent, if any, were detected."""
  return detected & detected[..., _PARENT]
