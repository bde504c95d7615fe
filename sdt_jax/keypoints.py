"""The skeletons of this project: joint names, parts, parents and index maps.

Conventions: a pose array has shape (..., dims, joints): the coordinates of a joint (x,
then y) in axis -2, the joints in axis -1. Units are pixels, x to the right, y down.
"Left" and "right" are the person's own left and right.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping

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


_TABLES = json.loads(
  (pathlib.Path(__file__).parent / "assets" / "skeletons.json").read_text()
)
_FACE = tuple(f"face_{i}" for i in range(70))
COCO_18 = tuple(_TABLES["coco_18"])
"""The body of OpenPose's COCO model, its default before BODY_25."""


def finger_chains(side: str) -> dict[str, tuple[str, ...]]:
  """Finger -> joints from the root of the "left" or "right" hand to the fingertip."""
  root, fingers = f"{side}_hand_root", _TABLES["fingers"]
  return {f: (root, *(f"{side}_hand_{f}_{j}" for j in range(1, 5))) for f in fingers}


def _skeleton(body: Iterable[str], roots: Mapping[str, str]) -> Skeleton:
  """Body, face and hands; `roots`: part -> the parent of its other joints."""
  parts = {"body": tuple(body), "face": _FACE}
  for side in ("left", "right"):
    chains = finger_chains(side).values()
    parts[f"{side}_hand"] = tuple(dict.fromkeys(itertools.chain(*chains)))
  parents = {j: root for part, root in roots.items() for j in parts[part] if j != root}
  return Skeleton(tuple(itertools.chain(*parts.values())), parts, parents, dims=2)


OPENPOSE = _skeleton(_TABLES["body_25"], roots={})
"""What OpenPose detects (BODY_25, face, hands): the joints of the data packs."""

UPPER_BODY = _skeleton(
  _TABLES["upper_body"],
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
ARM_CHAIN = tuple(_TABLES["arm_chain"])
FACE_CHAINS = {
  name: tuple(f"face_{i}" for i in points)
  for name, points in _TABLES["face_chains"].items()
}
