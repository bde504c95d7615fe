"""Reads keypoints from folders of OpenPose JSON, one file per picture."""

import pathlib
from typing import Any

import numpy as np

from sdt_jax.errors import UserError
from sdt_jax.exports import openpose
from . import workspace
from .detection import Detection, Origin
from .transcode import read_canvas
from .workspace import Progress, Video

# Decoders may differ by a picture or two at the end of a damaged file.
_MAX_MISCOUNT = 2


class OpenPose:
  """Reads `<folder>/<video stem>/`, `<stem>.openpose/` or `<stem>_json/`."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def parameters(self, video: Video) -> Any:
    files = openpose.frame_files(self._folder_of(video))
    return ["openpose", [[f.name, workspace.file_digest(f)] for f in files]]

  def _folder_of(self, video: Video) -> pathlib.Path:
    names = (video.name, f"{video.name}.openpose", f"{video.name}_json")
    for name in names:
      if (self._folder / name).is_dir():
        return self._folder / name
    raise UserError(f"--openpose_dir={self._folder}: has no folder {video.name}/")

  def detect(self, video: Video, progress: Progress) -> Detection:
    folder = self._folder_of(video)
    pixels = openpose.read_openpose_folder(folder)
    pictures = len(workspace.read_source(video)["times"])
    if abs(len(pixels) - pictures) > _MAX_MISCOUNT:
      raise UserError(
        f"{folder}: {len(pixels)} JSON files, but {video.path.name} has {pictures} "
        "pictures; run OpenPose on this file, without --frame_step"
      )
    found = pixels[:, 2] > 0
    if found.any() and np.abs(pixels[:, :2]).max() <= 1.5:
      raise UserError(
        f"{folder}: coordinates are normalised; run OpenPose with --keypoint_scale 0"
      )
    keypoints = np.zeros((pictures, *pixels.shape[1:]), np.float32)
    both = min(pictures, len(pixels))
    keypoints[:both] = read_canvas(video).place(pixels[:both])
    origin = np.where(keypoints[:, 2] > 0, Origin.FOUND, Origin.MISSING)
    return Detection(keypoints, origin.astype(np.int8))
