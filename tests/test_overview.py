"""Grids of motions: every cell shows its own motion at the same scale, with a title."""

import numpy as np
import pytest
from test_render import bounds, ink
from test_render import poses_px as poses_px

from sdt_jax.synthesis import overview, video

SIZE = (640, 360)


def _cells(frame, rows, columns):
  """Pictures and titles of the cells, row by row."""
  height, width = SIZE[1] // rows, SIZE[0] // columns
  title = round(0.1 * height)
  cells = [
    frame[y : y + height, x : x + width]
    for y in range(0, rows * height, height)
    for x in range(0, columns * width, width)
  ]
  return [c[: height - title] for c in cells], [c[height - title :] for c in cells]


@pytest.mark.parametrize(
  ("count", "rows", "columns"), [(2, 1, 2), (3, 2, 2), (5, 2, 3)]
)
def test_every_cell_shows_its_motion(poses_px, count, rows, columns):
  motions = [poses_px * (1 + 0.1 * i) for i in range(count)]
  frames = list(overview.grid_frames(motions, [f"no {i}" for i in range(count)], SIZE))
  assert len(frames) == len(poses_px)
  assert {(f.shape, f.dtype) for f in frames} == {((360, 640, 3), np.dtype(np.uint8))}
  pictures, titles = _cells(frames[0], rows, columns)
  widths = [(b := bounds(picture))[2] - b[0] for picture in pictures[:count]]
  growth = np.array(widths) / widths[0]
  np.testing.assert_allclose(growth, 1 + 0.1 * np.arange(count), atol=0.05)
  for i in range(1, count):
    assert (titles[i] != titles[0]).any()
  for empty in (*pictures[count:], *titles[count:]):
    assert (empty == 255).all()


@pytest.mark.parametrize("length", [1, 7, 14, 31])
def test_every_frame_is_shown_once_and_in_order(poses_px, length):
  motion = poses_px[:length].copy()
  motion[:, 0] += 4.0 * np.arange(length)[:, None]  # to the right
  frames = list(overview.grid_frames([motion, poses_px[:length]], ["a", "b"], SIZE))
  assert len(frames) == length
  left = [bounds(_cells(frame, 1, 2)[0][0])[0] for frame in frames]
  assert (np.diff(left) > 0).all()


def test_a_recording_of_another_size_and_rate_is_shown_in_time(poses_px, tmp_path):
  greys = [np.full((120, 90, 3), 4 * i, np.uint8) for i in range(60)]
  video.write_video(tmp_path / "talk.mp4", greys, fps=30)  # 2 s, portrait
  frames = list(
    overview.grid_frames([poses_px[:45]], ["a"], SIZE, recording=tmp_path / "talk.mp4")
  )
  assert len(frames) == 45
  recorded = [_cells(frame, 1, 2)[0][0][162, 160] for frame in frames]
  expected = [4 * min(2 * i, 59) for i in range(45)]  # the last frame is held
  np.testing.assert_allclose(np.mean(recorded, 1), expected, atol=12)
  assert (_cells(frames[0], 1, 2)[0][0][:, :35] == 255).all()  # aspect ratio is kept


def test_a_recording_that_cannot_be_read_is_left_out(poses_px, tmp_path, caplog):
  (tmp_path / "talk.mp4").write_bytes(b"no video")
  with caplog.at_level("INFO", "sdt_jax"):
    motions = [poses_px[:1]] * 2
    args = motions, ["a", "b"], SIZE
    (frame,) = overview.grid_frames(*args, recording=tmp_path / "talk.mp4")
  np.testing.assert_array_equal(frame, next(overview.grid_frames(*args)))
  assert "talk.mp4: its picture cannot be read" in caplog.text


def test_motions_of_different_length_are_refused(poses_px):
  with pytest.raises(ValueError, match="shape"):
    next(overview.grid_frames([poses_px, poses_px[:-1]], ["a", "b"]))


def test_titles_have_any_letters_and_stay_in_their_cell(poses_px):
  def title(text):
    (frame, *_) = overview.grid_frames([poses_px[:1]] * 2, [text, "b"], SIZE)
    return _cells(frame, 1, 2)[1][0]

  letters = [title(text) for text in ("ä", "Ж", "λ", "?", "□")]
  for i, letter in enumerate(letters):
    assert ink(letter).any()
    assert all((letter != other).any() for other in letters[:i])
  long = ink(title("/a/long/folder" * 20 + "/templates.npz"))
  assert long.any()
  assert not long[:, [0, 1, -2, -1]].any()
