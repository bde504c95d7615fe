"""What a backend is, and what it hands over.

A backend finds the keypoints of a video at the video's own rate. There are two,
`mediapipe_backend` and `openpose_backend`; `keypoints` puts what they find on the even
grid of 15 frames/s.
"""

import dataclasses
import enum
from typing import Any, Protocol

import numpy as np

from .workspace import Progress, Video


class Origin(enum.IntEnum):
  """What made a point."""

  MISSING = 0
  FOUND = 1
  SECOND_PASS = 2  # found by a later, more costly look
  INTERPOLATED = 3


CONFIDENCE = {Origin.SECOND_PASS: 0.8, Origin.INTERPOLATED: 0.5}
"""Confidence that a point gets which was not simply found."""


@dataclasses.dataclass
class Detection:
  """Keypoints of every picture of a video.

  Attributes:
    keypoints: (F, 3, 137) float32, canvas pixels and confidence; missing is 0, 0, 0.
    origin: (F, 137) int8 of `Origin`.
    counts: frames (of either hand) by the rule that rejected them.
    notes: what a person should know, one sentence each.
  """

  keypoints: np.ndarray
  origin: np.ndarray
  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


class Backend(Protocol):
  """Finds keypoints."""

  def parameters(self, video: Video) -> Any:
    """What the result depends on besides the transcoded video."""
    ...

  def detect(self, video: Video, progress: Progress) -> Detection:
    """Finds them.

    Raises:
      UserError: it cannot be done for this video.
    """
    ...
