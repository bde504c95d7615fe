"""What a clip looks like in numbers: hands, head, shoulders, energy.

Poses are final poses (..., T, dims, joints): pixels relative to the neck, y down. Any
scale works: lengths are divided by the clip's mean distance between the shoulders.
"Left" and "right" are the person's own left and right.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.audio import FPS

_FINGERS = ("index", "middle", "ring", "little")
_SIDES = {"left": 1.0, "right": -1.0}  # direction of "outward" along x


class Attribute(NamedTuple):
  """One number of a clip.

  Attributes:
    meaning: for tables; what a larger number means.
    unit: "sw" is the distance between the shoulders.
    parts: attributes whose mean it is; empty for one that is measured itself.
  """

  meaning: str
  unit: str
  parts: tuple[str, ...] = ()


ATTRIBUTES: Mapping[str, Attribute] = {
  "hands_high": Attribute(
    "both wrists higher", "sw", ("left_hand_high", "right_hand_high")
  ),
  "left_hand_high": Attribute("left wrist higher; 0 is the neck", "sw"),
  "right_hand_high": Attribute("right wrist higher; 0 is the neck", "sw"),
  "hands_wide": Attribute(
    "both wrists further out", "sw", ("left_hand_wide", "right_hand_wide")
  ),
  "left_hand_wide": Attribute("left wrist further to the left; 0 is the neck", "sw"),
  "right_hand_wide": Attribute("right wrist further to the right; 0 is the neck", "sw"),
  "energy": Attribute("faster wrists, mean of both", "sw/s"),
  "hands_open": Attribute("straighter fingers, from 0 to 1, mean of both hands", "1"),
  "head_turn": Attribute(
    "head turned to the left: place of the nose between the sides of the face", "1"
  ),
  "head_tilt": Attribute("head tilted to the left: angle of the eyes", "deg"),
  "lean": Attribute("left shoulder lower: angle of the shoulders", "deg"),
  "symmetry": Attribute(
    "wrists closer to mirror images of each other; 0 is the most", "sw"
  ),
}
"""Name -> what it is. The order of columns everywhere."""

MEASURED = tuple(name for name, a in ATTRIBUTES.items() if not a.parts)
"""Attributes that are measured; the others are means of some of these."""


def measure(poses_px: np.ndarray) -> np.ndarray:
  """The attributes of clips.

  Args:
    poses_px: (..., T, dims, joints) final poses, T at least 2.

  Returns:
    (..., K) float64, one column for each of `ATTRIBUTES`.
  """
  poses = np.asarray(poses_px, np.float64)
  left, right = (_joint(poses, f"{side}_shoulder") for side in _SIDES)
  width = np.linalg.norm(left - right, axis=-1).mean(-1)
  wrists = {  # (..., T, 2) in shoulder widths: outward, up
    side: _joint(poses, f"{side}_wrist") / width[..., None, None] * (outward, -1)
    for side, outward in _SIDES.items()
  }
  values = {
    "energy": np.mean([_speed(wrist) for wrist in wrists.values()], 0),
    "hands_open": np.mean([_openness(poses, side) for side in _SIDES], 0),
    "head_turn": _head_turn(poses),
    "head_tilt": _angle(_joint(poses, "left_eye") - _joint(poses, "right_eye")),
    "lean": _angle(left - right),
    "symmetry": -np.linalg.norm(wrists["left"] - wrists["right"], axis=-1).mean(-1),
  }
  for side, wrist in wrists.items():
    values[f"{side}_hand_wide"], values[f"{side}_hand_high"] = np.moveaxis(
      wrist.mean(-2), -1, 0
    )
  return np.stack([values[name] for name in MEASURED], -1) @ combination().T


def combination() -> np.ndarray:
  """(K, M): `ATTRIBUTES` as means of the `MEASURED` ones."""
  rows = [[name in (a.parts or (n,)) for name in MEASURED] for n, a in _items()]
  return np.array(rows, float) / np.sum(rows, 1, keepdims=True)


def _items():
  return ATTRIBUTES.items()


def _joint(poses: np.ndarray, name: str) -> np.ndarray:
  """(..., T, dims)"""
  return poses[..., kp.UPPER_BODY.index[name]]


def _speed(wrist: np.ndarray) -> np.ndarray:
  return np.linalg.norm(np.diff(wrist, axis=-2), axis=-1).mean(-1) * FPS


def _angle(vector: np.ndarray) -> np.ndarray:
  """Mean over time, in degrees; positive if it points down."""
  return np.degrees(np.arctan2(vector[..., 1], vector[..., 0])).mean(-1)


def _openness(poses: np.ndarray, side: str) -> np.ndarray:
  """Distance from the first to the last joint of a finger over the length between."""
  chains = kp.finger_chains(side)
  ratios = []
  for finger in _FINGERS:
    points = poses[..., kp.UPPER_BODY.indices(*chains[finger][1:])]
    bones = np.linalg.norm(np.diff(points, axis=-1), axis=-2).sum(-1)
    straight = np.linalg.norm(points[..., -1] - points[..., 0], axis=-1)
    ratios.append(straight / np.maximum(bones, np.finfo(float).tiny))
  return np.mean(ratios, axis=(0, -1))


def _head_turn(poses: np.ndarray) -> np.ndarray:
  """Place of the nose between the ends of the jaw: -1, the right one, to 1."""
  jaw = kp.FACE_CHAINS["jaw"]
  right, left, nose = (_joint(poses, n) for n in (jaw[0], jaw[-1], "face_30"))
  across, half = left - right, (left + right) / 2
  along = np.sum((nose - half) * across, -1) * 2
  return (along / np.maximum(np.sum(across**2, -1), np.finfo(float).tiny)).mean(-1)
