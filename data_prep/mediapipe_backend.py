"""Detects keypoints with MediaPipe, in several passes over the video.

1. Face detection, twice a second: if there are several people, the later passes are
   restricted to the part of the picture around the largest face.
2. Holistic, on each picture independently: body, face, and fallback hands.
3. The hand model, on a square of 2.5 shoulder widths around each wrist; it is more
   accurate than Holistic (docs/data_preparation.md has the figures).
4. Where `rules.hand_rules` rejects the hand or none was found: the hand of Holistic,
   then the hand model on smaller squares.

The passes run in a separate environment (`mediapipe_worker`). Each writes its results
to the folder of the video, so that an interrupted run can continue.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from . import mediapipe_env, rules, workspace
from .detection import CONFIDENCE, Detection, Origin
from .transcode import read_canvas
from .workspace import Progress, Video

_HERE = pathlib.Path(__file__).parent
_CHUNK = 200  # pictures per file of results
_FACES_PER_SECOND = 2
_OFTEN = 0.2  # share of the searched pictures that must show another person
_HEAD = 1.5  # centre of a face box to above the hair, in box heights
_SQUARES = (2.5, 1.4, 1.0)  # sides of the squares around a wrist, in shoulder widths
_AROUND_HAND = 1.3  # side of a shared square minus the largest distance of its wrists
_PASSES = ("faces", "holistic", *(f"hands_{i}" for i in range(len(_SQUARES))))


@functools.cache
def _mapping() -> dict[str, Any]:
  return json.loads((_HERE / "mediapipe_map.json").read_text())


class MediaPipe:
  """The backend that needs only the videos."""

  def __init__(self, env: pathlib.Path, thresholds: rules.Thresholds):
    self._env = env
    self._thresholds = thresholds

  def parameters(self, video: Video) -> Any:
    thresholds = dataclasses.asdict(self._thresholds.of_hands())
    return ["mediapipe", mediapipe_env.version(), thresholds]

  def detect(self, video: Video, progress: Progress) -> Detection:
    python = mediapipe_env.python_of(self._env)
    run = _Run(video, python, progress, self.parameters(video))
    picture = read_canvas(video).box
    box, notes = look_at(run.faces(picture), picture)
    holistic = to_openpose(run.holistic(box))
    keypoints = holistic.copy()
    for side in rules.SIDES:
      keypoints[:, :, rules.PARTS[f"{side}_hand"]] = 0
    origin = np.where(keypoints[:, 2] > 0, Origin.FOUND, Origin.MISSING)
    first = _around_wrists(run, keypoints, 0)
    counts = self._take(keypoints, origin, first, box, Origin.FOUND)
    self._take(keypoints, origin, holistic, box, Origin.SECOND_PASS)
    for i in range(1, len(_SQUARES)):
      again = _around_wrists(run, keypoints, i)
      self._take(keypoints, origin, again, box, Origin.SECOND_PASS)
    run.remove()
    return Detection(keypoints, origin.astype(np.int8), counts, notes)

  def _take(
    self,
    keypoints: np.ndarray,
    origin: np.ndarray,
    candidate: np.ndarray,
    box: rules.Box,
    made_by: Origin,
  ) -> dict[str, int]:
    """Fills missing hands, in place, with candidates that pass the rules.

    Returns:
      Rule -> number of hands that it rejected.
    """
    missing = _missing_hands(keypoints)
    trial = keypoints.copy()
    for i, side in enumerate(rules.SIDES):
      at = rules.block(missing[:, i], rules.PARTS[f"{side}_hand"])
      trial[at] = candidate[at] * [[1], [1], [CONFIDENCE.get(made_by, 1)]]
    counts = rules.reject_hands(trial, box, self._thresholds)
    taken = missing & ~_missing_hands(trial)
    for i, side in enumerate(rules.SIDES):
      points = rules.PARTS[f"{side}_hand"]
      at = rules.block(taken[:, i], points)
      keypoints[at] = trial[at]
      origin[np.ix_(taken[:, i], points)] = made_by
    return counts


def _around_wrists(run: "_Run", keypoints: np.ndarray, number: int) -> np.ndarray:
  """(F, 3, joints) with the missing hands that the hand model finds."""
  frames, sides, boxes = wrist_boxes(keypoints, _SQUARES[number], number == 0)
  if not len(frames):
    return np.zeros_like(keypoints)
  return from_squares(keypoints, frames, sides, *run.hands(number, frames, boxes))


# --- several people ---


def look_at(
  faces: tuple[np.ndarray, np.ndarray, int], picture: rules.Box
) -> tuple[rules.Box, list[str]]:
  """The part of the picture that shows the largest person.

  If another face is often beside the largest face, the picture is cropped half way
  between them; if it is often above or below, just above the head of the lower person.

  Args:
    faces: boxes (n, 4), picture number of each box, number of pictures searched.
    picture: x, y, width, height of the whole picture.

  Returns:
    x, y, width, height; and a note if this is not the whole picture.
  """
  boxes, numbers, looks = faces
  is_main = np.zeros(len(boxes), bool)  # the largest box of each picture
  areas = boxes[:, 2] * boxes[:, 3]
  for number in np.unique(numbers):
    here = np.flatnonzero(numbers == number)
    is_main[here[np.argmax(areas[here])]] = True
  if (~is_main).sum() < _OFTEN * looks:
    return picture, []
  middles = boxes[:, :2] + boxes[:, 2:] / 2
  main = np.median(middles[is_main], axis=0)
  off = middles - main
  beside, after = np.abs(off[:, 0]) >= np.abs(off[:, 1]), (off > 0).T
  head = middles[:, 1] - _HEAD * boxes[:, 3]  # top of the head
  left, top = picture[:2]
  right, bottom = left + picture[2], top + picture[3]

  def others(direction: np.ndarray) -> np.ndarray:
    """Mask of the other faces in a direction; empty if there are few."""
    mask = direction & ~is_main
    return mask & (mask.sum() >= _OFTEN * looks)

  if (on_left := others(beside & ~after[0])).any():
    left = max(left, round(main[0] + np.median(off[on_left, 0]) / 2))
  if (on_right := others(beside & after[0])).any():
    right = min(right, round(main[0] + np.median(off[on_right, 0]) / 2))
  if others(~beside & ~after[1]).any():
    top = max(top, round(np.median(head[is_main])))
  if (below := others(~beside & after[1])).any():
    bottom = min(bottom, round(np.median(head[below])))
  note = (
    f"several people: only x {left}-{right}, y {top}-{bottom} of the canvas, around "
    "the largest face, is used"
  )
  return (left, top, right - left, bottom - top), [note]


# --- mapping ---


def to_openpose(raw: dict[str, np.ndarray]) -> np.ndarray:
  """Converts raw landmarks of Holistic to OpenPose keypoints (F, 3, joints).

  The confidence of body points is MediaPipe's visibility.

  Args:
    raw: pose (F, 33, 3), face (F, 478, 2), left and right (F, 21, 2), canvas pixels,
      NaN where not found.
  """
  keypoints = np.zeros((len(raw["pose"]), 3, kp.OPENPOSE.num_joints), np.float32)
  for name, sources in _mapping()["body"].items():
    keypoints[:, :, kp.OPENPOSE.index[name]] = raw["pose"][:, sources].mean(1)
  for part, points in (
    ("face", raw["face"][:, _mapping()["face"]]),
    ("left_hand", raw["left"]),
    ("right_hand", raw["right"]),
  ):
    keypoints[:, :2, rules.PARTS[part]] = np.moveaxis(points, -1, -2)
    keypoints[:, 2, rules.PARTS[part]] = 1
  known = np.isfinite(keypoints).all(1, keepdims=True) & (keypoints[:, 2:] > 0)
  return np.where(known, keypoints, 0)


def _missing_hands(keypoints: np.ndarray) -> np.ndarray:
  """(F, 2) bool: left and right hand."""
  hands = [keypoints[:, 2, rules.PARTS[f"{side}_hand"]] for side in rules.SIDES]
  return np.stack([(hand == 0).any(1) for hand in hands], 1)


# --- hands around the wrists ---


def wrist_boxes(
  keypoints: np.ndarray, size: float, together: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Squares around the wrists of the missing hands.

  Args:
    keypoints: (F, 3, joints).
    size: side of the square in shoulder widths.
    together: use one square for both hands of a frame if it is large enough.

  Returns:
    Ascending frames (n,), sides (n,) as indices into `rules.SIDES`, boxes (n, 4) int.
  """
  wrists = np.stack([rules.point(keypoints, f"{s}_wrist") for s in rules.SIDES], 1)
  unit = rules.shoulder_width(keypoints)
  wanted = _missing_hands(keypoints) & np.isfinite(wrists).all(-1)
  frames, sides = np.nonzero(wanted)
  if not len(frames) or not np.isfinite(unit):
    return frames[:0], sides[:0], np.zeros((0, 4), int)
  if together:
    near = rules.distance(wrists[:, 0], wrists[:, 1]) < (size - _AROUND_HAND) * unit
    shared = near & wanted.all(1)
    wrists[shared] = wrists[shared].mean(1, keepdims=True)
  side_px = max(1, round(size * unit))
  corners = np.rint(wrists[frames, sides] - side_px / 2).astype(int)
  return frames, sides, np.insert(corners, [2, 2], side_px, axis=1)


def from_squares(
  keypoints: np.ndarray,
  frames: np.ndarray,
  sides: np.ndarray,
  points: np.ndarray,
  is_left: np.ndarray,
) -> np.ndarray:
  """Chooses the more likely of the two hands found in each square.

  A hand with the label of the requested side takes precedence; between hands with the
  same label, the one nearer to the wrist does.

  Args:
    keypoints: (F, 3, joints) so far.
    frames, sides: (n,) of the requests, see `wrist_boxes`.
    points: (n, 2, 21, 2) canvas pixels, NaN where fewer hands were found.
    is_left: (n, 2) labels of the hands.

  Returns:
    (F, 3, joints) with the chosen hands only.
  """
  wrists = np.stack([rules.point(keypoints, f"{s}_wrist") for s in rules.SIDES], 1)
  off = np.linalg.norm(points[:, :, 0] - wrists[frames, sides][:, None], axis=-1)
  wrong_label = is_left != (sides == rules.SIDES.index("left"))[:, None]
  likelier = np.lexsort((off, wrong_label | np.isnan(off)), axis=1)[:, 0]
  chosen = points[np.arange(len(frames)), likelier]
  hands = np.zeros_like(keypoints)
  for side, name in enumerate(rules.SIDES):
    mine = (sides == side) & np.isfinite(chosen).all((1, 2))
    at = rules.PARTS[f"{name}_hand"]
    hands[rules.block(frames[mine], at, (0, 1))] = np.swapaxes(chosen[mine], 1, 2)
    hands[rules.block(frames[mine], at, (2,))] = 1
  return hands


# --- the MediaPipe environment ---


class _Run:
  """Runs the passes of the worker over one video; keeps results until it is done."""

  def __init__(
    self, video: Video, python: pathlib.Path, progress: Progress, parameters: Any
  ):
    self._video = video
    self._python = python
    self._progress = progress
    self._pictures = len(workspace.read_source(video)["times"])
    self._fps = self._pictures / max(workspace.read_source(video)["times"][-1], 1e-3)
    self._folder = video.folder / "mediapipe"
    # Results of an earlier run are valid only for the same video and parameters.
    transcoded = workspace.read_stamp(video.folder, "transcode")
    key = workspace.digest([transcoded, parameters])
    if workspace.read_stamp(self._folder, "passes") != key:
      self.remove()
      workspace.write_stamp(self._folder, "passes", key)

  def remove(self) -> None:
    shutil.rmtree(self._folder, ignore_errors=True)

  def faces(self, box: rules.Box) -> tuple[np.ndarray, np.ndarray, int]:
    """Faces in the box, see `look_at`."""
    every = max(1, round(self._fps / _FACES_PER_SECOND))
    output = self._folder / "faces.npz"
    job = {"task": "faces", "box": box, "every": every, "output": str(output)}
    self._work("faces", output, **job)
    found = workspace.read_npz(output)
    return found["boxes"], found["numbers"], -(-self._pictures // every)

  def holistic(self, box: rules.Box) -> dict[str, np.ndarray]:
    """Landmarks of Holistic in the box, see `to_openpose`."""
    raw = self._in_chunks("holistic", task="holistic", box=box)
    return {part: _fit(values, self._pictures) for part, values in raw.items()}

  def hands(
    self, number: int, frames: np.ndarray, boxes: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Hands in the boxes of the frames, see `from_squares`."""
    name = f"hands_{number}"
    requests = self._folder / f"{name}.npz"
    workspace.write_npz(requests, frames=frames, boxes=boxes)
    found = self._in_chunks(name, task="hands", requests=str(requests))
    return found["points"], found["is_left"]

  def _in_chunks(self, name: str, **job: Any) -> dict[str, np.ndarray]:
    folder = self._folder / name
    folder.mkdir(parents=True, exist_ok=True)
    self._work(name, folder / "done", chunk=_CHUNK, output=str(folder), **job)
    chunks = [workspace.read_npz(f) for f in sorted(folder.glob("[0-9]*.npz"))]
    return {key: np.concatenate([c[key] for c in chunks]) for key in chunks[0]}

  def _work(self, name: str, result: pathlib.Path, **job: Any) -> None:
    """Runs the worker unless its result exists; reports progress."""
    begin = _PASSES.index(name) / len(_PASSES)
    self._progress(begin)
    if result.exists():
      return
    path = self._folder / f"{name}.json"
    workspace.write_json(path, {"video": str(self._video.folder / "video.mp4"), **job})
    worker = [str(self._python), "-I", str(_HERE / "mediapipe_worker.py"), str(path)]
    log = self._folder / f"{name}.log"
    with (
      log.open("w") as errors,
      subprocess.Popen(worker, stdout=subprocess.PIPE, stderr=errors, text=True) as run,
    ):
      for line in run.stdout or ():
        done = min(1.0, int(line) / self._pictures)
        self._progress(begin + done / len(_PASSES))
    if run.returncode or not result.exists():
      last = (log.read_text().strip() or "no message").splitlines()[-1]
      raise UserError(f"{self._video.name}: MediaPipe failed ({last[:200]}), see {log}")


def _fit(values: np.ndarray, count: int) -> np.ndarray:
  """Trims or pads with NaN to `count` rows: decoders may differ in the last picture."""
  missing = max(0, count - len(values))
  padding = np.full((missing, *values.shape[1:]), np.nan, values.dtype)
  return np.concatenate([values[:count], padding])
