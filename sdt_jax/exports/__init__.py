"""Generated motion in the formats of other tools.

openpose   <stem>_openpose/, a JSON file for each frame: BODY_25, face and hands in
           picture pixels; points that the 121 leave out are 0
pose2img   <stem>_pose2img.npz, what the Pose2Img renderer reads: `poses_pred_batch`
           (1, T, 2, 121), pixels relative to the neck
csv        <stem>.csv, a row for each frame: frame, time_s, and <keypoint>_x and
           <keypoint>_y for each of the 121, pixels relative to the neck
"""

import csv
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from sdt_jax import audio, files
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.interop import openpose

KINDS = ("openpose", "pose2img", "csv")

# Where the videos of demo.py have the neck, in their 1280x720 pixels.
NECK_PX = (640.0, 324.0)


def parse_kinds(text: str) -> tuple[str, ...]:
  """What `--export` says, such as "openpose,csv"; nothing for "".

  Raises:
    UserError: a format is unknown.
  """
  kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
  for kind in kinds:
    if kind not in KINDS:
      raise UserError(f"--export={text}: unknown {kind!r}; known: {', '.join(KINDS)}")
  return kinds


def export(
  kinds: Sequence[str],
  stem: str | pathlib.Path,
  poses_px: np.ndarray,
  *,
  neck_px: tuple[float, float] = NECK_PX,
  scale: float = 1.0,
) -> list[pathlib.Path]:
  """Writes a motion.

  Args:
    kinds: of `KINDS`, see above.
    stem: path of the files, without their endings.
    poses_px: (T, 2, 121) final poses; points that are NaN count as missing.
    neck_px: openpose only, where the neck shall be, in picture pixels.
    scale: openpose only, picture pixels per pixel of the poses.

  Returns:
    The files and folders, in the order of `kinds`.

  Raises:
    UserError: a kind is unknown, the poses have another shape, the scale is not
      positive, or the folder cannot be written.
  """
  stem = pathlib.Path(stem)
  poses_px = np.asarray(poses_px)
  if poses_px.ndim != 3 or poses_px.shape[1:] != (2, kp.NUM_KEYPOINTS):
    raise UserError(
      f"{stem}: poses have shape {poses_px.shape}, expected (T, 2, {kp.NUM_KEYPOINTS})"
    )
  if not (scale > 0 and np.isfinite([scale, *neck_px]).all()):
    raise UserError(f"{stem}: neck {neck_px} or scale {scale} is not a possible one")
  writers: dict[str, Callable[[], pathlib.Path]] = {
    "openpose": lambda: _write_openpose(stem, poses_px, neck_px, scale),
    "pose2img": lambda: _write_pose2img(stem, poses_px),
    "csv": lambda: _write_csv(stem, poses_px),
  }
  return [writers[kind]() for kind in parse_kinds(",".join(kinds))]


def _write_openpose(stem, poses_px, neck_px, scale) -> pathlib.Path:
  keypoints = openpose.to_keypoints_137(poses_px, neck_px, scale)
  found = np.isfinite(keypoints).all(axis=1, keepdims=True)
  folder = stem.with_name(f"{stem.name}_openpose")
  try:
    openpose.write_openpose_folder(np.where(found, keypoints, 0), folder, stem.name)
  except OSError as e:
    raise UserError(f"{folder}: cannot be written ({e.strerror or e})") from e
  return folder


def _write_pose2img(stem: pathlib.Path, poses_px: np.ndarray) -> pathlib.Path:
  path = stem.with_name(f"{stem.name}_pose2img.npz")
  batch = poses_px[None].astype(np.float32)
  with files.replacing(path) as temporary:
    np.savez_compressed(temporary, allow_pickle=False, poses_pred_batch=batch)
  return path


def _write_csv(stem: pathlib.Path, poses_px: np.ndarray) -> pathlib.Path:
  path = stem.with_name(f"{stem.name}.csv")
  columns = [f"{name}_{axis}" for name in kp.KEYPOINTS_121 for axis in "xy"]
  with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["frame", "time_s", *columns])
    for frame, xy in enumerate(poses_px.swapaxes(1, 2).reshape(len(poses_px), -1)):
      # A missing point leaves its cells empty.
      cells = [f"{value:.3f}" if np.isfinite(value) else "" for value in xy]
      writer.writerow([frame, f"{frame / audio.FPS:.4f}", *cells])
  return path
