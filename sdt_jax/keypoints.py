"""Names of the keypoints, and every index map derived from them.

Conventions: a pose array has its coordinates in axis -2 (x, then y, then confidence
where there is one) and its keypoints in axis -1. Pixels, x to the right, y downwards.
Left and right are the person's own.

`KEYPOINTS_137` is the OpenPose layout of the Speech2Gesture data packs: BODY_25, 70
face points, two hands of 21. `KEYPOINTS_121` is what the models see: the upper body
without ears, relative to the neck, which is itself left out.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
  """The joints of a pose. Pose arrays have shape (..., dims, joints).

  Attributes:
    names: of the joints, in the order of the last axis.
    parts: part name -> names of its joints.
    parents: joint -> the joint that its hierarchical coordinates are relative to;
      joints that are not named here stay relative to the origin.
    dims: coordinates of a joint.
  """

  names: tuple[str, ...]
  parts: Mapping[str, tuple[str, ...]]
  parents: Mapping[str, str]
  dims: int

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Joint name -> its place in the last axis."""
    return {name: i for i, name in enumerate(self.names)}

  @property
  def num_joints(self) -> int:
    return len(self.names)

  @property
  def shape(self) -> tuple[int, int]:
    """(dims, joints): the last two axes of a pose array."""
    return self.dims, self.num_joints

  def indices(self, *names: str) -> np.ndarray:
    """Places in the last axis of the joints with these names."""
    return np.array([self.index[name] for name in names])

  def part(self, name: str) -> np.ndarray:
    """Places in the last axis of the joints of a part."""
    return self.indices(*self.parts[name])

  @functools.cached_property
  def parent_index(self) -> np.ndarray:
    """(joints,) place of each joint's parent; its own where it has none."""
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
_FACE_70 = tuple(f"face_{i}" for i in range(70))
_FINGERS = ("thumb", "index", "middle", "ring", "little")
_HAND_21 = ("root", *(f"{f}_{j}" for f in _FINGERS for j in range(1, 5)))
_UPPER_BODY = ("nose", *_BODY_25[2:8], "right_eye", "left_eye")

KEYPOINTS_137 = (
  _BODY_25
  + _FACE_70
  + tuple(f"left_hand_{n}" for n in _HAND_21)
  + tuple(f"right_hand_{n}" for n in _HAND_21)
)
KEYPOINTS_121 = _UPPER_BODY + KEYPOINTS_137[len(_BODY_25) :]


def _parts(names: tuple[str, ...], body: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  prefixed = {
    part: tuple(name for name in names if name.startswith(f"{part}_"))
    for part in ("face", "left_hand", "right_hand")
  }
  return {"body": body, **prefixed}


OPENPOSE = Skeleton(KEYPOINTS_137, _parts(KEYPOINTS_137, _BODY_25), {}, dims=2)
"""The OpenPose layout of the Speech2Gesture data packs."""

_PART_ROOTS = {
  "face": "face_30",
  "left_hand": "left_wrist",
  "right_hand": "right_wrist",
}
_UPPER_BODY_PARTS = _parts(KEYPOINTS_121, _UPPER_BODY)

UPPER_BODY = Skeleton(
  KEYPOINTS_121,
  _UPPER_BODY_PARTS,
  {
    joint: root
    for part, root in _PART_ROOTS.items()
    for joint in _UPPER_BODY_PARTS[part]
    if joint != root
  },
  dims=2,
)
"""What the models see: the upper body without ears, relative to the neck."""

NUM_KEYPOINTS = len(KEYPOINTS_121)

INDEX_137 = {name: i for i, name in enumerate(KEYPOINTS_137)}
INDEX_121 = {name: i for i, name in enumerate(KEYPOINTS_121)}

NECK_137 = INDEX_137["neck"]
FROM_137 = np.array([INDEX_137[name] for name in KEYPOINTS_121])
"""(121,) index into the 137 of each of the 121."""


def indices(*names: str) -> np.ndarray:
  """Indices into the 121 of the keypoints with these names."""
  return np.array([INDEX_121[name] for name in names])


def _starting_with(prefix: str) -> np.ndarray:
  return indices(*(n for n in KEYPOINTS_121 if n.startswith(prefix)))


BODY = indices(*_UPPER_BODY)
FACE = _starting_with("face_")
LEFT_HAND = _starting_with("left_hand_")
RIGHT_HAND = _starting_with("right_hand_")
PARTS = {
  "body": BODY,
  "face": FACE,
  "left_hand": LEFT_HAND,
  "right_hand": RIGHT_HAND,
}

# The tree of the hierarchical pose: each point of a part hangs on the part's root.
FACE_ROOT = INDEX_121["face_30"]
LEFT_WRIST = INDEX_121["left_wrist"]
RIGHT_WRIST = INDEX_121["right_wrist"]

UPPER_INNER_LIP = INDEX_121["face_62"]
LOWER_INNER_LIP = INDEX_121["face_66"]
LEFT_SHOULDER = INDEX_121["left_shoulder"]
RIGHT_SHOULDER = INDEX_121["right_shoulder"]

# What is drawn, as chains of names; "neck" stands for the origin.
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


def finger_chains(side: str) -> dict[str, tuple[str, ...]]:
  """Chains root -> tip of the five fingers of the `side` ("left" or "right") hand."""
  root = f"{side}_hand_root"
  return {f: (root, *(f"{side}_hand_{f}_{j}" for j in range(1, 5))) for f in _FINGERS}
