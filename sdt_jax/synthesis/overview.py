"""Videos that show several motions at once, in a grid of titled cells.

The only module that uses moviepy, which writes titles in any alphabet (OpenCV's font
has ASCII only) and shows a recording of any size and frame rate beside the motions.
"""

import functools
import logging
import math
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from sdt_jax.audio import FPS
from sdt_jax.synthesis import render

_log = logging.getLogger(__name__)

_TITLE_SHARE = 0.1  # of the height of a cell
_FONT_SHARE = 0.55  # of the height of a title


def grid_frames(
  motions: Sequence[np.ndarray],
  titles: Sequence[str],
  size: render.Size = render.NATURAL_SIZE,
  scale: float | None = None,
  recording: pathlib.Path | None = None,
) -> Iterator[np.ndarray]:
  """Draws motions of equal length in a grid, at the same scale, with titles.

  Args:
    motions: final poses (T, dims, joints) of each cell, row by row.
    titles: text below each cell.
    size: width and height of the images, all cells together.
    scale: image pixels per pixel of the poses; default: as large as fits the cells.
    recording: a video for one more cell, the first; its last frame is held to the end.

  Yields:
    (height, width, 3) uint8 RGB.
  """
  from moviepy import CompositeVideoClip, ImageClip, VideoClip  # slow to import

  picture = recording and _picture_size(recording)
  count = len(motions) + bool(picture)
  columns = math.ceil(math.sqrt(count))
  width, height = size[0] // columns, size[1] // -(-count // columns)
  title_height = max(1, round(_TITLE_SHARE * height))
  cell = width, height - title_height
  neck, scale = render.framing(np.stack(motions), cell, scale)
  clips = []
  if recording and picture:
    clips, titles = [_open(recording, picture, cell)], [recording.name, *titles]
  for poses_px in motions:
    draw = functools.partial(_frame_at, poses_px, cell, neck, scale)
    clips.append(VideoClip(draw, duration=math.inf))
  background = np.full((size[1], size[0], 3), 255, np.uint8)
  for i, (clip, title) in enumerate(zip(clips, titles, strict=True)):
    x, y = i % columns * width, i // columns * height
    line = _title(title, (width, title_height))
    background[y + cell[1] : y + height, x : x + width] = line
    room = np.subtract(cell, clip.size) // 2  # a recording has its own aspect ratio
    clips[i] = clip.with_position((x + room[0], y + room[1]))
  grid = CompositeVideoClip([ImageClip(background), *clips], use_bgclip=True)
  try:
    for i in range(len(motions[0])):
      yield np.asarray(grid.get_frame(i / FPS))
  finally:
    for clip in clips:
      clip.close()


def _picture_size(recording: pathlib.Path) -> render.Size | None:
  """Width and height as shown, or None, with a message, if it cannot be read."""
  from moviepy import VideoFileClip

  try:
    with VideoFileClip(str(recording.absolute()), audio=False) as clip:
      clip.get_frame(0)
      width, height = clip.size
      return width, height
  except Exception:  # moviepy parses FFmpeg's messages and raises many kinds
    _log.info("%s: its picture cannot be read and is left out", recording)
    return None


def _open(recording: pathlib.Path, picture: render.Size, room: render.Size):
  """A clip of the recording, scaled to fit, that never ends."""
  from moviepy import VideoFileClip

  factor = min(np.divide(room, picture))
  clip = VideoFileClip(
    str(recording.absolute()),
    audio=False,
    target_resolution=[max(1, int(factor * side)) for side in picture],
  )
  last = max(0.0, clip.duration - 1.5 / clip.fps)
  held = clip.time_transform(lambda t: np.minimum(t, last))
  return held.with_duration(math.inf)


def _frame_at(poses_px, size, neck, scale, seconds: float) -> np.ndarray:
  frame = min(round(seconds * FPS), len(poses_px) - 1)
  return render.pose_frame(poses_px[frame], size, neck, scale)


def _title(text: str, size: render.Size) -> np.ndarray:
  """(height, width, 3) uint8: one line of text, shortened in the middle if needed."""
  from moviepy import TextClip

  font_size = max(4, round(min(_FONT_SHARE * size[1], size[0] / 30)))
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
