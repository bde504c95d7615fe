"""The flags, which are the same for every stage, as a dataclass."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError
from .rules import Thresholds

BACKENDS = ("mediapipe", "openpose")
SPLITS = ("time", "video")
DEFAULT_ENV = pathlib.Path.home() / ".cache" / "sdt_jax" / "mediapipe"


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of all stages."""

  videos: pathlib.Path  # folder of the videos of the speaker
  speaker: str  # name of the new speaker
  root: pathlib.Path  # folder of speaker packs; the pack is `root/speaker`
  keypoints: str = "mediapipe"  # the backend, one of `BACKENDS`
  openpose_dir: pathlib.Path | None = None  # folder with `<video stem>/` of JSON files
  split_by: str = "time"  # "time": one end of each video is dev; "video": whole videos
  seed: int = 0  # of the split
  workers: int = 1  # number of videos processed in parallel
  skip_bad_videos: bool = False  # skip unusable videos; the report lists them
  mediapipe_env: pathlib.Path = DEFAULT_ENV  # folder of the MediaPipe environment
  skip_frames: int = 0  # frames at the start of each video that no clip contains
  save_frames: bool = False  # also save the pictures of the frames
  thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)

  def __post_init__(self) -> None:
    speaker = self.speaker
    if not speaker or speaker.startswith(".") or pathlib.Path(speaker).name != speaker:
      raise UserError(f"--speaker={speaker!r} is not a folder name; use a plain name")
    if not self.videos.is_dir():
      raise UserError(f"--videos={self.videos}: no such folder")
    if self.keypoints == "openpose" and self.openpose_dir is None:
      raise UserError("--keypoints=openpose needs --openpose_dir=DIR, the JSON folders")
    if self.keypoints != "openpose" and self.openpose_dir is not None:
      raise UserError(f"--openpose_dir={self.openpose_dir}: add --keypoints=openpose")
    for name, value, least in (
      ("workers", self.workers, 1),
      ("skip_frames", self.skip_frames, 0),
    ):
      if value < least:
        raise UserError(f"--{name}={value}: must be at least {least}")
    if self.openpose_dir is not None and not self.openpose_dir.is_dir():
      raise UserError(
        f"--openpose_dir={self.openpose_dir}: no such folder; it must contain a folder "
        "of JSON files for each video"
      )


def command(stage: Callable[[Options], object]) -> None:
  """Runs a stage as a program, with `Options` from the command line."""

  def main() -> None:
    values = _flag_values(Options)
    for name in ("videos", "root", "openpose_dir", "mediapipe_env"):
      values[name] = values[name] and pathlib.Path(values[name]).expanduser()
    stage(Options(thresholds=Thresholds(**_flag_values(Thresholds)), **values))

  _define_flags()
  # `wraps`: --help shows the docstring of the stage's module.
  cli.run(functools.wraps(stage)(main))


def _flag_values(options: type) -> dict[str, Any]:
  """Values of the flags that are named like the fields of a dataclass."""
  values = {}
  for field in dataclasses.fields(options):
    if field.name in flags.FLAGS:
      values[field.name] = getattr(flags.FLAGS, field.name)
      if isinstance(field.default, tuple):
        values[field.name] = _range(field.name, values[field.name])
  return values


def _range(name: str, parts: list[str]) -> tuple[float, float]:
  try:
    low, high = map(float, parts)
  except ValueError:
    text = ",".join(parts)
    raise UserError(f"--{name}={text}: expected two numbers, LOW,HIGH") from None
  return low, high


def _define_flags() -> None:
  # Defined when a program starts, not on import, since other programs have flags of the
  # same names. They are registered for the calling program, so that --help shows them.
  flags.disclaim_key_flags()
  flags.DEFINE_string("videos", None, "Folder of videos of one person.")
  flags.DEFINE_string("speaker", None, "Name of the new speaker.")
  flags.DEFINE_string("root", None, "Folder of speaker packs to write to.")
  flags.DEFINE_enum("keypoints", "mediapipe", BACKENDS, "Keypoint detector.")
  flags.DEFINE_string("openpose_dir", None, "Folder of <video stem>/*.json.")
  flags.DEFINE_enum(
    "split_by", "time", SPLITS, "Whether dev is one end of each video or whole videos."
  )
  flags.DEFINE_integer("seed", 0, "Seed of the split.", lower_bound=0)
  flags.DEFINE_integer(
    "workers", max(1, (os.cpu_count() or 1) // 2), "Videos processed in parallel."
  )
  flags.DEFINE_bool("skip_bad_videos", False, "Skip unusable videos.")
  flags.DEFINE_string(
    "mediapipe_env", str(DEFAULT_ENV), "Folder of the MediaPipe environment."
  )
  flags.DEFINE_integer(
    "skip_frames",
    0,
    "Frames (at 15 frames/s) at the start of each video to leave out of the clips.",
  )
  flags.DEFINE_bool("save_frames", False, "Also save the pictures of the frames.")
  define = {
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    tuple: flags.DEFINE_list,
  }
  for field in dataclasses.fields(Thresholds):
    default = field.default
    text = list(map(str, default)) if isinstance(default, tuple) else default
    define[type(default)](field.name, text, field.metadata["help"])
  flags.mark_flags_as_required(["videos", "speaker", "root"])
