"""OpenPose JSON, one file per frame, to pose arrays and back.

A folder holds `<name>_<frame number>_keypoints.json`; a frame lists its people, each
with flat lists x, y, confidence, x, ... in picture pixels for the body, the face and
each hand. A point that was not found is 0, 0, 0. Version 1.3 is written; older field
names (without `_2d`) and the older body of 18 points are read too.
"""

import itertools
import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

# Where the videos of demo.py have the neck, in their 1280x720 pixels.
NECK_PX = (640.0, 324.0)

VERSION = 1.3

# The body of OpenPose's COCO model, the default before BODY_25.
_COCO_18 = (
  *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
  *("left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee"),
  *("right_ankle", "left_hip", "left_knee", "left_ankle"),
  *("right_eye", "left_eye", "right_ear", "left_ear"),
)


def _names_with(prefix: str) -> tuple[str, ...]:
  return tuple(name for name in kp.KEYPOINTS_137 if name.startswith(prefix))


_FACE = _names_with("face_")
_LEFT_HAND = _names_with("left_hand_")
_RIGHT_HAND = _names_with("right_hand_")
_BODY_25 = kp.KEYPOINTS_137[: -len(_FACE + _LEFT_HAND + _RIGHT_HAND)]

# JSON field -> the point orders it may have, told apart by their length.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
  "pose_keypoints": (_BODY_25, _COCO_18),
  "face_keypoints": (_FACE,),
  "hand_left_keypoints": (_LEFT_HAND,),
  "hand_right_keypoints": (_RIGHT_HAND,),
}
_FRAME_NUMBER = re.compile(r"(\d+)(?:_keypoints)?\.json$")


def from_json(content: Any, where: str) -> np.ndarray:
  """One frame; of several people the one with the largest bounding box.

  Args:
    content: what `json.loads` gave for the file.
    where: the file's name, for the error message.

  Returns:
    (3, 137) float32: x, y in picture pixels and confidence; zeros where there is no
    point, or no person.

  Raises:
    UserError: this is not OpenPose output.
  """
  people = content.get("people") if isinstance(content, dict) else None
  if not isinstance(people, list):
    raise UserError(f"{where}: not OpenPose output, it has no list 'people'")
  frames = [_person(person, f"{where}: person {i}") for i, person in enumerate(people)]
  empty = np.zeros((3, len(kp.KEYPOINTS_137)), np.float32)
  return max(frames, key=_box_area, default=empty)


def _person(person: Any, where: str) -> np.ndarray:
  if not isinstance(person, dict):
    raise UserError(f"{where} is a {type(person).__name__}, expected an object")
  points = np.zeros((3, len(kp.KEYPOINTS_137)), np.float32)
  for field, orders in _FIELDS.items():
    name = f"{field}_2d" if f"{field}_2d" in person else field
    values = _points(person.get(name, []), f"{where}, {name}")
    if not values.shape[1]:
      continue  # this part was not asked for, or not found
    names = next((o for o in orders if len(o) == values.shape[1]), None)
    if names is None:
      raise UserError(
        f"{where}, {name}: {values.shape[1]} points, expected "
        + " or ".join(str(len(o)) for o in orders)
      )
    points[:, [kp.INDEX_137[n] for n in names]] = values
  return points


def _points(values: Any, where: str) -> np.ndarray:
  """A flat list x, y, confidence, ... as (3, points); (0, 0, 0) where not found."""
  try:
    points = np.asarray(values, np.float64).reshape(-1, 3).T
  except (TypeError, ValueError, OverflowError) as e:
    raise UserError(f"{where}: expected a flat list of x, y, confidence") from e
  if not (np.abs(points) < 1e6).all():
    raise UserError(f"{where}: a coordinate is not finite or beyond a million pixels")
  return points * (points[2] > 0)


def _box_area(frame: np.ndarray) -> float:
  """Area of the bounding box of the found points, in px^2; below 0 for none."""
  x, y = frame[:2, frame[2] > 0]
  return float(np.ptp(x) * np.ptp(y)) if x.size else -1.0


def read_openpose_file(path: str | pathlib.Path) -> np.ndarray:
  """(3, 137) float32 of one file, see `from_json`.

  Raises:
    UserError: the file cannot be read or is not OpenPose output.
  """
  try:
    content = json.loads(pathlib.Path(path).read_bytes())
  except (OSError, ValueError, RecursionError) as e:
    reason = " ".join(str(e).split())[:100]
    raise UserError(f"{path}: not a readable JSON file ({reason})") from e
  return from_json(content, str(path))


def frame_files(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The files of a folder by frame number.

  Raises:
    UserError: there are none, a number occurs twice, or numbers are left out.
  """
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise UserError(f"{path}: no such folder of OpenPose JSON files")
  found = [(f, _FRAME_NUMBER.search(f.name)) for f in sorted(folder.glob("*.json"))]
  if not found:
    raise UserError(f"{path}: holds no OpenPose JSON files (*_keypoints.json)")
  numbered: dict[int, pathlib.Path] = {}
  for file, match in found:
    if match is None:
      raise UserError(f"{file}: its name does not end in <frame>_keypoints.json")
    number = int(match[1])
    if number in numbered:
      raise UserError(f"{path}: {numbered[number].name} and {file.name} are one frame")
    numbered[number] = file
  _check_gaps(folder, sorted(numbered))
  return [numbered[number] for number in sorted(numbered)]


def _check_gaps(folder: pathlib.Path, numbers: Sequence[int]) -> None:
  gaps = [
    f"{a + 1}" if b == a + 2 else f"{a + 1}-{b - 1}"
    for a, b in itertools.pairwise(numbers)
    if b != a + 1
  ]
  if gaps:
    more = f" and {len(gaps) - 5} more gaps" if len(gaps) > 5 else ""
    raise UserError(
      f"{folder}: no files for frames {', '.join(gaps[:5])}{more}; copy them, or run "
      "OpenPose again (it writes a file for frames without people too)"
    )


def read_openpose_folder(path: str | pathlib.Path) -> np.ndarray:
  """A whole video.

  Args:
    path: folder of JSON files numbered without gaps, from any number.

  Returns:
    (T, 3, 137) float32: x, y in picture pixels and confidence, by frame number.

  Raises:
    UserError: see `frame_files` and `read_openpose_file`.
  """
  return np.stack([read_openpose_file(file) for file in frame_files(path)])


def to_json(frame: np.ndarray) -> dict[str, Any]:
  """Inverse of `from_json` for one (3, 137) frame, rounded to 0.001."""
  person: dict[str, Any] = {"person_id": [-1]}
  for field, orders in _FIELDS.items():
    values = frame[:, [kp.INDEX_137[name] for name in orders[0]]].T
    rounded = np.round(values.astype(np.float64), 3) * (values[:, 2:] > 0)
    person[f"{field}_2d"] = (rounded + 0.0).ravel().tolist()  # + 0.0: no "-0.0"
  return {"version": VERSION, "people": [person] if (frame[2] > 0).any() else []}


def write_openpose_folder(
  keypoints: np.ndarray, path: str | pathlib.Path, name: str | None = None
) -> None:
  """Inverse of `read_openpose_folder`, to 0.001 px.

  Args:
    keypoints: (T, 3, 137) picture pixels and confidence.
    path: the folder to make. One of an earlier export is replaced.
    name: what file names begin with; without it, the folder's name.

  Raises:
    UserError: the shape is another, or the folder holds other files.
  """
  folder = pathlib.Path(path)
  shape = (3, len(kp.KEYPOINTS_137))
  if keypoints.ndim != 3 or keypoints.shape[1:] != shape:
    raise UserError(
      f"{folder}: keypoints have shape {keypoints.shape}, expected (T, 3, {shape[1]})"
    )
  if folder.exists() and not (
    folder.is_dir() and all(_FRAME_NUMBER.search(f.name) for f in folder.iterdir())
  ):
    raise UserError(f"{folder}: exists and holds other files; choose another folder")
  temporary = folder.with_name(f".{folder.name}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  for i, frame in enumerate(keypoints):
    file = temporary / f"{name or folder.name}_{i:012d}_keypoints.json"
    file.write_text(json.dumps(to_json(frame), separators=(",", ":")))
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


def to_keypoints_137(
  poses_px: np.ndarray, neck_px: tuple[float, float], scale: float = 1.0
) -> np.ndarray:
  """Poses placed in a picture, as OpenPose would have found them.

  Args:
    poses_px: (T, 2, 121) pixels relative to the neck.
    neck_px: where the neck shall be, in picture pixels.
    scale: picture pixels per pixel of `poses_px`.

  Returns:
    (T, 3, 137) float32; the points that the 121 leave out are 0, 0, 0.
  """
  keypoints = np.zeros((len(poses_px), 3, len(kp.KEYPOINTS_137)), np.float32)
  neck = np.asarray(neck_px, np.float32)[:, None]
  keypoints[:, :2, kp.FROM_137] = poses_px * scale + neck
  keypoints[:, :2, kp.NECK_137] = neck[:, 0]
  keypoints[:, 2, [*kp.FROM_137, kp.NECK_137]] = 1
  return keypoints


def write_motion(
  stem: pathlib.Path,
  poses_px: np.ndarray,
  neck_px: tuple[float, float] = NECK_PX,
  scale: float = 1.0,
) -> pathlib.Path:
  """Writes `<stem>_openpose/` from final poses.

  Args:
    stem: path of the folder without its ending.
    poses_px: (T, dims, joints) final poses; NaN stands for a missing point.
    neck_px, scale: see `to_keypoints_137`.

  Raises:
    UserError: neck or scale is impossible, or the folder contains other files or cannot
      be written.
  """
  if not (scale > 0 and np.isfinite([scale, *neck_px]).all()):
    raise UserError(f"{stem}: neck {neck_px} or scale {scale} is impossible")
  keypoints = to_keypoints_137(poses_px, neck_px, scale)
  found = np.isfinite(keypoints).all(axis=1, keepdims=True)
  folder = stem.with_name(f"{stem.name}_openpose")
  try:
    write_openpose_folder(np.where(found, keypoints, 0), folder, stem.name)
  except OSError as e:
    raise UserError(f"{folder}: cannot be written ({e.strerror or e})") from e
  return folder
