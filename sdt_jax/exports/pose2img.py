"""Motion for the Pose2Img renderer: an npz with `poses_pred_batch`."""

import pathlib

import numpy as np

from sdt_jax import files


def write(stem: pathlib.Path, poses_px: np.ndarray) -> pathlib.Path:
  """Writes `<stem>_pose2img.npz` from (T, dims, joints) final poses."""
  path = stem.with_name(f"{stem.name}_pose2img.npz")
  batch = poses_px[None].astype(np.float32)
  with files.replacing(path) as temporary:
    np.savez_compressed(temporary, allow_pickle=False, poses_pred_batch=batch)
  return path


def read(path: str | pathlib.Path) -> np.ndarray:
  """Inverse of `write`; (T, dims, joints) float32.

  Raises:
    UserError: the file is missing or not such an npz.
  """
  return files.read_arrays(path, "poses_pred_batch")["poses_pred_batch"][0]
