"""Draws keypoints over the picture in which they were detected."""

import itertools

import cv2
import numpy as np

from sdt_jax import keypoints as kp
from .detection import Origin

_ORIGIN_COLORS = {
  Origin.FOUND: (60, 230, 90),
  Origin.SECOND_PASS: (255, 200, 40),
  Origin.INTERPOLATED: (255, 70, 70),
}
LEGEND = "green: found, yellow: second pass, red: interpolated"

_HEAD = (("neck", "nose", "right_eye"), ("nose", "left_eye"))
_CHAINS = [
  kp.OPENPOSE.indices(*chain)
  for chain in (
    kp.ARM_CHAIN,
    *_HEAD,
    *kp.FACE_CHAINS.values(),
    *kp.finger_chains("left").values(),
    *kp.finger_chains("right").values(),
  )
]


def draw(picture: np.ndarray, keypoints: np.ndarray, origin: np.ndarray) -> np.ndarray:
  """Draws the skeleton on a copy of the picture, coloured by origin.

  Args:
    picture: (720, 1280, 3) uint8 RGB canvas.
    keypoints: (3, joints) canvas pixels and confidence.
    origin: (joints,) `Origin`; a line has that of its less reliable end.
  """
  drawn = picture.copy()
  pixels = np.rint(keypoints[:2].T).astype(int)
  for chain in _CHAINS:
    for a, b in itertools.pairwise(chain):
      if keypoints[2, a] > 0 and keypoints[2, b] > 0:
        color = _ORIGIN_COLORS[Origin(max(origin[a], origin[b]))]
        ends = tuple(pixels[a].tolist()), tuple(pixels[b].tolist())
        cv2.line(drawn, *ends, color, 2, cv2.LINE_AA)
  return drawn
