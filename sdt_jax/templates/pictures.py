"""Pages of drawn poses with labels: one row for a direction, a cluster or a motion."""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np

from sdt_jax import files
from sdt_jax import keypoints as kp
from sdt_jax.audio import FPS
from sdt_jax.synthesis import render

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_CELL_INCHES = 1.9  # width
_LABEL_INCHES = 2.5
TITLE_INCHES = 0.8
_DPI = 110
_STRIP = 8  # poses of a motion
_PIXELS = 400  # width of a drawing, which is shown smaller
_MARGIN_PX, _CROWN_PX, _REACH_PX = 40.0, 60.0, 900.0  # at the common size
_TRAILS = {"left": "#2f6fb0", "right": "#c8553d"}  # as the sides of the figure


class Cell(NamedTuple):
  """A pose (dims, joints), and the motion (T, dims, joints) of its wrists' trail."""

  pose_px: np.ndarray
  trail_px: np.ndarray | None = None


class Row(NamedTuple):
  """Cells with a label: a name in bold, and a longer text below it."""

  name: str
  text: str
  cells: Sequence[Cell]


def strip_row(name: str, text: str, poses_px: np.ndarray) -> Row:
  """A row with 8 poses of a motion (T, dims, joints), at equal distances."""
  return Row(name, text, [Cell(poses_px[i]) for i in _shown_frames(poses_px)])


def strip_times(poses_px: np.ndarray) -> list[str]:
  """Labels of the columns of `strip_row`."""
  return [f"{i / FPS:.1f} s" for i in _shown_frames(poses_px)]


def _shown_frames(poses_px: np.ndarray) -> list[int]:
  return [i * len(poses_px) // _STRIP for i in range(_STRIP)]


class Box(NamedTuple):
  """What is shown of a pose: lowest and highest x, y, in pixels of final poses."""

  low: np.ndarray
  high: np.ndarray

  @property
  def shape(self) -> float:
    """Height over width."""
    width, height = self.high - self.low
    return height / width


def box(rows: Sequence[Row]) -> Box:
  """The smallest box around all poses; points out of reach do not count."""
  poses_px = np.stack([cell.pose_px for row in rows for cell in row.cells])
  points = np.moveaxis(poses_px, -2, -1).reshape(-1, 2)
  points = points[(np.abs(points) < _REACH_PX).all(-1)]
  points = np.concatenate([points, [[-1.0, -1.0], [1.0, 1.0]]])  # never empty
  low, high = points.min(0) - _MARGIN_PX, points.max(0) + _MARGIN_PX
  return Box(low - (0, _CROWN_PX), high)


def page_size(rows: Sequence[Row]) -> tuple[float, float]:
  """Width and height in inches of a page of rows, without a title."""
  height = _CELL_INCHES * box(rows).shape
  return _LABEL_INCHES + _CELL_INCHES * len(rows[0].cells), height * len(rows)


def write_page(
  path: pathlib.Path, title: str, columns: Sequence[str], rows: Sequence[Row]
) -> None:
  """Writes a PNG of rows, all drawn at the same scale, with a title.

  Args:
    path: of the PNG.
    title: above the page.
    columns: label of each column.
    rows: see `Row`.
  """
  width, height = page_size(rows)
  total = height + TITLE_INCHES + 0.1
  figure = plt.figure(figsize=(width, total))
  figure.suptitle(title, fontsize=12, x=0.01, y=1 - 0.1 / total, ha="left", va="top")
  draw_rows(figure, columns, rows, top=1 - TITLE_INCHES / total, bottom=0.1 / total)
  write_figure(path, figure)


def draw_rows(
  figure: Figure,
  columns: Sequence[str],
  rows: Sequence[Row],
  left: float = 0.0,
  top: float = 1.0,
  bottom: float = 0.0,
) -> None:
  """Draws rows into a part of a figure, given in shares of its width and height."""
  shown = box(rows)
  label = _LABEL_INCHES / figure.get_figwidth()
  grid = figure.add_gridspec(
    *(len(rows), len(columns)),
    **{"left": left + label, "right": 0.995, "top": top, "bottom": bottom},
    **{"wspace": 0.03, "hspace": 0.03},
  )
  for r, row in enumerate(rows):
    for c, cell in enumerate(row.cells):
      axes = figure.add_subplot(grid[r, c])
      _draw_cell(axes, cell, shown)
      if r == 0:
        axes.set_title(columns[c], fontsize=10, pad=4)
    middle = grid[r, 0].get_position(figure)
    x, y = left + 0.08 * label, (middle.y0 + middle.y1) / 2
    figure.text(x, y, row.name, fontsize=11, weight="bold", va="bottom")
    text = "\n".join(textwrap.fill(line, 34) for line in row.text.splitlines())
    figure.text(x, y, text, fontsize=8.5, color="#444444", va="top", linespacing=1.35)


def _draw_cell(axes: Axes, cell: Cell, shown: Box) -> None:
  scale = _PIXELS / (shown.high - shown.low)[0]
  size = _PIXELS, round(_PIXELS * shown.shape)
  neck = -shown.low * scale
  axes.imshow(render.pose_frame(cell.pose_px, size, neck, scale), aspect="auto")
  if cell.trail_px is not None:
    for side, color in _TRAILS.items():
      wrist = cell.trail_px[:, :, kp.UPPER_BODY.index[f"{side}_wrist"]]
      axes.plot(*(neck + scale * wrist).T, color=color, linewidth=1, alpha=0.7)
  axes.set_xlim(0, size[0])
  axes.set_ylim(size[1], 0)
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_color("#dddddd")


def write_figure(path: pathlib.Path, figure: Figure) -> None:
  """Writes a PNG as a whole, and closes the figure."""
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=_DPI)
  plt.close(figure)
