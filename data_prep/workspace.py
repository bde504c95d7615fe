"""The files of the stages, and how a stage runs over all videos.

    <root>/<speaker>/                    the pack: csv, clips, speaker.json, report.html
    <root>/<speaker>/work/<video>/       intermediate results of a video
    <root>/<speaker>/work/<video>/<stage>.stamp

A stamp is a hash of the parameters and inputs of the stage. It is written last; videos
with a matching stamp are skipped. Every file is written under a temporary name and then
renamed, so a run can be killed at any time and restarted.
"""

import concurrent.futures
import dataclasses
import glob
import hashlib
import json
import pathlib
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tqdm

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.files import check_writable, read_arrays, replacing
from .options import Options

FORMAT = 1  # increased if results of earlier versions must not be reused

VIDEO_SUFFIXES = {
  *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"),
  *(".m2ts", ".wmv", ".flv", ".ogv", ".3gp"),
}

Progress = Callable[[float], None]
"""Called with the share of the video that is done."""


class Video(NamedTuple):
  """A source video: its name in the pack, its path and its folder of results."""

  name: str
  path: pathlib.Path
  folder: pathlib.Path


def pack_folder(options: Options) -> pathlib.Path:
  return options.root / options.speaker


def find_videos(options: Options) -> list[Video]:
  """The videos of the folder, sorted by name; other files are ignored.

  Raises:
    UserError: there are no videos, or two have the same stem.
  """
  paths = sorted(
    p for p in options.videos.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES
  )
  paths = [p for p in paths if p.is_file() and not p.name.startswith(".")]
  if not paths:
    raise UserError(
      f"--videos={options.videos}: holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))})"
    )
  by_name: dict[str, pathlib.Path] = {}
  for path in paths:
    if path.stem in by_name:
      raise UserError(
        f"{by_name[path.stem]} and {path.name} have the same stem; rename one of them"
      )
    by_name[path.stem] = path
  work = pack_folder(options) / "work"
  return [Video(name, path, work / name) for name, path in by_name.items()]


# --- files ---


def write_json(path: pathlib.Path, content: Any) -> None:
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(content, indent=1))


def read_json(path: pathlib.Path, *keys: str) -> dict[str, Any]:
  """Reads an object written by a stage, which must have these keys.

  Raises:
    UserError: the file is missing or damaged.
  """
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as e:
    raise UserError(f"{path}: cannot be read ({e}); {_again(path)}") from e
  if not isinstance(content, dict) or not content.keys() >= set(keys):
    raise UserError(f"{path}: lacks {', '.join(keys)}; {_again(path)}")
  return content


def _again(path: pathlib.Path) -> str:
  program = f"python -m {__package__}.prepare"
  return f"remove {path.parent} and run {program} with the same flags"


def write_npz(path: pathlib.Path, **arrays: np.ndarray) -> None:
  with replacing(path) as temporary, temporary.open("wb") as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def read_npz(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
  """Reads arrays written by a stage, see `files.read_arrays`."""
  try:
    return read_arrays(path, *names)
  except UserError as e:
    raise UserError(f"{e}; {_again(path)}") from e


def read_source(video: Video) -> dict[str, Any]:
  """Reads source.json: probe, canvas, times (list of seconds), sound_seconds."""
  keys = ("probe", "canvas", "times", "sound_seconds")
  return read_json(video.folder / "source.json", *keys)


def read_keypoints(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads keypoints (T, 3, joints) and their origin (T, joints).

  Raises:
    UserError: the file is missing or damaged.
  """
  arrays = read_npz(path, "keypoints", "origin")
  keypoints, origin = arrays["keypoints"], arrays["origin"]
  shape = (len(origin) if origin.ndim else 0, 3, kp.OPENPOSE.num_joints)
  is_number = keypoints.dtype.kind == "f" and origin.dtype.kind == "i"
  if not (is_number and keypoints.shape == shape and origin.shape == shape[::2]):
    raise UserError(f"{path}: arrays have unexpected shapes or types; {_again(path)}")
  return keypoints, origin


def remove_unfinished(folder: pathlib.Path, of: str = "") -> None:
  """Removes temporary files of killed runs.

  Args:
    folder: folder of the files.
    of: final name of the file; by default of any file.
  """
  for path in folder.glob(f".[0-9]*-{glob.escape(of) or '*'}"):
    if path.is_file():
      path.unlink()


# --- stamps ---


def digest(content: Any) -> str:
  """Hash of JSON-serialisable content."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_path(folder: pathlib.Path, stage: str) -> pathlib.Path:
  return folder / f"{stage}.stamp"


def read_stamp(folder: pathlib.Path, stage: str) -> str:
  """The stamp of a stage, or "" if the stage has not been completed."""
  path = stamp_path(folder, stage)
  return path.read_text() if path.is_file() else ""


def write_stamp(folder: pathlib.Path, stage: str, key: str) -> None:
  with replacing(stamp_path(folder, stage)) as temporary:
    temporary.write_text(key)


def finished(video: Video, stage: str) -> str:
  """The stamp of a stage.

  Raises:
    UserError: the stage has not been completed.
  """
  if stamp := read_stamp(video.folder, stage):
    return stamp
  raise UserError(
    f"{video.name}: stage '{stage}' has not run; run "
    f"python -m {__package__}.{stage} with the same flags first"
  )


# --- unusable videos ---


def refusal(video: Video) -> dict[str, str] | None:
  """Stage and reason for which a video was skipped, or None."""
  path = video.folder / "refused.json"
  return read_json(path, "stage", "reason") if path.is_file() else None


def usable_videos(options: Options) -> list[Video]:
  """The videos that were not skipped by any stage."""
  return [video for video in find_videos(options) if refusal(video) is None]


def _handle_refusals(stage: str, options: Options, errors: dict[Video, str]) -> None:
  if errors and not options.skip_bad_videos:
    reasons = list(errors.values())
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise UserError(
      f"{'; '.join(reasons[:3])}{more}: fix or remove, or add --skip_bad_videos"
    )
  for video, reason in errors.items():
    write_json(video.folder / "refused.json", {"stage": stage, "reason": reason})
    print(f"skipped: {reason}", file=sys.stderr)
  if not usable_videos(options):
    raise UserError(f"--videos={options.videos}: none of the videos is usable")


# --- running ---


@dataclasses.dataclass(frozen=True)
class VideoStage:
  """A stage that processes each video independently."""

  name: str  # also that of its stamp
  previous: str | None  # the stage that it reads the results of
  outputs: tuple[str, ...]  # files that it writes to the folder of the video
  parameters: Callable[[Options, Video], Any]  # what else the result depends on
  work: Callable[[Options, Video, Progress], None]  # UserError: the video is unusable
  seconds: Callable[[Video], float] = lambda video: read_source(video)["times"][-1]

  def run(self, options: Options) -> None:
    """Processes all videos without a matching stamp, several in parallel.

    Raises:
      UserError: the previous stage has not run; `root` is not writable; or videos are
        unusable (without `skip_bad_videos`), after the others have been processed.
    """
    errors: dict[Video, str] = {}
    todo, usable = [], []
    for video in self._candidates(options):
      try:
        key = self._key(options, video)
        if not self._is_done(video, key):
          todo.append((video, key, self.seconds(video)))
        usable.append(video)
      except UserError as e:
        errors[video] = str(e)
    if errors and not options.skip_bad_videos:
      _handle_refusals(self.name, options, errors)
    check_writable(pack_folder(options), "--root")
    for video in usable:
      (video.folder / "refused.json").unlink(missing_ok=True)
    stop = threading.Event()
    with (
      tqdm.tqdm(
        total=sum(seconds for *_, seconds in todo),
        desc=f"{self.name:10}",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left",
      ) as bar,
      concurrent.futures.ThreadPoolExecutor(options.workers) as pool,
    ):
      jobs = {
        pool.submit(
          self._work, options, video, key, _progress(bar, seconds, stop)
        ): video
        for video, key, seconds in todo
      }
      try:
        for job in concurrent.futures.as_completed(jobs):
          if isinstance(error := job.exception(), UserError):
            errors[jobs[job]] = str(error)
          elif error:
            raise error
      except BaseException:
        stop.set()
        pool.shutdown(cancel_futures=True)
        raise
    _handle_refusals(self.name, options, errors)

  def _candidates(self, options: Options) -> list[Video]:
    """`usable_videos` and those that this stage skipped before, which are retried."""
    videos = find_videos(options)
    if self.previous is None:  # if the video was replaced, later stages may accept it
      return videos
    return [
      v for v in videos if (refusal(v) or {"stage": self.name})["stage"] == self.name
    ]

  def _key(self, options: Options, video: Video) -> str:
    before = self.previous and finished(video, self.previous)
    return digest([FORMAT, self.name, before, self.parameters(options, video)])

  def _is_done(self, video: Video, key: str) -> bool:
    outputs_exist = all((video.folder / name).exists() for name in self.outputs)
    return outputs_exist and read_stamp(video.folder, self.name) == key

  def _work(self, options: Options, video: Video, key: str, progress: Progress) -> None:
    remove_unfinished(video.folder)
    stamp_path(video.folder, self.name).unlink(missing_ok=True)
    self.work(options, video, progress)
    write_stamp(video.folder, self.name, key)
    progress(1.0)


def _progress(bar: tqdm.tqdm, seconds: float, stop: threading.Event) -> Progress:
  """Adds the progress of one video to a bar in seconds of all videos.

  It raises once `stop` is set, which ends the job: threads cannot be killed.
  """
  done = 0.0

  def progress(share: float) -> None:
    nonlocal done
    if stop.is_set():
      raise RuntimeError("another video failed, or the user stopped the run")
    with bar.get_lock():
      step = max(0.0, share * seconds - done)
      done += step
      bar.update(min(step, bar.total - bar.n))  # against rounding errors

  return progress
