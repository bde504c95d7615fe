"""Reads data packs in the format of Speech2Gesture and Speech Drives Templates.

    <root>/<speaker>/processed_137.csv (or clips.csv)   one row per clip
    <root>/<speaker>/<pose_fn>                          one npz per clip

The root may also be the speaker's folder itself. The first public version of Speech
Drives Templates had `<root>/train_<speaker>_137.csv` (or `..._137_3.csv`) instead.

A clip is 64 frames of `OPENPOSE` keypoints at 15 fps (image pixels) with their 16 kHz
mono audio; frames beyond 64 are left out. The column `speaker` of the csv says whose
statistics normalise a clip. Any fault of a pack raises a `UserError` that names the
file.
"""

import collections
import csv
import hashlib
import logging
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from sdt_jax import audio, files, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

CSV_NAMES = ("processed_137.csv", "clips.csv")
_FIRST_VERSION_CSV = re.compile(r"train_(.+?)_137(_3)?\.csv")
SPLITS = {"train": "train", "dev": "dev", "val": "dev", "test": "test"}
"""`dataset` column -> split; rows with another label ("idle") are ignored."""

# Published clips have 67,000 to 68,300 samples, due to the frame rates of their videos.
# If the lengths differ by more than this, audio and poses cannot match.
_TOLERANCE = audio.SAMPLE_RATE // 2

# Larger coordinates are not pixels.
_MAX_PX = 1e6

_CLIP_SAMPLES = audio.num_samples(audio.CLIP_FRAMES)
_POSE_SHAPE = (audio.CLIP_FRAMES, *kp.OPENPOSE.detection_shape)

_log = logging.getLogger(__name__)


class Row(NamedTuple):
  """A row of the csv. If not given there, `start` is -1 and `video` is ""."""

  clip_id: str  # e.g. "oliver/clips/npz/chemistry-35-99"
  path: pathlib.Path
  start: int  # frames
  video: str
  speaker: str  # whose statistics normalise the clip


class Clip(NamedTuple):
  """The content of a clip's npz."""

  audio: np.ndarray  # (68266,) float32, 16 kHz
  poses_px: np.ndarray  # (64, dims, joints) float32, pixels relative to the neck
  detected: np.ndarray  # (64, joints) bool
  was_longer: bool  # frames beyond 64 are left out
  silence: int  # number of zeros at the end of `audio` that the file does not have


class Pack(NamedTuple):
  """The index of a speaker's pack."""

  speakers: tuple[str, ...]  # the first is the one that most train rows name
  rows: dict[str, list[Row]]  # split -> rows in the order of the csv, at least one
  fingerprint: str  # changes if the csv changes, or the size or time of a clip's file


def choose_speaker(root: str | os.PathLike, speaker: str) -> str:
  """The speaker whose pack is used: `speaker`, or if empty the only one in the root.

  Raises:
    UserError: the speaker has no pack in the root, or there is a choice.
  """
  packs = find_packs(root)
  if speaker or not packs:
    _csv_of(root, speaker, packs)
    return speaker
  if len(packs) > 1:
    raise UserError(
      f"dataset.root={os.fspath(root)!r} contains {len(packs)} speakers; choose one "
      f"with --config.dataset.speaker=NAME: {', '.join(sorted(packs))}"
    )
  return next(iter(packs))


def find_packs(root: str | os.PathLike) -> dict[str, pathlib.Path]:
  """The packs in a folder, which may itself be a pack: speaker -> csv.

  Raises:
    UserError: the root is not a folder.
  """
  if not os.path.isdir(root):
    raise UserError(
      f"dataset.root={os.fspath(root)!r} is not a folder; give one with <speaker>/*.csv"
    )
  folder = pathlib.Path(root)
  packs = {}
  for path in sorted(folder.glob("train_*_137*.csv"), reverse=True):
    if match := _FIRST_VERSION_CSV.fullmatch(path.name):
      packs[match[1]] = path  # "..._137.csv" sorts after "..._137_3.csv"
  for name in reversed(CSV_NAMES):
    packs |= {path.parent.name: path for path in folder.glob(f"*/{name}")}
    if (folder / name).is_file():
      packs[os.path.basename(os.path.abspath(root))] = folder / name
  return packs


def read_index(root: str | os.PathLike, speaker: str) -> Pack:
  """Reads the csv of a pack; does not open the clips.

  Args:
    root: the folder that contains the packs, or the pack itself.
    speaker: name of the pack: of its folder, or in the name of its csv.

  Raises:
    UserError: the folder or the csv is missing, the csv cannot be read or lacks a
      column, no row is labelled "train", or a speaker has no statistics.
  """
  csv_path = _csv_of(root, speaker, find_packs(root))
  rows: dict[str, list[Row]] = {split: [] for split in SPLITS.values()}
  ignored = collections.Counter()
  for line in _read_csv(csv_path):
    label = (line["dataset"] or "").strip()
    if label in SPLITS:
      rows[SPLITS[label]].append(_parse_row(line, csv_path, speaker))
    else:
      ignored[label] += 1
  if not rows["train"]:
    raise UserError(
      f"{csv_path}: no row has 'train' in the column 'dataset'; label some rows so"
      + (f" (found {', '.join(map(repr, ignored))})" if ignored else "")
    )
  if ignored:
    _log.info("%s: rows left out by label: %s", csv_path, dict(ignored))
  rows = {split: split_rows for split, split_rows in rows.items() if split_rows}
  names = _speakers(csv_path, rows)
  return Pack(names, rows, _fingerprint(csv_path, rows, len(names)))


def _speakers(csv_path: pathlib.Path, rows: dict[str, list[Row]]) -> tuple[str, ...]:
  """The speakers of a pack, the one with the most train rows first."""
  in_train = collections.Counter(row.speaker for row in rows["train"])
  main = in_train.most_common(1)[0][0]
  others = {row.speaker for split_rows in rows.values() for row in split_rows} - {main}
  for name in sorted(others - in_train.keys() - set(speakers.published_names())):
    raise UserError(
      f"{csv_path}: speaker {name!r} has no train row and no published statistics; "
      "label some of its rows 'train', or leave its rows out"
    )
  return main, *sorted(others)


def _csv_of(
  root: str | os.PathLike, speaker: str, packs: dict[str, pathlib.Path]
) -> pathlib.Path:
  if speaker in packs:
    return packs[speaker]
  # An empty name, or one with a separator, could point outside of the root.
  is_name = speaker not in {"", ".", ".."} and pathlib.Path(speaker).name == speaker
  if is_name and os.path.isdir(pathlib.Path(root, speaker)):
    folder = pathlib.Path(root, speaker)
    raise UserError(f"{folder}: has neither {' nor '.join(CSV_NAMES)}; copy one")
  if not packs:
    raise UserError(f"{root}: contains no pack, such as <speaker>/{CSV_NAMES[0]}")
  found = ", ".join(sorted(packs))
  raise UserError(f"{root}: no speaker {speaker!r}; found: {found}")


def _read_csv(path: pathlib.Path) -> list[dict[str, str]]:
  try:
    with path.open(newline="", encoding="utf-8-sig") as f:
      reader = csv.DictReader(f)
      missing = {"dataset", "pose_fn"} - set(reader.fieldnames or ())
      if missing:
        raise UserError(
          f"{path}: column {', '.join(sorted(missing))} missing; "
          f"found: {', '.join(reader.fieldnames or ()) or 'nothing'}"
        )
      return list(reader)
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise UserError(
      f"{path}: cannot be read as csv ({e}); save it as UTF-8 text, or copy it again"
    ) from e


def _parse_row(line: dict[str, str], csv_path: pathlib.Path, pack_name: str) -> Row:
  folder = csv_path.parent
  pose_fn = (line["pose_fn"] or "").strip()
  if not pose_fn:
    raise UserError(
      f"{csv_path}: a {line['dataset']} row has an empty pose_fn; fill it"
    )
  # `pose_fn` may be absolute, start with the speaker's name, or be relative to the
  # current folder. Unlike `Path.is_file`, `os.path.isfile` does not raise for names
  # that are too long.
  paths = [folder / pose_fn, folder.parent / pose_fn, pathlib.Path(pose_fn)]
  path = next((path for path in paths if os.path.isfile(path)), paths[0])
  within = path.relative_to(folder) if path.is_relative_to(folder) else path
  start = (line.get("start") or "").strip()
  return Row(
    clip_id=f"{pack_name}/{within.with_suffix('').as_posix().lstrip('/')}",
    path=path,
    start=int(start) if start.isdecimal() and len(start) < 10 else -1,
    video=(line.get("video_fn") or line.get("interval_id") or "").strip(),
    speaker=(line.get("speaker") or "").strip() or pack_name,
  )


def _fingerprint(
  csv_path: pathlib.Path, rows: dict[str, list[Row]], num_speakers: int
) -> str:
  digest = hashlib.sha256(csv_path.read_bytes())
  if num_speakers > 1:  # older versions built such a pack as one of a single speaker
    digest.update(b"speakers")
  for row in (row for split_rows in rows.values() for row in split_rows):
    try:
      stat = os.stat(row.path)
      digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    except (OSError, ValueError):
      digest.update(b"missing\n")
  return digest.hexdigest()[:12]


def speaker_of(path: pathlib.Path) -> str | None:
  """The speaker whose pack contains this clip, by its folders; None without a pack."""
  for folder in path.resolve().parents:
    if any((folder / name).is_file() for name in CSV_NAMES):
      return folder.name
  return None


def read_clip(path: pathlib.Path, clip_id: str) -> Clip:
  """Reads and checks one clip.

  Raises:
    UserError: the file is missing or no npz, or its arrays are not those of a clip.
  """
  try:
    arrays = files.read_arrays(path, "pose", "audio")  # not `imgs`: may be pickled
  except UserError as e:
    raise UserError(f"{clip_id}: {e}") from e
  keypoints = _checked_pose(arrays["pose"], clip_id)
  num_frames, keypoints = len(keypoints), keypoints[: audio.CLIP_FRAMES]
  samples = _checked_audio(arrays["audio"], num_frames, clip_id)
  return Clip(
    audio=audio.fit_to_frames(samples, audio.CLIP_FRAMES),
    poses_px=pose.from_openpose(keypoints),
    detected=detected_points(keypoints),
    was_longer=num_frames > audio.CLIP_FRAMES,
    silence=max(0, _CLIP_SAMPLES - len(samples)),
  )


def _checked_pose(keypoints: np.ndarray, clip_id: str) -> np.ndarray:
  shape = keypoints.shape
  if shape[1:] != _POSE_SHAPE[1:] or len(keypoints) < audio.CLIP_FRAMES:
    raise UserError(f"{clip_id}: pose has shape {shape}, expected {_POSE_SHAPE}")
  if keypoints.dtype.kind not in "fiu":
    raise UserError(f"{clip_id}: pose has type {keypoints.dtype}, expected float32")
  with np.errstate(over="ignore"):  # values that overflow are rejected below
    keypoints = keypoints.astype(np.float32)
  if not (np.abs(keypoints) < _MAX_PX).all():
    raise UserError(
      f"{clip_id}: pose has values that are not finite or exceed a million pixels"
    )
  return keypoints


def _checked_audio(samples: np.ndarray, num_frames: int, clip_id: str) -> np.ndarray:
  longest = audio.num_samples(num_frames) + _TOLERANCE
  if samples.ndim != 1 or not _CLIP_SAMPLES - _TOLERANCE <= len(samples) <= longest:
    raise UserError(
      f"{clip_id}: audio has shape {samples.shape}, expected about ({_CLIP_SAMPLES},): "
      f"{audio.CLIP_FRAMES} frames of 16 kHz mono"
    )
  if samples.dtype.kind not in "fi":
    raise UserError(
      f"{clip_id}: audio has type {samples.dtype}, expected float or signed integers"
    )
  full_scale = -np.iinfo(samples.dtype).min if samples.dtype.kind == "i" else 1
  in_unit_range = samples / full_scale
  if not (np.abs(in_unit_range) < audio.MAX_PEAK).all():
    raise UserError(
      f"{clip_id}: audio has values that are not finite or far outside of [-1, 1]"
    )
  return in_unit_range.astype(np.float32)


def detected_points(keypoints: np.ndarray) -> np.ndarray:
  """Keypoints (..., dims + 1, joints) -> which joints of `UPPER_BODY` were detected.

  These are joints with positive confidence that are not at the image origin. If the
  neck was not detected, no joint counts, because poses are relative to it.

  Returns:
    (..., joints) bool.
  """
  x, y, confidence = np.moveaxis(keypoints, -2, 0)
  found = (confidence > 0) & ((x != 0) | (y != 0))
  return found[..., kp.FROM_OPENPOSE] & found[..., kp.OPENPOSE.index["neck"], None]
