"""Stage 3: rejects implausible keypoints and closes short gaps.

The rules and their thresholds are in `rules`. Writes `clean.npz` (in the format of
`keypoints.npz`) and `clean.json`: the number of frames affected by each rule and by
gap closing.
"""

import dataclasses

import numpy as np

from . import rules, workspace
from .detection import CONFIDENCE, Origin
from .options import Options, command
from .transcode import read_canvas
from .workspace import Progress, Video

_DEFAULT = rules.Thresholds()


def clean(
  keypoints: np.ndarray,
  origin: np.ndarray,
  box: rules.Box,
  thresholds: rules.Thresholds = _DEFAULT,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
  """Applies the rules, then closes gaps.

  Args:
    keypoints: (T, 3, joints) canvas pixels and confidence at 15 frames/s.
    origin: (T, joints) `Origin` of each point.
    box: x, y, width, height of the picture in the canvas.
    thresholds: thresholds of the rules.

  Returns:
    New keypoints and origin, and for each rule the number of frames in which it
    rejected something.
  """
  keypoints = keypoints.copy()
  counts: dict[str, int] = {}
  for rule, mask in rules.body_rules(keypoints, box, thresholds).items():
    counts[rule] = int(mask.any(1).sum())
    keypoints *= ~mask[:, None]
  for rule, mask in rules.face_rules(keypoints, thresholds).items():
    counts[rule] = int(mask.sum())
    rules.remove(keypoints, mask, rules.PARTS["face"])
  counts |= rules.reject_hands(keypoints, box, thresholds)
  origin = np.where(keypoints[:, 2] > 0, origin, Origin.MISSING).astype(np.int8)
  counts["gap closed"] = _close_gaps(keypoints, origin, thresholds)
  return keypoints, origin, counts


def _close_gaps(keypoints: np.ndarray, origin: np.ndarray, t: rules.Thresholds) -> int:
  """Interpolates gaps in place; returns the number of frames with a filled point."""
  limit = t.gap_travel * rules.shoulder_width(keypoints)
  closed = np.zeros(len(keypoints), bool)
  for point in rules.USED:
    seen = np.flatnonzero(keypoints[:, 2, point] > 0)
    gaps = np.flatnonzero(np.diff(seen) > 1)
    for a, b in zip(seen[gaps], seen[gaps + 1], strict=True):
      first, last = keypoints[a, :2, point], keypoints[b, :2, point]
      if b - a - 1 <= t.gap_frames and np.linalg.norm(last - first) <= limit:
        weight = (np.arange(a + 1, b) - a)[:, None] / (b - a)
        keypoints[a + 1 : b, :2, point] = first + (last - first) * weight
        keypoints[a + 1 : b, 2, point] = CONFIDENCE[Origin.INTERPOLATED]
        origin[a + 1 : b, point] = Origin.INTERPOLATED
        closed[a + 1 : b] = True
  return int(closed.sum())


def _clean_video(options: Options, video: Video, progress: Progress) -> None:
  found = workspace.read_keypoints(video.folder / "keypoints.npz")
  keypoints, origin, counts = clean(*found, read_canvas(video).box, options.thresholds)
  workspace.write_npz(video.folder / "clean.npz", keypoints=keypoints, origin=origin)
  workspace.write_json(video.folder / "clean.json", counts)


run = workspace.VideoStage(
  name="clean",
  previous="keypoints",
  outputs=("clean.npz", "clean.json"),
  parameters=lambda options, _: dataclasses.asdict(options.thresholds),
  work=_clean_video,
).run


if __name__ == "__main__":
  command(run)
