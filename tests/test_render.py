"""Images: every point is drawn at its position, whatever the pose."""

import os

import cv2
import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.synthesis import render


@pytest.fixture(scope="module")
def poses_px():
  """(64, dims, joints) smooth motion of a plausible upper body."""
  pose = np.zeros(kp.UPPER_BODY.shape)
  place = {
    "right_shoulder": (-158, 0),
    "right_elbow": (-200, 200),
    "right_wrist": (-120, 240),
    "left_shoulder": (158, 0),
    "left_elbow": (200, 200),
    "left_wrist": (120, 240),
  }
  for name, xy in place.items():
    pose[:, kp.UPPER_BODY.index[name]] = xy
  face = kp.UPPER_BODY.part("face")
  angle = np.linspace(0, 2 * np.pi, len(face))
  pose[:, face] = 60 * np.cos(angle), -130 + 70 * np.sin(angle)
  for side in ("left", "right"):
    hand = kp.UPPER_BODY.part(f"{side}_hand")
    wrist = pose[:, kp.UPPER_BODY.indices(f"{side}_wrist")]
    spread = np.linspace(-40, 40, len(hand))
    pose[:, hand] = wrist + np.stack([spread, spread[::-1] - 20])
  sway = 8 * np.sin(np.arange(64) / 5)
  return pose + sway[:, None, None]


def blank(height=720, width=1280):
  return np.full((height, width, 3), 255, np.uint8)


def draw(pose_px, neck=(640, 324), scale=1.0):
  canvas = blank()
  render.draw_pose(canvas, pose_px, neck, scale)
  return canvas


def ink(image):
  """(height, width) darkness, 0 for white."""
  return 255.0 - image.min(-1)


def centroid(image):
  weight = ink(image)
  y, x = np.indices(weight.shape)
  return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def bounds(image):
  """Left, top, right, bottom of what is drawn."""
  rows = np.flatnonzero(ink(image).any(1))
  columns = np.flatnonzero(ink(image).any(0))
  return np.array([columns[0], rows[0], columns[-1], rows[-1]])


def test_every_keypoint_is_drawn_where_it_is(poses_px):
  image = ink(draw(poses_px[0]))
  # The face points draw these.
  drawn_by_face = set(kp.UPPER_BODY.indices("nose", "right_eye", "left_eye"))
  for i in set(range(kp.UPPER_BODY.num_joints)) - drawn_by_face:
    x, y = np.rint(poses_px[0, :, i] + (640, 324)).astype(int)
    assert image[y - 5 : y + 6, x - 5 : x + 6].max() > 30, kp.UPPER_BODY.names[i]


def test_the_listed_shapes_are_what_is_drawn(poses_px):
  """Also on a figure that is tilted, as polygons are computed from joints."""
  tilted = np.array([[0.9, -0.3], [0.3, 0.9]]) @ poses_px[5]
  for pose_px in (poses_px[0], tilted):
    replayed = blank()
    for shape in render.figure():
      weights = np.zeros((len(shape["points"]), kp.UPPER_BODY.num_joints))
      for row, point in zip(weights, shape["points"], strict=True):
        for joint, weight in point:
          row[joint] = weight
      points = weights @ pose_px.T + (640, 324)
      pen = render._Pen(replayed, points, 1.0)
      everything, width = np.arange(len(points)), shape["width"]
      match shape["kind"]:
        case "line":
          pen.lines([everything], shape["color"], width)
        case "dots":
          pen.dots(everything, shape["color"], width)
        case "fill":
          pen.fill(points, shape["color"])
        case "outline":
          pen.outline(points, shape["color"], width)
    assert (replayed != draw(pose_px)).mean() < 1e-4  # lines are joined in other order


@pytest.mark.parametrize("shift", [(0.25, 0), (0, 0.5), (0.75, 0.75), (-40.3, 12.6)])
@pytest.mark.parametrize(
  ("chain", "tolerance"),
  [(("left_elbow", "left_wrist"), 0.05), (kp.FACE_CHAINS["outer_lip"][:-1], 0.3)],
  ids=["line", "filling"],
)
def test_drawing_is_accurate_to_fractions_of_a_pixel(shift, chain, tolerance):
  pose = np.full(kp.UPPER_BODY.shape, np.nan)
  angle = np.linspace(0.5, 2 * np.pi + 0.5, len(chain), endpoint=False)
  pose[:, kp.UPPER_BODY.indices(*chain)] = 80 * np.cos(angle), -100 + 30 * np.sin(angle)
  moved = centroid(draw(pose, (640 + shift[0], 324 + shift[1])))
  np.testing.assert_allclose(moved - centroid(draw(pose)), shift, atol=tolerance)


def test_scale_is_about_the_neck(poses_px):
  whole = bounds(draw(poses_px[0])) - (640, 324, 640, 324)
  half = bounds(draw(poses_px[0], scale=0.5)) - (640, 324, 640, 324)
  np.testing.assert_allclose(half, whole / 2, atol=4)


def test_sides_have_different_colours(poses_px):
  image = draw(poses_px[0]).astype(int)
  red, _, blue = image[500:620].transpose(2, 0, 1)
  warm, cool = red > blue + 60, blue > red + 60
  assert warm[:, :600].sum() > 500
  assert cool[:, 680:].sum() > 500
  assert not warm[:, 680:].any()
  assert not cool[:, :600].any()


def test_an_open_mouth_is_dark(poses_px):
  pose = poses_px[0].copy()
  lips = [kp.UPPER_BODY.index[name] for name in kp.FACE_CHAINS["inner_lip"][:-1]]
  angle = np.linspace(0, 2 * np.pi, len(lips), endpoint=False)
  middle = (640, 324 - 100)
  pose[:, lips] = 20 * np.cos(angle), -100 + 12 * np.sin(angle)
  assert draw(pose)[middle[1], middle[0]].max() < 100


def test_only_lines_to_missing_points_are_missing(poses_px):
  whole, pose = draw(poses_px[0]), poses_px[0].copy()
  pose[:, kp.UPPER_BODY.part("left_hand")] = np.nan
  without_hand = draw(pose)
  assert (whole[:, :640] == without_hand[:, :640]).all()
  assert (whole != without_hand).any()
  pose[:, kp.UPPER_BODY.index["left_elbow"]] = np.nan
  assert (draw(pose) != without_hand).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_poses_are_not_drawn(value):
  poses = np.full((3, *kp.UPPER_BODY.shape), value)
  assert (draw(poses[0]) == 255).all()
  assert all((frame == 255).all() for frame in render.pose_frames(poses))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_values_are_harmless(poses_px, dtype):
  rng = np.random.default_rng(0)
  wild = [np.nan, np.inf, -np.inf, 1e9, -1e38, 0.0, 3e4, -12.0]
  for _ in range(200):
    pose = poses_px[0].astype(dtype)
    where = rng.integers(kp.UPPER_BODY.num_joints, size=10)
    pose[rng.integers(2, size=10), where] = rng.choice(wild, 10)
    draw(pose, scale=rng.choice([0.1, 1.0, 3.0]))


def test_framing_is_natural_and_constant(poses_px):
  frames = list(render.pose_frames(poses_px))  # all kept: they share no memory
  for frame, pose in zip(frames, poses_px, strict=True):
    np.testing.assert_array_equal(frame, draw(pose))


@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (500, 720), (321, 243)])
@pytest.mark.parametrize("stretch", [1.0, 1.6, 2.5])
def test_all_motion_stays_in_the_image(poses_px, size, stretch):
  for frame in render.pose_frames(poses_px[::6] * stretch, size):
    assert frame.shape == (size[1], size[0], 3)
    left, top, right, bottom = bounds(frame)
    assert left > 0
    assert top > 0
    assert right < size[0] - 1
    assert bottom < size[1] - 1


@pytest.mark.parametrize("wild", [300.0, 900.0, 1e5, np.nan, np.inf])
def test_an_outlier_does_not_shrink_the_person(poses_px, wild):
  spoilt, point = poses_px.copy(), kp.UPPER_BODY.index["left_hand_index_4"]
  spoilt[20, 0, point] = wild
  np.testing.assert_array_equal(next(render.pose_frames(spoilt)), draw(poses_px[0]))
  spoilt[:, :, point] = 4000  # always
  left, top, _, _ = bounds(next(render.pose_frames(spoilt)))
  np.testing.assert_array_equal((left, top), bounds(draw(poses_px[0]))[:2])


@pytest.mark.parametrize("scale", [0.5, 0.85, 2.0])
def test_a_given_scale_is_kept_whatever_the_size(poses_px, scale):
  for size in ((1280, 720), (640, 360)):
    frame = next(render.pose_frames(poses_px, size, scale))
    canvas = blank(size[1], size[0])
    render.draw_pose(canvas, poses_px[0], (size[0] / 2, size[1] * 0.45), scale)
    np.testing.assert_array_equal(frame, canvas)


def test_side_by_side_uses_the_same_scale(poses_px):
  frames = list(render.side_by_side_frames(poses_px, poses_px * 1.4))
  assert len(frames) == len(poses_px)
  left = bounds(frames[0][:640, :640])
  right = bounds(frames[0][:640, 641:])
  width = (right - left)[[0, 2]] @ (-1, 1) + (left[2] - left[0])
  assert width / (left[2] - left[0]) == pytest.approx(1.4, abs=0.03)


def test_side_by_side_draws_nothing_into_the_other_panel(poses_px):
  far = np.full_like(poses_px, np.nan)
  far[:, :, kp.UPPER_BODY.indices("left_shoulder", "left_elbow", "left_wrist")] = 1e4
  (frame, *_) = render.side_by_side_frames(far, poses_px)
  (alone, *_) = render.side_by_side_frames(np.full_like(far, np.nan), poses_px)
  np.testing.assert_array_equal(frame[:, 640:], alone[:, 640:])


def test_side_by_side_needs_equal_lengths(poses_px):
  with pytest.raises(ValueError, match="shape"):
    next(render.side_by_side_frames(poses_px, poses_px[:-1]))


def tiles(strip, count):
  """Splits a single row into its tiles, without the times below."""
  return np.split(strip[:200], count, axis=1)


def test_strip_shows_every_eighth_frame(poses_px):
  strip = render.film_strip(poses_px)
  shown = tiles(strip, 8)
  still = tiles(render.film_strip(poses_px[[0] * 64]), 8)
  assert all((tile == still[0]).all() for tile in still)
  for i, j in zip(range(7), range(1, 8), strict=True):
    assert (shown[i] != shown[j]).any()
  moved = [centroid(tile)[0] for tile in shown]
  sway = np.sin(np.arange(0, 64, 8) / 5)
  assert np.corrcoef(moved, sway)[0, 1] > 0.99


@pytest.mark.parametrize("count", [1, 8, 9, 64, 360, 900])
def test_long_strips_wrap(poses_px, count):
  one = render.film_strip(poses_px[:1])
  strip = render.film_strip(np.resize(poses_px, (count, *kp.UPPER_BODY.shape)))
  number = -(-count // 8)
  rows = -(-number // 12)
  assert strip.shape[0] == rows * one.shape[0]
  assert strip.shape[1] < 12 * 260


def test_very_long_strips_have_a_limited_size(poses_px, monkeypatch):
  monkeypatch.setattr(render, "_MAX_TILES", 10)
  long = np.resize(poses_px, (500, *kp.UPPER_BODY.shape))
  np.testing.assert_array_equal(
    render.film_strip(long), render.film_strip(long, every=64)
  )


def test_overview_has_a_row_per_motion(poses_px):
  one = render.motion_overview([poses_px], ["one"])
  two = render.motion_overview([poses_px, poses_px[:20]], ["one", "two"])
  assert two.shape == (2 * one.shape[0], one.shape[1], 3)


def test_png_round_trip(tmp_path, poses_px):
  path = tmp_path / "a.png"
  path.write_bytes(b"older")
  image = render.film_strip(poses_px)
  render.write_png(path, image)
  read = np.asarray(cv2.imread(str(path)))[..., ::-1]
  np.testing.assert_array_equal(read, image)
  assert os.listdir(tmp_path) == ["a.png"]


def test_png_below_a_file_is_an_error_that_names_it(tmp_path):
  (tmp_path / "no").touch()
  path = tmp_path / "no" / "a.png"
  with pytest.raises(UserError, match="cannot be written") as e:
    render.write_png(path, blank(4, 4))
  assert str(path) in str(e.value)
  assert os.listdir(tmp_path) == ["no"]
