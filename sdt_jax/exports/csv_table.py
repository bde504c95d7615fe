"""Motion as a table: one row per frame, coordinates in pixels relative to the neck."""

import csv
import pathlib

import numpy as np

from sdt_jax import audio, files
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

_SKELETON = kp.UPPER_BODY
_COLUMNS = [f"{name}_{axis}" for name in _SKELETON.names for axis in "xy"]
_HEADER = ["frame", "time_s", *_COLUMNS]


def write(stem: pathlib.Path, poses_px: np.ndarray) -> pathlib.Path:
  """Writes `<stem>.csv` from (T, dims, joints) final poses, rounded to 0.001 px."""
  path = stem.with_name(f"{stem.name}.csv")
  with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADER)
    for frame, xy in enumerate(poses_px.swapaxes(1, 2).reshape(len(poses_px), -1)):
      # The cells of a missing point are empty.
      cells = [f"{value:.3f}" if np.isfinite(value) else "" for value in xy]
      writer.writerow([frame, f"{frame / audio.FPS:.4f}", *cells])
  return path


def read(path: str | pathlib.Path) -> np.ndarray:
  """Inverse of `write`; (T, dims, joints) float32, NaN for missing points.

  Raises:
    UserError: the file cannot be read, or is not such a table.
  """
  try:
    with open(path, newline="") as file:
      header, *rows = csv.reader(file)
    if header != _HEADER or any(len(row) != len(_HEADER) for row in rows):
      raise ValueError("the columns differ")
    cells = [[float(cell or "nan") for cell in row[2:]] for row in rows]
  except (OSError, ValueError, csv.Error) as e:
    raise UserError(f"{path}: not a table of motion ({e}); export it again") from e
  poses = np.array(cells, np.float32).reshape(-1, _SKELETON.num_joints, _SKELETON.dims)
  return poses.swapaxes(1, 2)
