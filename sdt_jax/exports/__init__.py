"""Motion in the formats of other programs, one module per format.

openpose   <stem>_openpose/, one JSON file per frame: BODY_25, face and hands in picture
           pixels; points that the models leave out are 0
pose2img   <stem>_pose2img.npz for the Pose2Img renderer: `poses_pred_batch`
           (1, T, dims, joints), pixels relative to the neck
csv        <stem>.csv, one row per frame: frame, time_s, and <joint>_x and <joint>_y of
           every joint, pixels relative to the neck

A new format is one module with a writer and a reader, and one line in `EXPORTS`.
"""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.exports import csv_table, openpose, pose2img

Writer = Callable[[pathlib.Path, np.ndarray], pathlib.Path]
"""Writes final poses (T, dims, joints) to files that begin with a path; returns it."""

EXPORTS: dict[str, Writer] = {
  "openpose": openpose.write_motion,
  "pose2img": pose2img.write,
  "csv": csv_table.write,
}


def parse_kinds(text: str) -> tuple[str, ...]:
  """Kinds in the value of `--export`, for example "openpose,csv".

  Raises:
    UserError: a kind is unknown.
  """
  kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
  if unknown := [kind for kind in kinds if kind not in EXPORTS]:
    known = ", ".join(EXPORTS)
    raise UserError(f"--export={text}: unknown {unknown[0]!r}; known: {known}")
  return kinds


def export(
  kinds: Sequence[str], stem: str | pathlib.Path, poses_px: np.ndarray
) -> list[pathlib.Path]:
  """Writes a motion.

  Args:
    kinds: names in `EXPORTS`.
    stem: path of the files without their endings.
    poses_px: (T, dims, joints) final poses; NaN stands for a missing point.

  Returns:
    The files and folders, in the order of `kinds`.

  Raises:
    UserError: a kind is unknown, the poses have another shape, or the folder cannot be
      written.
  """
  kinds = parse_kinds(",".join(kinds))
  stem, poses_px = pathlib.Path(stem), np.asarray(poses_px)
  if poses_px.ndim != 3 or poses_px.shape[1:] != kp.UPPER_BODY.shape:
    expected = ", ".join(map(str, kp.UPPER_BODY.shape))
    raise UserError(
      f"{stem}: poses have shape {poses_px.shape}, expected (T, {expected})"
    )
  return [EXPORTS[kind](stem, poses_px) for kind in kinds]
