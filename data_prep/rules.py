"""Rules that reject implausible keypoints, and their thresholds.

Keypoints are (T, 3, joints), with the joints of `kp.OPENPOSE`: x, y in canvas pixels
and confidence; 0, 0, 0 where missing. Lengths are in shoulder widths of the video
(`shoulder_width`), so the rules do not depend on the size of the person. Each rule
returns a mask of what it rejects; missing points are never rejected.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

SIDES = ("left", "right")
USED = np.sort(kp.OPENPOSE.indices("neck", *kp.UPPER_BODY.names))
"""Indices of the keypoints that a training pose is computed from."""

PARTS = {p: kp.OPENPOSE.indices(*names) for p, names in kp.UPPER_BODY.parts.items()}
"""Part -> indices of its used keypoints; the body includes the neck."""
PARTS["body"] = np.sort(np.append(PARTS["body"], kp.OPENPOSE.index["neck"]))

BODY_25 = kp.OPENPOSE.part("body")
ARMS = kp.OPENPOSE.indices(
  *(f"{side}_{joint}" for side in SIDES for joint in ("shoulder", "elbow", "wrist"))
)


def _limit(default: Any, meaning: str) -> Any:
  """A threshold; its meaning becomes the help of the flag."""
  return dataclasses.field(default=default, metadata={"help": meaning})


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Thresholds of all rules, each a flag; lengths in shoulder widths.

  Raises:
    UserError: a number is negative or NaN, or a range is empty.
  """

  min_confidence: float = _limit(0.05, "Points of lower confidence are missing.")
  body_outside: float = _limit(
    0.05, "How far outside the picture body points may be, as a share of its size."
  )
  spike: float = _limit(
    0.35, "Rejects a body point or hand that jumps this far for a single frame."
  )
  cut: float = _limit(
    0.5, "If the neck moves this far in one frame, another shot starts."
  )
  face_from_nose: float = _limit(
    0.4, "Largest distance from the nose tip of the face to the nose of the body."
  )
  face_size: tuple[float, float] = _limit(
    (0.15, 1.2), "LOW,HIGH: allowed diagonals of the bounding box of a face."
  )
  hand_from_wrist: float = _limit(0.45, "Largest distance of a hand from its wrist.")
  hand_size: tuple[float, float] = _limit(
    (0.2, 0.7), "LOW,HIGH: allowed diagonals of the bounding box of a hand."
  )
  hand_outside: float = _limit(
    0.6, "Rejects a hand with a larger share of its points outside the picture."
  )
  hands_apart: float = _limit(
    0.35, "Hands are compared with each other if their wrists are farther apart."
  )
  hands_same: float = _limit(
    0.15, "Hands that are closer to each other are one hand, found twice."
  )
  gap_frames: int = _limit(5, "Longest gap that is closed, in frames at 15 frames/s.")
  gap_travel: float = _limit(
    1.0, "A gap over which a point moves farther is not closed."
  )

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if isinstance(value, tuple) and not 0 <= value[0] < value[1]:
        text = ",".join(map(str, value))
        raise UserError(f"--{name}={text}: expected LOW,HIGH with 0 <= LOW < HIGH")
      if not isinstance(value, tuple) and not value >= 0:
        raise UserError(f"--{name}={value}: must be at least 0")

  def of_hands(self) -> "Thresholds":
    """These thresholds where `reject_hands` uses them, the default elsewhere."""
    return Thresholds(
      spike=self.spike,
      hand_from_wrist=self.hand_from_wrist,
      hand_size=self.hand_size,
      hand_outside=self.hand_outside,
      hands_apart=self.hands_apart,
      hands_same=self.hands_same,
    )


Box = tuple[int, int, int, int]  # x, y, width, height of the picture in the canvas


def point(keypoints: np.ndarray, name: str) -> np.ndarray:
  """(T, 2) coordinates of a keypoint, NaN where it is missing."""
  return _known(keypoints[:, :, kp.OPENPOSE.index[name]])


def _known(track: np.ndarray) -> np.ndarray:
  """(T, 3) x, y, confidence -> (T, 2), NaN where missing."""
  return np.where(track[:, 2:] > 0, track[:, :2], np.nan)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(T,) distance between two (T, 2), NaN where one is missing."""
  return np.linalg.norm(a - b, axis=1)


def shoulder_widths(keypoints: np.ndarray) -> np.ndarray:
  """(T,) pixels, NaN where a shoulder is missing."""
  return distance(point(keypoints, "left_shoulder"), point(keypoints, "right_shoulder"))


def shoulder_width(keypoints: np.ndarray) -> float:
  """Median over the video, in pixels; infinite if shoulders are never present."""
  widths = shoulder_widths(keypoints)
  return float(np.nanmedian(widths)) if np.isfinite(widths).any() else np.inf


def box_diagonal(keypoints: np.ndarray) -> np.ndarray:
  """(T, 3, points) -> (T,) diagonal of the bounding box, NaN without points."""
  mask = keypoints[:, 2:] > 0
  low = np.where(mask, keypoints[:, :2], np.inf).min(-1)
  high = np.where(mask, keypoints[:, :2], -np.inf).max(-1)
  return np.where(mask.any((1, 2)), np.linalg.norm(high - low, axis=1), np.nan)


def centre(keypoints: np.ndarray) -> np.ndarray:
  """(T, 3, points) -> (T, 2) mean of the present points, NaN without points."""
  mask = keypoints[:, 2:] > 0
  total, count = (keypoints[:, :2] * mask).sum(-1), mask.sum(-1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def spikes(track: np.ndarray, limit: float) -> np.ndarray:
  """(T,) bool: frames in which a track (T, 2) jumps away and returns in the next."""
  is_spike = np.zeros(len(track), bool)
  before, now, after = track[:-2], track[1:-1], track[2:]
  out = distance(now, (before + after) / 2) > limit
  is_spike[1:-1] = out & (distance(before, after) < limit)
  return is_spike


def outside(keypoints: np.ndarray, box: Box, margin: float) -> np.ndarray:
  """(T, points) bool: points farther outside the picture than `margin` of its size."""
  x, y, width, height = box
  px, py = keypoints[:, 0], keypoints[:, 1]
  beyond = np.maximum(
    np.maximum(x - px, px - x - width) / width,
    np.maximum(y - py, py - y - height) / height,
  )
  return (keypoints[:, 2] > 0) & (beyond > margin)


def body_rules(keypoints: np.ndarray, box: Box, t: Thresholds) -> dict[str, np.ndarray]:
  """Rule -> (T, joints) bool of rejected body and face points."""
  unit = shoulder_width(keypoints)
  everything = keypoints[:, 2] > 0
  body = np.isin(np.arange(everything.shape[1]), BODY_25)
  right, left = (point(keypoints, f"{side}_shoulder") for side in ("right", "left"))
  swapped = (right[:, 0] > left[:, 0])[:, None] & np.isin(np.arange(len(body)), ARMS)
  spike = np.zeros_like(everything)
  for i in BODY_25:
    spike[:, i] = spikes(_known(keypoints[:, :, i]), t.spike * unit)
  return {
    "low confidence": everything & (keypoints[:, 2] < t.min_confidence),
    "outside the picture": outside(keypoints, box, t.body_outside) & body,
    "left and right swapped": everything & swapped,
    "jump for one frame": spike,
  }


def face_rules(keypoints: np.ndarray, t: Thresholds) -> dict[str, np.ndarray]:
  """Rule -> (T,) bool of rejected faces."""
  unit = shoulder_width(keypoints)
  face = keypoints[:, :, PARTS["face"]]
  size = box_diagonal(face) / unit
  off = distance(point(keypoints, "face_30"), point(keypoints, "nose")) / unit
  return {
    "face far from the nose": off > t.face_from_nose,
    "face too small or large": (size < t.face_size[0]) | (size > t.face_size[1]),
  }


def hand_rules(
  keypoints: np.ndarray, side: str, box: Box, t: Thresholds
) -> dict[str, np.ndarray]:
  """Rule -> (T,) bool of rejected hands of one side."""
  unit = shoulder_width(keypoints)
  other = SIDES[1 - SIDES.index(side)]
  hand = keypoints[:, :, PARTS[f"{side}_hand"]]
  root = point(keypoints, f"{side}_hand_root")
  wrist, other_wrist = (point(keypoints, f"{s}_wrist") for s in (side, other))
  to_own, to_other = distance(root, wrist), distance(root, other_wrist)
  apart = distance(wrist, other_wrist) > t.hands_apart * unit
  size = box_diagonal(hand) / unit
  middle = centre(hand)
  other_middle = centre(keypoints[:, :, PARTS[f"{other}_hand"]])
  same = distance(middle, other_middle) < t.hands_same * unit
  farther = to_own > distance(point(keypoints, f"{other}_hand_root"), other_wrist)
  num_points = (hand[:, 2] > 0).sum(-1)
  num_outside = outside(hand, box, 0).sum(-1)
  return {
    "hand at the other wrist": apart & (to_other < to_own),
    "hand far from its wrist": to_own > t.hand_from_wrist * unit,
    "hand too small or large": (size < t.hand_size[0]) | (size > t.hand_size[1]),
    "hand outside the picture": num_outside > t.hand_outside * num_points,
    "hand found twice": apart & same & farther,
    "hand jumps for one frame": spikes(middle, t.spike * unit),
  }


def reject_hands(keypoints: np.ndarray, box: Box, t: Thresholds) -> dict[str, int]:
  """Removes the hands that `hand_rules` rejects, in place.

  Returns:
    Rule -> number of hands that it rejected, each hand counted for its first rule.
  """
  counts: dict[str, int] = {}
  rejected = {side: np.zeros(len(keypoints), bool) for side in SIDES}
  for side in SIDES:
    for rule, mask in hand_rules(keypoints, side, box, t).items():
      counts[rule] = counts.get(rule, 0) + int((mask & ~rejected[side]).sum())
      rejected[side] |= mask
  for side in SIDES:  # only now: the rules compare both hands
    remove(keypoints, rejected[side], PARTS[f"{side}_hand"])
  return counts


def block(frames: np.ndarray, points: np.ndarray, rows: Sequence[int] = (0, 1, 2)):
  """Index of some points in some frames of (T, 3, joints).

  Args:
    frames: (T,) bool, or frame numbers.
    points: (n,) indices of joints.
    rows: which of x, y, confidence.
  """
  return np.ix_(frames, np.array(rows), points)


def remove(keypoints: np.ndarray, frames: np.ndarray, points: np.ndarray) -> None:
  """Marks points as missing in the frames of a mask, in place."""
  keypoints[block(frames, points)] = 0


def cuts(keypoints: np.ndarray, t: Thresholds) -> np.ndarray:
  """(T,) bool: frames that start another shot."""
  neck = point(keypoints, "neck")
  jump = np.zeros(len(keypoints), bool)
  jump[1:] = distance(neck[1:], neck[:-1]) > t.cut * shoulder_width(keypoints)
  return jump
