"""The skeletons of this project: joint names, parts, parents and index maps.

Conventions: a pose array has shape (..., dims, joints): the coordinates of a joint (x,
then y) in axis -2, the joints in axis -1. Units are pixels, x to the right, y down.
"Left" and "right" are the person's own left and right.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
  """The joints of a pose. Pose arrays have shape (..., dims, joints).

  Attributes:
    names: joint names, in the order of the last axis.
    parts: part name -> names of its joints.
    parents: joint -> the joint that its hierarchical coordinates are relative to. A
      joint without an entry stays relative to the origin.
    dims: number of coordinates per joint.
  """

  names: tuple[str, ...]
  parts: Mapping[str, tuple[str, ...]]
  parents: Mapping[str, str]
  dims: int

  @property
  def num_joints(self) -> int:
    return len(self.names)

  @property
  def shape(self) -> tuple[int, int]:
    """(dims, joints): the last two axes of a pose array."""
    return self.dims, self.num_joints

  @property
  def detection_shape(self) -> tuple[int, int]:
    """(dims + 1, joints): as `shape`, with a last row for the detector's confidence."""
    return self.dims + 1, self.num_joints

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Joint name -> index in the last axis."""
    return {name: i for i, name in enumerate(self.names)}

  def indices(self, *names: str) -> np.ndarray:
    """Indices of the named joints in the last axis."""
    return np.array([self.index[name] for name in names])

  def part(self, name: str) -> np.ndarray:
    """Indices of the joints of a part in the last axis."""
    return self.indices(*self.parts[name])

  @functools.cached_property
  def parent_index(self) -> np.ndarray:
    """(joints,) index of each joint's parent; its own index if it has none."""
    return self.indices(*(self.parents.get(name, name) for name in self.names))


_BODY_25 = (
  "nose",
  "neck",
  "right_shoulder",
  "right_elbow",
  "right_wrist",
  "left_shoulder",
  "left_elbow",
  "left_wrist",
  "mid_hip",
  "right_hip",
  "right_knee",
  "right_ankle",
  "left_hip",
  "left_knee",
  "left_ankle",
  "right_eye",
  "left_eye",
  "right_ear",
  "left_ear",
  "left_big_toe",
  "left_small_toe",
  "left_heel",
  "right_big_toe",
  "right_small_toe",
  "right_heel",
)
_FACE = tuple(f"face_{i}" for i in range(70))
_FINGERS = ("thumb", "index", "middle", "ring", "little")


def finger_chains(side: str) -> dict[str, tuple[str, ...]]:
  """Finger -> joints from the root of the "left" or "right" hand to the fingertip."""
  root = f"{side}_hand_root"
  return {f: (root, *(f"{side}_hand_{f}_{j}" for j in range(1, 5))) for f in _FINGERS}


def _hand(side: str) -> tuple[str, ...]:
  return tuple(dict.fromkeys(itertools.chain(*finger_chains(side).values())))


def _skeleton(body: tuple[str, ...], roots: Mapping[str, str]) -> Skeleton:
  """Body, face and hands; `roots`: part -> the parent of its other joints."""
  parts = {
    "body": body,
    "face": _FACE,
    "left_hand": _hand("left"),
    "right_hand": _hand("right"),
  }
  parents = {
    joint: root
    for part, root in roots.items()
    for joint in parts[part]
    if joint != root
  }
  return Skeleton(tuple(itertools.chain(*parts.values())), parts, parents, dims=2)


OPENPOSE = _skeleton(_BODY_25, roots={})
"""What OpenPose detects (BODY_25, face, hands): the joints of the data packs."""

UPPER_BODY = _skeleton(
  ("nose", *_BODY_25[2:8], "right_eye", "left_eye"),  # [2:8]: both arms
  roots={
    "face": "face_30",  # the tip of the nose
    "left_hand": "left_wrist",
    "right_hand": "right_wrist",
  },
)
"""The joints of the models: no ears, no legs, and no neck, which is the origin."""

FROM_OPENPOSE = OPENPOSE.indices(*UPPER_BODY.names)
"""Index in `OPENPOSE` of each joint of `UPPER_BODY`."""

# Chains of joints to draw as lines. "neck" is the origin of `UPPER_BODY` poses.
ARM_CHAIN = (
  "right_wrist",
  "right_elbow",
  "right_shoulder",
  "neck",
  "left_shoulder",
  "left_elbow",
  "left_wrist",
)


def _face_chain(first: int, last: int, closed: bool = False) -> tuple[str, ...]:
  chain = tuple(f"face_{i}" for i in range(first, last + 1))
  return chain + chain[:1] if closed else chain


FACE_CHAINS = {
  "jaw": _face_chain(0, 16),
  "right_brow": _face_chain(17, 21),
  "left_brow": _face_chain(22, 26),
  "nose_bridge": _face_chain(27, 30),
  "nostrils": _face_chain(31, 35),
  "right_eye": _face_chain(36, 41, closed=True),
  "left_eye": _face_chain(42, 47, closed=True),
  "outer_lip": _face_chain(48, 59, closed=True),
  "inner_lip": _face_chain(60, 67, closed=True),
}
