"""Videos that show several motions at once, in a grid of titled cells.

The only module that uses moviepy, which writes titles in any alphabet (OpenCV's font
has ASCII only) and shows a recording of any size and frame rate beside the motions.
"""

import contextlib
import functools
import math
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from sdt_jax.audio import FPS
from sdt_jax.synthesis import render

_TITLE_SHARE = 0.1  # of the height of a cell
_FONT_SHARE = 0.55  # of the height of a title


def grid_frames(
  motions: Sequence[np.ndarray],
  titles: Sequence[str],
  size: render.Size = render.NATURAL_SIZE,
  scale: float | None = None,
) -> Iterator[np.ndarray]:
  """Draws motions of equal length in a grid, at the same scale, with titles.

  Args:
    motions: final poses (T, dims, joints) of each cell, row by row.
    titles: text below each cell.
    size: width and height of the images, all cells together.
    scale: image pixels per pixel of the poses; default: as large as fits the cells.

  Yields:
    (height, width, 3) uint8 RGB.
  """
  from moviepy import CompositeVideoClip, ImageClip, VideoClip  # slow to import

  columns = math.ceil(math.sqrt(len(motions)))
  rows = -(-len(motions) // columns)
  width, height = size[0] // columns, size[1] // rows
  title_height = max(1, round(_TITLE_SHARE * height))
  cell = width, height - title_height
  neck, scale = render.framing(np.stack(motions), cell, scale)
  background, cells = np.full((size[1], size[0], 3), 255, np.uint8), []
  for i, (poses_px, title) in enumerate(zip(motions, titles, strict=True)):
    x, y = i % columns * width, i // columns * height
    background[y + cell[1] : y + height, x : x + width] = _title(
      title, (width, title_height)
    )
    draw = functools.partial(_frame_at, poses_px, cell, neck, scale)
    cells.append(VideoClip(draw, duration=math.inf).with_position((x, y)))
  grid = CompositeVideoClip([ImageClip(background), *cells], use_bgclip=True)
  with contextlib.closing(grid):
    for i in range(len(motions[0])):
      yield np.asarray(grid.get_frame(i / FPS))


def _frame_at(poses_px, size, neck, scale, seconds: float) -> np.ndarray:
  frame = min(round(seconds * FPS), len(poses_px) - 1)
  return render.pose_frame(poses_px[frame], size, neck, scale)


def _title(text: str, size: render.Size) -> np.ndarray:
  """(height, width, 3) uint8: one line of text, shortened in the middle if needed."""
  from moviepy import TextClip

  font_size = max(4, round(_FONT_SHARE * size[1]))
  room = max(3, int(size[0] / (0.62 * font_size)))  # characters
  if len(text) > room:
    text = f"{text[: room // 2]}…{text[-(room - room // 2 - 1) :]}"
  clip = TextClip(
    font=_font(),
    text=text,
    font_size=font_size,
    size=size,
    method="caption",
    color="black",
    bg_color="white",
    text_align="center",
  )
  return np.asarray(clip.get_frame(0))[..., :3]


@functools.cache
def _font() -> str:
  """A font with Latin, Greek, Cyrillic and Arabic letters; moviepy's has ASCII only."""
  import matplotlib

  return str(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
