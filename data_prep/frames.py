"""Optional stage: saves the pictures of each video at 15 frames/s.

`prepare` runs it with --save_frames. Writes `frames/<video>/<video>_<number>.jpg` to
the pack: the 1280x720 canvas at 0, 1/15, 2/15 ... s. Frames are numbered as in the
names of the clips, and `imgs` in a clip names these files. Writes `frames.json`, the
number of pictures.
"""

import pathlib
import shutil

import cv2

from sdt_jax import audio
from sdt_jax.errors import UserError
from . import keypoints, media, workspace
from .options import Options, command
from .workspace import Progress, Video


def name_in_pack(video: str, number: int) -> str:
  """Path of a picture, relative to the pack."""
  return f"frames/{video}/{video}_{number:06d}.jpg"


def _folder(options: Options, video: Video) -> pathlib.Path:
  return (workspace.pack_folder(options) / name_in_pack(video.name, 0)).parent


def _save(options: Options, video: Video, progress: Progress) -> None:
  folder = _folder(options, video)
  unfinished = folder.with_name(f".{folder.name}.unfinished")
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  seconds = keypoints.frame_times(workspace.read_source(video)["times"])
  shown = media.pictures_at(video.folder / "video.mp4", seconds.tolist())
  for number, (_, picture) in enumerate(shown):
    path = unfinished / pathlib.Path(name_in_pack(video.name, number)).name
    if not cv2.imwrite(str(path), picture[..., ::-1]):
      raise UserError(f"{path}: cannot be written; is the disk full?")
    progress(number / len(seconds))
  shutil.rmtree(folder, ignore_errors=True)
  unfinished.rename(folder)
  workspace.write_json(video.folder / "frames.json", {"pictures": len(seconds)})


_STAGE = workspace.VideoStage(
  name="frames",
  previous="transcode",
  outputs=("frames.json",),
  parameters=lambda *_: audio.FPS,
  work=_save,
)


def run(options: Options) -> None:
  """Runs the stage.

  Raises:
    UserError: the stage `transcode` has not run, or the files cannot be written.
  """
  for video in workspace.usable_videos(options):
    if not _folder(options, video).is_dir():  # removed by the user
      workspace.stamp_path(video.folder, "frames").unlink(missing_ok=True)
  _STAGE.run(options)


if __name__ == "__main__":
  command(run)
