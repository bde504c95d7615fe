"""Reads and writes OpenPose JSON, one file per frame.

A folder contains `<name>_<frame number>_keypoints.json`. A frame lists its people; a
person has one flat list x, y, confidence, x, ... in image pixels for the body, the face
and each hand. A point that was not detected is 0, 0, 0. The version written is 1.3.
Older files, with field names without `_2d` or a body of 18 points, are read too.

Arrays are `OPENPOSE` keypoints, (..., dims + 1, joints): x, y and confidence.
"""

import itertools
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax import pose
from sdt_jax.errors import UserError

# Position of the neck in the 1280x720 videos of demo.py.
NECK_PX = (640.0, 324.0)

VERSION = 1.3

# JSON field -> the joint lists that it may contain, distinguished by their length.
_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
  "pose_keypoints": (kp.OPENPOSE.parts["body"], kp.COCO_18),
  "face_keypoints": (kp.OPENPOSE.parts["face"],),
  "hand_left_keypoints": (kp.OPENPOSE.parts["left_hand"],),
  "hand_right_keypoints": (kp.OPENPOSE.parts["right_hand"],),
}
_FRAME_NUMBER = re.compile(r"(\d+)(?:_keypoints)?\.json$")


def from_json(content: Any, where: str) -> np.ndarray:
  """Parses a frame. If it has several people, takes the largest bounding box.

  Args:
    content: the parsed JSON of the file.
    where: the file name, for error messages.

  Returns:
    (dims + 1, joints) float32; zeros for missing points, or if there is no person.

  Raises:
    UserError: the content is not OpenPose output.
  """
  people = content.get("people") if isinstance(content, dict) else None
  if not isinstance(people, list):
    raise UserError(f"{where}: not OpenPose output: it has no list 'people'")
  frames = [_person(person, f"{where}: person {i}") for i, person in enumerate(people)]
  empty = np.zeros(kp.OPENPOSE.detection_shape, np.float32)
  return max(frames, key=_box_area, default=empty)


def _person(person: Any, where: str) -> np.ndarray:
  if not isinstance(person, dict):
    raise UserError(f"{where} is a {type(person).__name__}, expected an object")
  points = np.zeros(kp.OPENPOSE.detection_shape, np.float32)
  for field, orders in _FIELDS.items():
    name = f"{field}_2d" if f"{field}_2d" in person else field
    values = _points(person.get(name, []), f"{where}, {name}")
    if not values.shape[1]:
      continue  # this part was not requested, or not detected
    names = next((o for o in orders if len(o) == values.shape[1]), None)
    if names is None:
      raise UserError(
        f"{where}, {name}: {values.shape[1]} points, expected "
        + " or ".join(str(len(o)) for o in orders)
      )
    points[:, kp.OPENPOSE.indices(*names)] = values
  return points


def _points(values: Any, where: str) -> np.ndarray:
  """A flat list x, y, confidence, ... -> (3, points); 0, 0, 0 if not detected."""
  try:
    points = np.asarray(values, np.float64).reshape(-1, 3).T
  except (TypeError, ValueError, OverflowError) as e:
    raise UserError(f"{where}: expected a flat list of x, y, confidence") from e
  if not (np.abs(points) < 1e6).all():
    raise UserError(f"{where}: a coordinate is not finite or exceeds a million pixels")
  return points * (points[2] > 0)


def _box_area(frame: np.ndarray) -> float:
  """Area of the bounding box of the detected points, in px^2; -1 if there are none."""
  x, y = frame[:2, frame[2] > 0]
  return float(np.ptp(x) * np.ptp(y)) if x.size else -1.0


def read_openpose_file(path: str | pathlib.Path) -> np.ndarray:
  """Reads the file of one frame; see `from_json`.

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
  """The files of a folder, sorted by frame number.

  Raises:
    UserError: there are no files, two files have the same number, or a number is
      missing.
  """
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise UserError(f"{path}: no such folder of OpenPose JSON files")
  found = [(f, _FRAME_NUMBER.search(f.name)) for f in sorted(folder.glob("*.json"))]
  if not found:
    raise UserError(f"{path}: contains no OpenPose JSON files (*_keypoints.json)")
  numbered: dict[int, pathlib.Path] = {}
  for file, match in found:
    if match is None:
      raise UserError(f"{file}: the name does not end in <frame>_keypoints.json")
    number = int(match[1])
    if number in numbered:
      other = numbered[number].name
      raise UserError(f"{path}: {other} and {file.name} have the same frame number")
    numbered[number] = file
  numbers = sorted(numbered)
  gaps = [
    f"{a + 1}" if b == a + 2 else f"{a + 1}-{b - 1}"
    for a, b in itertools.pairwise(numbers)
    if b != a + 1
  ]
  if gaps:
    more = f" and {len(gaps) - 5} more gaps" if len(gaps) > 5 else ""
    raise UserError(
      f"{folder}: no files for frames {', '.join(gaps[:5])}{more}; copy them, or run "
      "OpenPose again (it also writes files for frames without people)"
    )
  return [numbered[number] for number in numbers]


def read_openpose_folder(path: str | pathlib.Path) -> np.ndarray:
  """Reads the frames of a video: (T, dims + 1, joints) float32, by frame number.

  Raises:
    UserError: see `frame_files` and `read_openpose_file`.
  """
  return np.stack([read_openpose_file(file) for file in frame_files(path)])


def to_json(frame: np.ndarray) -> dict[str, Any]:
  """Inverse of `from_json` for a (dims + 1, joints) frame, rounded to 0.001."""
  person: dict[str, Any] = {"person_id": [-1]}
  for field, orders in _FIELDS.items():
    values = frame[:, kp.OPENPOSE.indices(*orders[0])].T
    rounded = np.round(values.astype(np.float64), 3) * (values[:, 2:] > 0)
    person[f"{field}_2d"] = (rounded + 0.0).ravel().tolist()  # + 0.0: no "-0.0"
  return {"version": VERSION, "people": [person] if (frame[2] > 0).any() else []}


def write_openpose_folder(
  keypoints: np.ndarray, path: str | pathlib.Path, name: str | None = None
) -> None:
  """Inverse of `read_openpose_folder`, to 0.001 px.

  Args:
    keypoints: (T, dims + 1, joints).
    path: the folder to create. A folder of an earlier export is replaced.
    name: prefix of the file names; by default the folder's name.

  Raises:
    UserError: the shape is wrong, or the folder contains other files.
  """
  folder = pathlib.Path(path)
  shape = kp.OPENPOSE.detection_shape
  if keypoints.ndim != 3 or keypoints.shape[1:] != shape:
    raise UserError(
      f"{folder}: keypoints have shape {keypoints.shape}, "
      f"expected (T, {shape[0]}, {shape[1]})"
    )
  if folder.exists() and not (
    folder.is_dir() and all(_FRAME_NUMBER.search(f.name) for f in folder.iterdir())
  ):
    raise UserError(f"{folder}: contains other files; choose another folder")
  temporary = folder.with_name(f".{folder.name}.tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  for i, frame in enumerate(keypoints):
    file = temporary / f"{name or folder.name}_{i:012d}_keypoints.json"
    file.write_text(json.dumps(to_json(frame), separators=(",", ":")))
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)


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
    neck_px, scale: see `pose.to_openpose`.

  Raises:
    UserError: neck or scale is impossible, or the folder contains other files or cannot
      be written.
  """
  if not (scale > 0 and np.isfinite([scale, *neck_px]).all()):
    raise UserError(f"{stem}: neck {neck_px} or scale {scale} is impossible")
  keypoints = pose.to_openpose(poses_px, neck_px, scale)
  found = np.isfinite(keypoints).all(axis=1, keepdims=True)
  folder = stem.with_name(f"{stem.name}_openpose")
  try:
    write_openpose_folder(np.where(found, keypoints, 0), folder, stem.name)
  except OSError as e:
    raise UserError(f"{folder}: cannot be written ({e.strerror or e})") from e
  return folder
