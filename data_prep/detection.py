"""The interface of keypoint detectors ("backends") and their result.

A backend detects the keypoints of a video at the frame rate of the video. There are
two, `mediapipe_backend` and `openpose_backend`; `keypoints` resamples their results to
15 frames/s.
"""

import dataclasses
import enum
from typing import Any, Protocol

import numpy as np

from .workspace import Progress, Video


class Origin(enum.IntEnum):
  """How a point was obtained."""

  MISSING = 0
  FOUND = 1
  SECOND_PASS = 2  # found by a later, more expensive pass
  INTERPOLATED = 3


CONFIDENCE = {Origin.SECOND_PASS: 0.8, Origin.INTERPOLATED: 0.5}
"""Confidence assigned to points that the first pass did not find."""


@dataclasses.dataclass
class Detection:
  """Keypoints of every picture of a video.

  Attributes:
    keypoints: (F, 3, joints) float32, canvas pixels and confidence; a missing point is
      0, 0, 0. The joints are those of `kp.OPENPOSE`.
    origin: (F, joints) int8, the `Origin` of each point.
    counts: rule -> number of hands that it rejected.
    notes: messages for the user, one sentence each.
  """

  keypoints: np.ndarray
  origin: np.ndarray
  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)


class Backend(Protocol):
  """Detects keypoints."""

  def parameters(self, video: Video) -> Any:
    """Everything that the result depends on, except the transcoded video."""
    ...

  def detect(self, video: Video, progress: Progress) -> Detection:
    """Detects the keypoints of a transcoded video.

    Raises:
      UserError: the video cannot be processed.
    """
    ...
