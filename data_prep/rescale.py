"""Stage 4: scales every video to the size of the reference speaker.

The mean shoulder width makes different detectors and camera distances comparable.
Writes `rescaled.npz` (`clean.npz` with coordinates multiplied by a factor, so they are
no longer canvas pixels) and `rescale.json` with the factor.
"""

import numpy as np

from . import rules, workspace
from .options import Options, command
from .workspace import Progress, Video

REFERENCE_SHOULDER_WIDTH_PX = 331.085


def rescale(keypoints: np.ndarray) -> tuple[np.ndarray, float]:
  """Scales (T, 3, joints) about the origin to the reference mean shoulder width.

  Returns:
    The keypoints and the factor, which is 1 if the shoulders are never present.
  """
  widths = rules.shoulder_widths(keypoints)
  if not np.isfinite(widths).any():
    return keypoints, 1.0
  factor = REFERENCE_SHOULDER_WIDTH_PX / float(np.nanmean(widths, dtype=np.float64))
  scaled = keypoints.copy()
  scaled[:, :2] *= factor
  return scaled, factor


def _rescale_video(options: Options, video: Video, progress: Progress) -> None:
  clean, origin = workspace.read_keypoints(video.folder / "clean.npz")
  keypoints, factor = rescale(clean)
  workspace.write_npz(video.folder / "rescaled.npz", keypoints=keypoints, origin=origin)
  workspace.write_json(video.folder / "rescale.json", {"factor": factor})


run = workspace.VideoStage(
  name="rescale",
  previous="clean",
  outputs=("rescaled.npz", "rescale.json"),
  parameters=lambda *_: REFERENCE_SHOULDER_WIDTH_PX,
  work=_rescale_video,
).run


if __name__ == "__main__":
  command(run)
