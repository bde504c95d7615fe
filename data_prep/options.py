"""The flags, the same for every stage, and the record they become."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError

BACKENDS = ("mediapipe", "openpose")
SPLITS = ("time", "video")
DEFAULT_ENV = pathlib.Path.home() / ".cache" / "sdt_jax" / "mediapipe"


@dataclasses.dataclass(frozen=True)
class Options:
  """What a stage is told.

  Attributes:
    videos: folder of the speaker's videos.
    speaker: name of the new speaker.
    root: folder of speaker packs; the pack becomes `root/speaker`.
    keypoints: which backend finds them, "mediapipe" or "openpose".
    openpose_dir: for "openpose": folder with `<video stem>/` of JSON files.
    split_by: "time" (one end of each video is dev) or "video" (whole videos are).
    seed: of the split.
    workers: videos at a time.
    skip_bad_videos: leave unusable videos out (the report lists them).
    mediapipe_env: folder of the environment that MediaPipe runs in.
  """

  videos: pathlib.Path
  speaker: str
  root: pathlib.Path
  keypoints: str = "mediapipe"
  openpose_dir: pathlib.Path | None = None
  split_by: str = "time"
  seed: int = 0
  workers: int = 1
  skip_bad_videos: bool = False
  mediapipe_env: pathlib.Path = DEFAULT_ENV

  def __post_init__(self) -> None:
    speaker = self.speaker
    if not speaker or speaker.startswith(".") or pathlib.Path(speaker).name != speaker:
      raise UserError(f"--speaker={speaker!r} cannot name a folder; use a plain name")
    if not self.videos.is_dir():
      raise UserError(f"--videos={self.videos}: no such folder")
    if self.keypoints == "openpose" and self.openpose_dir is None:
      raise UserError("--keypoints=openpose needs --openpose_dir=DIR, the JSON folders")
    if self.keypoints != "openpose" and self.openpose_dir is not None:
      raise UserError(f"--openpose_dir={self.openpose_dir}: add --keypoints=openpose")
    if self.workers < 1:
      raise UserError(f"--workers={self.workers}: at least 1 is needed")
    if self.openpose_dir is not None and not self.openpose_dir.is_dir():
      raise UserError(
        f"--openpose_dir={self.openpose_dir}: no such folder; it must hold one of JSON "
        "files for each video"
      )


def command(stage: Callable[[Options], object]) -> None:
  """Runs a stage as a program: flags -> `Options` -> `stage`."""

  @functools.wraps(stage)  # --help shows the docstring and flags of its module
  def main() -> None:
    stage(from_flags())

  _define_flags()
  cli.run(main)


def _define_flags() -> None:
  # Defined when a program starts, not on import: other programs have flags of the
  # same names. They count as those of the program, so that --help shows them.
  flags.disclaim_key_flags()
  flags.DEFINE_string("videos", None, "Folder of videos of one person.")
  flags.DEFINE_string("speaker", None, "Name of the new speaker.")
  flags.DEFINE_string("root", None, "Folder of speaker packs to add it to.")
  flags.DEFINE_enum("keypoints", "mediapipe", BACKENDS, "What finds the keypoints.")
  flags.DEFINE_string("openpose_dir", None, "Folder of <video stem>/*.json.")
  flags.DEFINE_enum(
    "split_by", "time", SPLITS, "Dev is one end of each video, or whole videos."
  )
  flags.DEFINE_integer("seed", 0, "Seed of the split.", lower_bound=0)
  flags.DEFINE_integer(
    "workers", max(1, (os.cpu_count() or 1) // 2), "Videos worked on at a time."
  )
  flags.DEFINE_bool("skip_bad_videos", False, "Leave unusable videos out.")
  flags.DEFINE_string(
    "mediapipe_env", str(DEFAULT_ENV), "Environment that MediaPipe runs in."
  )
  flags.mark_flags_as_required(["videos", "speaker", "root"])


def from_flags() -> Options:
  """The options of the parsed flags.

  Raises:
    UserError: a value cannot be.
  """
  values = {
    field.name: getattr(flags.FLAGS, field.name)
    for field in dataclasses.fields(Options)
  }
  for name in ("videos", "root", "openpose_dir", "mediapipe_env"):
    values[name] = values[name] and pathlib.Path(values[name]).expanduser()
  return Options(**values)
