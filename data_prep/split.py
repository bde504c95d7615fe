"""Stage 6: splits the clips into train and dev, which share no frame.

By time: a fifth of the windows of each video, at a randomly chosen end, is dev. The
windows that share no frame with dev are train; those between are idle. A video that is
too short for both is train. By video, or if no video is long enough: a fifth of the
windows, as whole videos, is dev. Writes `processed_137.csv` to the pack.
"""

import csv
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from sdt_jax import audio
from sdt_jax.errors import UserError
from sdt_jax.files import replacing
from . import workspace
from .clips import clip_path
from .options import Options, command
from .transcode import pack_wav

DEV_SHARE = 0.2
COLUMNS = (
  *("dataset", "start", "end", "interval_id"),
  *("pose_fn", "audio_fn", "video_fn", "speaker"),
)

Labels = dict[str, dict[int, str]]  # video -> start of window -> split


def split_by_time(starts: Mapping[str, Sequence[int]], seed: int) -> Labels:
  """Labels windows, given by ascending start frames, as "train", "dev" or "idle"."""
  return {video: _one_video(video, list(s), seed) for video, s in starts.items()}


def _one_video(video: str, starts: list[int], seed: int) -> dict[int, str]:
  """Gives dev its share, or less if nothing would be left for train."""
  # Seeded by name, so that adding a video does not change the split of the others.
  dev_is_last = np.random.default_rng([seed, zlib.crc32(video.encode())]).random() < 0.5
  ordered = starts if dev_is_last else starts[::-1]
  wanted = min(len(starts), max(1, round(DEV_SHARE * len(starts))))
  for count in range(wanted, 0, -1):
    dev = set(ordered[-count:])
    border = ordered[-count]  # the dev window nearest to train
    train = {s for s in starts if abs(s - border) >= audio.CLIP_FRAMES} - dev
    if train:
      return {
        s: "dev" if s in dev else "train" if s in train else "idle" for s in starts
      }
  return dict.fromkeys(starts, "train")


def split_by_video(starts: Mapping[str, Sequence[int]], seed: int) -> Labels:
  """Draws whole videos as dev until they have a fifth of the windows."""
  videos = sorted(video for video in starts if starts[video])
  order = np.random.default_rng(seed).permutation(len(videos))
  wanted = DEV_SHARE * sum(map(len, starts.values()))
  labels: Labels = {video: {} for video in starts}
  dev_windows = 0
  for rank, i in enumerate(order):
    is_dev = rank == 0 or (dev_windows < wanted and rank < len(order) - 1)
    dev_windows += is_dev * len(starts[videos[i]])
    labels[videos[i]] = dict.fromkeys(starts[videos[i]], "dev" if is_dev else "train")
  return labels


def split(starts: Mapping[str, Sequence[int]], by: str, seed: int) -> Labels:
  """Splits so that neither train nor dev is empty.

  Args:
    starts: video -> ascending start frames of its windows.
    by: "time" or "video".
    seed: seed of the random choices.

  Raises:
    UserError: there are too few windows.
  """
  if not any(starts.values()):
    raise UserError("no window of any video could be kept; see the report")
  labels = split_by_time(starts, seed) if by == "time" else split_by_video(starts, seed)
  if not _has_both(labels):
    labels = split_by_video(starts, seed)
  if not _has_both(labels):
    raise UserError(
      f"all windows are from video '{next(v for v in starts if starts[v])}', and all "
      "overlap, so they cannot be split into train and dev; add a video, or use one of "
      f"at least {2 * audio.CLIP_FRAMES} frames "
      f"({2 * audio.CLIP_FRAMES / audio.FPS:.1f} s) without gaps"
    )
  return labels


def _has_both(labels: Labels) -> bool:
  return {"train", "dev"} <= {label for of in labels.values() for label in of.values()}


def run(options: Options) -> None:
  """Runs the stage.

  Raises:
    UserError: the clips have not been cut, or there are too few to split.
  """
  videos = workspace.usable_videos(options)
  for video in videos:
    workspace.finished(video, "clips")
  starts = {
    v.name: workspace.read_json(v.folder / "clips.json", "kept")["kept"] for v in videos
  }
  pack = workspace.pack_folder(options)
  path = pack / "processed_137.csv"
  path.unlink(missing_ok=True)  # an older split may name clips that no longer exist
  labels = split(starts, options.split_by, options.seed)
  with replacing(path) as temporary, temporary.open("w", newline="") as file:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for video in videos:
      wav = pack_wav(options, video).relative_to(pack).as_posix()
      for start, label in labels[video.name].items():
        clip = clip_path(options, video.name, start).relative_to(pack).as_posix()
        span = (start, start + audio.CLIP_FRAMES)
        table.writerow(
          [label, *span, video.name, clip, wav, video.name, options.speaker]
        )


if __name__ == "__main__":
  command(run)
