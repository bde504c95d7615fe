"""Stage 2: detects OpenPose keypoints and resamples them to exactly 15 frames/s.

A backend detects the keypoints at the frame rate of the video. Writes `keypoints.npz`:
`keypoints` (T, 3, joints) float32 canvas pixels and confidence, `origin` (T, joints)
int8, see `detection.Origin`; and `keypoints.json`, the counts and notes of the backend.
"""

from collections.abc import Sequence

import numpy as np

from sdt_jax import audio
from . import mediapipe_env, workspace
from .detection import CONFIDENCE, Backend, Detection, Origin
from .mediapipe_backend import MediaPipe
from .openpose_backend import OpenPose
from .options import Options, command
from .workspace import Progress, Video

# No interpolation between pictures that are farther apart; `clean` closes gaps.
_MAX_STEP_SECONDS = 2 / audio.FPS
_SAME_TIME = 1e-3  # seconds; containers round the times of pictures


def backend(options: Options) -> Backend:
  """The backend selected by --keypoints."""
  if options.keypoints == "openpose":
    assert options.openpose_dir is not None  # checked by Options
    return OpenPose(options.openpose_dir)
  return MediaPipe(options.mediapipe_env, options.thresholds)


def frame_times(times: Sequence[float] | np.ndarray) -> np.ndarray:
  """Times 0, 1/15, 2/15 ... s of the frames, up to the last of these (F,) times."""
  return np.arange(int(times[-1] * audio.FPS + _SAME_TIME) + 1) / audio.FPS


def to_grid(detection: Detection, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Interpolates keypoints linearly at 0, 1/15, 2/15 ... s.

  A point is interpolated between the nearest pictures that show it, if they are close
  enough. If there are other pictures between those two, its origin is INTERPOLATED.

  Args:
    detection: the keypoints of F pictures.
    times: (F,) seconds, ascending.

  Returns:
    keypoints (T, 3, joints) and origin (T, joints) up to the time of the last picture.
  """
  grid = frame_times(times)
  count = detection.keypoints.shape[2]
  keypoints = np.zeros((len(grid), 3, count), np.float32)
  origin = np.zeros((len(grid), count), np.int8)
  for point in range(count):
    seen = np.flatnonzero(detection.keypoints[:, 2, point] > 0)
    if not len(seen):
      continue
    after = np.searchsorted(times[seen], grid - _SAME_TIME).clip(max=len(seen) - 1)
    exact = np.abs(times[seen[after]] - grid) <= _SAME_TIME
    before = np.where(exact, after, np.maximum(after - 1, 0))
    a, b = seen[before], seen[after]
    step = times[b] - times[a]
    inside = (times[a] <= grid + _SAME_TIME) & (grid - _SAME_TIME <= times[b])
    good = exact | (inside & (step <= _MAX_STEP_SECONDS))
    weight = np.where(exact, 0, (grid - times[a]) / np.maximum(step, _SAME_TIME))
    values = detection.keypoints[:, :, point]
    mixed = values[a] * (1 - weight)[:, None] + values[b] * weight[:, None]
    keypoints[:, :, point] = np.where(good[:, None], mixed, 0)
    made_by = np.maximum(detection.origin[a, point], detection.origin[b, point])
    made_by = np.where(b - a > 1, Origin.INTERPOLATED, made_by)
    origin[:, point] = np.where(good, made_by, Origin.MISSING)
    bridged = good & (made_by == Origin.INTERPOLATED)
    keypoints[bridged, 2, point] = CONFIDENCE[Origin.INTERPOLATED]
  return keypoints, origin


def _find(options: Options, video: Video, progress: Progress) -> None:
  detection = backend(options).detect(video, progress)
  times = np.array(workspace.read_source(video)["times"])
  keypoints, origin = to_grid(detection, times)
  workspace.write_npz(
    video.folder / "keypoints.npz", keypoints=keypoints, origin=origin
  )
  notes = {"counts": detection.counts, "notes": detection.notes}
  workspace.write_json(video.folder / "keypoints.json", notes)


_STAGE = workspace.VideoStage(
  name="keypoints",
  previous="transcode",
  outputs=("keypoints.npz", "keypoints.json"),
  parameters=lambda options, video: backend(options).parameters(video),
  work=_find,
)


def run(options: Options) -> None:
  """Runs the stage.

  Raises:
    UserError: the backend cannot run, or the files of a video are not usable.
  """
  if options.keypoints == "mediapipe":
    mediapipe_env.ensure(options.mediapipe_env)
  _STAGE.run(options)


if __name__ == "__main__":
  command(run)
