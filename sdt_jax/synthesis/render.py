"""Draws final poses as images. The only module of the package that uses OpenCV.

Conventions: `poses_px` (T, dims, joints) are final poses, in pixels relative to the
neck at the common size (shoulders about 316 px apart), y down. Images are (height,
width, 3) uint8 RGB with a white background. Points that are NaN are not drawn, nor are
the lines to them. The person's right side has warm colours, the left side cool ones.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from sdt_jax import audio as audio_lib
from sdt_jax import files
from sdt_jax import keypoints as kp
from sdt_jax.speakers import COMMON_SHOULDER_WIDTH_PX

Color = Sequence[int]  # red, green, blue
Size = tuple[int, int]  # width, height

_COLORS = json.loads(
  (pathlib.Path(__file__).parents[1] / "assets" / "palette.json").read_text()
)
_SIDES = ("right", "left")

# Index of each point to draw: the joints of a pose, then the neck, which is its origin.
_POINT = {**kp.UPPER_BODY.index, "neck": kp.UPPER_BODY.num_joints}


def _index(names: Sequence[str]) -> np.ndarray:
  return np.array([_POINT[name] for name in names])


_RIGHT, _LEFT = (kp.ARM_CHAIN.index(f"{side}_shoulder") for side in _SIDES)
_SHOULDERS = _index(kp.ARM_CHAIN[_RIGHT : _LEFT + 1])
_ARM = {
  "right": _index(kp.ARM_CHAIN[: _RIGHT + 1]),
  "left": _index(kp.ARM_CHAIN[_LEFT:]),
}
_WRIST = {side: _index((f"{side}_wrist", f"{side}_hand_root")) for side in _SIDES}
_FINGERS = {
  side: [_index(chain) for chain in kp.finger_chains(side).values()] for side in _SIDES
}
_PALM = {  # root and first joint of each finger
  side: np.array([fingers[0][0], *(finger[1] for finger in fingers)])
  for side, fingers in _FINGERS.items()
}
_FACE = {name: _index(chain) for name, chain in kp.FACE_CHAINS.items()}
_EYES = [_FACE["right_eye"], _FACE["left_eye"]]
_BROWS = [_FACE["right_brow"], _FACE["left_brow"]]
_NOSE = [_FACE["nose_bridge"], _FACE["nostrils"]]
_PUPILS = _index(("face_68", "face_69"))
_JAW = _FACE["jaw"]
_CHIN = _JAW[len(_JAW) // 2]

_SHIFT = 4  # OpenCV takes integer coordinates, in units of 2 ** -_SHIFT pixels
_FARTHEST_PX = 10_000.0  # outside of any image, but within OpenCV's integer range

# Framing, in pixels at the common size.
NATURAL_SIZE: Size = (1280, 720)
_NATURAL_HEIGHT = 720  # height of an image that shows final poses at scale 1
_NECK_HEIGHT = 0.45  # from the top, as a fraction of the image height
_MARGIN_PX = 28.0
_CROWN_PX = 60.0  # from the brows to the top of the head
_REACH_PX = 3 * COMMON_SHOULDER_WIDTH_PX  # points further out are outliers

# Strips.
_TILE_HEIGHT = 220
_CAPTION_HEIGHT = 26
_COLUMNS = 12
_MAX_TILES = 600


@dataclasses.dataclass(frozen=True)
class _Pen:
  """Draws chains of points. Widths and radii are in pixels at the common size."""

  canvas: np.ndarray
  points: np.ndarray  # (N, 2) canvas pixels, may contain NaN
  scale: float

  def lines(self, chains: list[np.ndarray], color: Color, width: float) -> None:
    """Draws chains in one colour, with gaps where a point is NaN."""
    runs = [run for chain in chains for run in _finite_runs(self.points[chain])]
    self._stroke(runs, False, color, width)

  def fill(self, polygon: np.ndarray, color: Color) -> None:
    """Fills (n, 2) canvas pixels; draws nothing if one of them is NaN."""
    if np.isfinite(polygon).all():
      cv2.fillPoly(self.canvas, _fixed([polygon]), color, cv2.LINE_AA, _SHIFT)
      # OpenCV rounds the y of filled polygons to whole pixels; an outline hides that.
      self.outline(polygon, color, 1)

  def outline(self, polygon: np.ndarray, color: Color, width: float) -> None:
    """Outlines (n, 2) canvas pixels; draws nothing if one of them is NaN."""
    if np.isfinite(polygon).all():
      self._stroke([polygon], True, color, width)

  def _stroke(
    self, runs: list[np.ndarray], closed: bool, color: Color, width: float
  ) -> None:
    thickness = max(1, round(width * self.scale))
    cv2.polylines(
      self.canvas, _fixed(runs), closed, color, thickness, cv2.LINE_AA, _SHIFT
    )

  def dots(self, chain: np.ndarray, color: Color, radius: float) -> None:
    points = self.points[chain]
    size = round(max(radius * self.scale, 0.7) * 2**_SHIFT)
    for x, y in _fixed([points[np.isfinite(points).all(1)]])[0].tolist():
      cv2.circle(self.canvas, (x, y), size, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _finite_runs(points: np.ndarray) -> list[np.ndarray]:
  """(n, 2) -> the runs of at least two consecutive points without NaN."""
  finite = np.isfinite(points).all(1)
  if finite.all():
    return [points]
  stretches = np.split(points, np.flatnonzero(~finite))
  runs = [run[np.isfinite(run).all(1)] for run in stretches]
  return [run for run in runs if len(run) > 1]


def _fixed(chains: list[np.ndarray]) -> list[np.ndarray]:
  return [np.rint(chain * 2**_SHIFT).astype(np.int32) for chain in chains]


def draw_pose(
  canvas: np.ndarray,
  pose_px: np.ndarray,
  neck_px: Sequence[float] | np.ndarray,
  scale: float = 1.0,
) -> None:
  """Draws one pose on an image.

  Args:
    canvas: (height, width, 3) uint8, modified in place.
    pose_px: (dims, joints) final pose.
    neck_px: x, y of the neck in the image, accurate to fractions of a pixel.
    scale: image pixels per pixel of the pose; also scales line widths.
  """
  points = np.zeros((len(_POINT), len(pose_px)))
  points[:-1] = pose_px.T
  points[~np.isfinite(points)] = np.nan
  points = points.clip(-_FARTHEST_PX, _FARTHEST_PX)
  _draw_figure(_Pen(canvas, points * scale + np.asarray(neck_px), scale))


def figure() -> list[dict[str, Any]]:
  """What `draw_pose` draws, for programs that draw by themselves.

  Returns:
    Shapes in the order of drawing, each a dict of JSON values: `kind` ("fill", "line",
    "outline": a closed line, or "dots"), `color` (red, green, blue), `width` (of the
    line, or radius of the dots, in pixels at the common size) and `points`. A point is
    a weighted sum of joints, [[joint, weight], ...]; without any it is the neck.
  """
  recorder = _Recorder()
  _draw_figure(recorder)
  return recorder.shapes


class _Recorder:
  """A pen that lists the shapes. Its points are rows of weights of the joints."""

  def __init__(self):
    self.points = np.eye(len(_POINT))
    self.shapes: list[dict[str, Any]] = []

  def lines(self, chains: list[np.ndarray], color: Color, width: float) -> None:
    for chain in chains:
      self._add("line", self.points[chain], color, width)

  def fill(self, polygon: np.ndarray, color: Color) -> None:
    self._add("fill", polygon, color, 0)

  def outline(self, polygon: np.ndarray, color: Color, width: float) -> None:
    self._add("outline", polygon, color, width)

  def dots(self, chain: np.ndarray, color: Color, radius: float) -> None:
    self._add("dots", self.points[chain], color, radius)

  def _add(self, kind: str, points: np.ndarray, color: Color, width: float) -> None:
    weights = points.round(6)[:, : kp.UPPER_BODY.num_joints]
    sums = [[[int(i), float(row[i])] for i in np.flatnonzero(row)] for row in weights]
    self.shapes.append(
      {"kind": kind, "color": list(color), "width": width, "points": sums}
    )


def _draw_figure(pen: "_Pen | _Recorder") -> None:
  # Faint shapes of neck and skull, behind everything else.
  head = _head_outline(pen.points)
  pen.fill(_neck_outline(pen.points), _COLORS["neck_fill"])
  pen.fill(head, _COLORS["head_fill"])
  pen.outline(head, _COLORS["faint"], 2)
  pen.lines([_SHOULDERS], _COLORS["trunk"], 9)
  for side in _SIDES:
    pen.lines([_ARM[side]], _COLORS["arm"][side], 9)
    pen.lines([_WRIST[side]], _COLORS["arm"][side], 6)
    pen.dots(_ARM[side], _COLORS["white"], 2.5)
  _draw_face(pen)
  for side in _SIDES:
    pen.fill(pen.points[_PALM[side]], _COLORS["palm_fill"][side])
    for finger, color in zip(_FINGERS[side], _COLORS["fingers"][side], strict=True):
      pen.lines([finger], color, 4)


def _neck_outline(points: np.ndarray) -> np.ndarray:
  """Polygon from both sides of the chin down to the line of the shoulders."""
  right, neck, left = points[_SHOULDERS]
  foot = [neck + (left - neck) / 3, neck + (right - neck) / 3]
  return np.array([points[_JAW[6]], points[_JAW[-7]], *foot])


def _head_outline(points: np.ndarray) -> np.ndarray:
  """Polygon of the jaw, closed above the brows by half an ellipse."""
  jaw = points[_JAW]
  centre = (jaw[0] + jaw[-1]) / 2
  across = jaw[-1] - centre
  up = 0.85 * (centre - points[_CHIN])
  angle = np.linspace(0, np.pi, 17)[1:-1, None]
  return np.concatenate([jaw, centre + across * np.cos(angle) + up * np.sin(angle)])


def _draw_face(pen: "_Pen | _Recorder") -> None:
  pen.lines([_JAW], _COLORS["soft_ink"], 3)
  pen.lines(_NOSE, _COLORS["soft_ink"], 2)
  pen.lines(_BROWS, _COLORS["ink"], 4)
  for eye in _EYES:
    pen.fill(pen.points[eye], _COLORS["white"])
  pen.dots(_PUPILS, _COLORS["ink"], 3.5)
  pen.lines(_EYES, _COLORS["ink"], 2)
  pen.fill(pen.points[_FACE["outer_lip"]], _COLORS["lips"])
  pen.fill(pen.points[_FACE["inner_lip"]], _COLORS["mouth"])
  pen.lines([_FACE["inner_lip"]], _COLORS["mouth"], 1)


def _extent(poses_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Lowest and highest x, y of the poses, without NaN and outliers.

  Outliers are points out of reach, and the outermost 0.02 % on each side, at least one.
  """
  points = np.moveaxis(poses_px, -2, 0).reshape(poses_px.shape[-2], -1)
  points = points[:, (np.abs(points) < _REACH_PX).all(0)]
  if not points.size:
    return np.zeros(2), np.zeros(2)
  low = np.percentile(points, 0.02, axis=1, method="higher")
  high = np.percentile(points, 99.98, axis=1, method="lower")
  low, high = np.minimum(low, 0), np.maximum(high, 0)  # the neck is always included
  return low - (0, _CROWN_PX), high


def framing(
  poses_px: np.ndarray, size: Size, scale: float | None = None
) -> tuple[np.ndarray, float]:
  """Position of the neck, and scale, with which `pose_frame` shows a motion.

  Args:
    poses_px: (..., dims, joints) final poses.
    size: width and height of the image.
    scale: image pixels per pixel of the poses; default: height / 720, or less if the
      motion needs room.
  """
  neck = np.array([size[0] / 2, size[1] * _NECK_HEIGHT])
  if scale is not None:
    return neck, scale
  natural = size[1] / _NATURAL_HEIGHT
  low, high = _extent(poses_px)
  reach = np.concatenate([-low, high])
  room = np.concatenate([neck, size - neck]) - _MARGIN_PX * natural
  return neck, float(min(natural, *(room / np.maximum(reach, 1))))


def pose_frame(
  pose_px: np.ndarray, size: Size, neck_px: np.ndarray, scale: float
) -> np.ndarray:
  """Image (height, width, 3) of a pose; `framing` gives the neck and the scale."""
  frame = _blank(size)
  draw_pose(frame, pose_px, neck_px, scale)
  return frame


def pose_frames(
  poses_px: np.ndarray, size: Size = NATURAL_SIZE, scale: float | None = None
) -> Iterator[np.ndarray]:
  """Draws the frames of a clip, all with the same framing.

  Args:
    poses_px: (T, dims, joints) final poses.
    size, scale: see `framing`.

  Yields:
    (height, width, 3) uint8 RGB; the arrays share no memory.
  """
  neck, scale = framing(poses_px, size, scale)
  for pose_px in poses_px:
    yield pose_frame(pose_px, size, neck, scale)


def side_by_side_frames(
  poses_px: np.ndarray,
  truth_px: np.ndarray,
  labels: tuple[str, str] = ("prediction", "truth"),
  size: Size = NATURAL_SIZE,
) -> Iterator[np.ndarray]:
  """Draws two clips side by side, at the same scale, with labels.

  Args:
    poses_px: (T, dims, joints) final poses, drawn on the left.
    truth_px: (T, dims, joints) final poses, drawn on the right.
    labels: text below the left and the right panel.
    size: width and height of the images, both panels together.

  Yields:
    (height, width, 3) uint8 RGB; the arrays share no memory.
  """
  half = size[0] // 2
  neck, scale = framing(np.stack([poses_px, truth_px]), (half, size[1]))
  background = _blank(size)
  background[:, half] = _COLORS["faint"]
  for x, label in zip((half // 2, half + half // 2), labels, strict=True):
    at = (x, round(0.96 * size[1]))
    _write(background, label, at, 0.9 * size[1] / _NATURAL_HEIGHT, _COLORS["ink"])
  for pose_px, true_px in zip(poses_px, truth_px, strict=True):
    frame = background.copy()
    draw_pose(frame[:, :half], pose_px, neck, scale)
    draw_pose(frame[:, half + 1 :], true_px, neck, scale)
    yield frame


def _blank(size: Size) -> np.ndarray:
  return np.full((size[1], size[0], 3), 255, np.uint8)


def _write(canvas: np.ndarray, text: str, at: Size, size: float, color: Color) -> None:
  """Writes one line of text, centred at x, with its baseline at y; `at` is x, y."""
  font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(1.5 * size))
  (width, _), _ = cv2.getTextSize(text, font, size, thickness)
  x, y = at
  cv2.putText(
    canvas, text, (x - width // 2, y), font, size, color, thickness, cv2.LINE_AA
  )


def film_strip(poses_px: np.ndarray, every: int = 8) -> np.ndarray:
  """Draws every n-th frame of a clip as a tile with its time, in rows of up to 12.

  Args:
    poses_px: (T, dims, joints) final poses.
    every: number of frames from one tile to the next; doubled until there are at most
      600 tiles (clips longer than 5 minutes).

  Returns:
    (height, width, 3) uint8 RGB.
  """
  while len(poses_px) > every * _MAX_TILES:
    every *= 2
  frames = range(0, len(poses_px), every)
  extent = _extent(poses_px)
  tiles = [_tile(poses_px[i], i, extent) for i in frames]
  rows = -(-len(tiles) // _COLUMNS)
  columns = -(-len(tiles) // rows)
  return np.concatenate(
    [_row(tiles[i : i + columns], columns) for i in range(0, len(tiles), columns)]
  )


def motion_overview(
  list_of_poses: Sequence[np.ndarray], labels: Sequence[str]
) -> np.ndarray:
  """Compares motions: one row of up to 12 tiles per motion, with a label above it.

  Args:
    list_of_poses: final poses (T, dims, joints) of each motion; T may differ.
    labels: label of each motion.

  Returns:
    (height, width, 3) uint8 RGB.
  """
  every = -(-max(map(len, list_of_poses)) // _COLUMNS)
  extent = _extent(np.concatenate(list_of_poses))
  blocks = []
  for poses_px, label in zip(list_of_poses, labels, strict=True):
    tiles = [_tile(poses_px[i], i, extent) for i in range(0, len(poses_px), every)]
    row = _row(tiles, _COLUMNS)
    title = _blank((row.shape[1], 44))
    _write(title, label, (row.shape[1] // 2, 32), 0.8, _COLORS["ink"])
    blocks += [title, row]
  return np.concatenate(blocks)


def _tile(
  pose_px: np.ndarray, frame: int, extent: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
  """Small image of one pose, cropped to the extent, with its time in seconds below."""
  low, high = extent[0] - _MARGIN_PX, extent[1] + _MARGIN_PX
  scale = _TILE_HEIGHT / (high - low)[1]
  width = round((high - low)[0] * scale)
  fine = _blank((2 * width, 2 * _TILE_HEIGHT))  # so that thin lines stay thin
  draw_pose(fine, pose_px, -low * 2 * scale, 2 * scale)
  picture = cv2.resize(fine, (width, _TILE_HEIGHT), interpolation=cv2.INTER_AREA)
  caption = _blank((width, _CAPTION_HEIGHT))
  time = f"{frame / audio_lib.FPS:.2f} s"
  _write(caption, time, (width // 2, _CAPTION_HEIGHT - 9), 0.45, _COLORS["soft_ink"])
  return np.concatenate([picture, caption])


def _row(tiles: list[np.ndarray], columns: int) -> np.ndarray:
  """Tiles side by side, padded with white tiles to the number of columns."""
  missing = [np.full_like(tiles[0], 255)] * (columns - len(tiles))
  return np.concatenate(tiles + missing, axis=1)


def write_png(path: str | pathlib.Path, image: np.ndarray) -> None:
  """Writes (height, width, 3) uint8 RGB. The file appears only once it is complete.

  Raises:
    UserError: the file cannot be written.
  """
  _, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
  with files.replacing(path) as temporary:
    temporary.write_bytes(data.tobytes())
