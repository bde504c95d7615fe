"""Rejection of keypoints, closing of gaps, and resampling to 15 frames/s."""

import numpy as np
import pytest
from data_prep_helpers import person

from data_prep import clean, measures, rules
from data_prep.detection import Detection, Origin
from data_prep.keypoints import to_grid
from data_prep.mediapipe_backend import from_squares, look_at, to_openpose, wrist_boxes
from data_prep.rescale import REFERENCE_SHOULDER_WIDTH_PX, rescale
from sdt_jax import keypoints as kp

BOX = (0, 0, 1280, 720)
T = rules.Thresholds()
LEFT, RIGHT, FACE = (rules.PARTS[part] for part in ("left_hand", "right_hand", "face"))


def _origin(keypoints):
  return np.where(keypoints[:, 2] > 0, Origin.FOUND, Origin.MISSING).astype(np.int8)


def _counts(keypoints, box=BOX):
  return clean.clean(keypoints, _origin(keypoints), box)[2]


def test_a_plausible_person_is_left_as_it_is():
  assert rules.USED.size == 122
  keypoints = person(30)
  cleaned, origin, counts = clean.clean(keypoints, _origin(keypoints), BOX)
  np.testing.assert_array_equal(cleaned, keypoints)
  np.testing.assert_array_equal(origin, _origin(keypoints))
  assert not any(counts.values())


def _move(keypoints, frames, points, x=0.0, y=0.0):
  unit = rules.shoulder_width(keypoints)
  for frame in frames:
    keypoints[frame, 0, points] += x * unit
    keypoints[frame, 1, points] += y * unit


def _bring_hands_together(k, x):
  for side, sign in (("left", -1), ("right", 1)):
    wrist = kp.OPENPOSE.index[f"{side}_wrist"]
    _move(k, range(len(k)), [wrist, *rules.PARTS[f"{side}_hand"]], x=x * sign)


def _far_hand(k):  # a reflection on the desk
  _move(k, range(20), LEFT, y=0.6)


def _swapped_hands(k):
  k[:, :, LEFT], k[:, :, RIGHT] = k[:, :, RIGHT].copy(), k[:, :, LEFT].copy()


def _scaled(points, about, factor):
  """Makes a part smaller or larger about one of its points."""

  def spoil(k):
    middle = k[:, :2, [kp.OPENPOSE.index[about]]].copy()
    k[:, :2, points] = middle + factor * (k[:, :2, points] - middle)

  return spoil


def _hand_out_of_the_picture(k):
  k[:, 1] += (720 - k[:, 1, LEFT].min()) * (k[:, 2] > 0)


def _found_twice(k):
  # Wrists far enough apart for two hands, close enough for one between them.
  _bring_hands_together(k, 0.2)
  k[:, :, LEFT] = k[:, :, RIGHT]
  # Half way between the wrists, where no rule of distance applies.
  middle = (rules.point(k, "left_wrist") + rules.point(k, "right_wrist")) / 2
  k[:, :2, LEFT] += (middle - rules.point(k, "left_hand_root"))[:, :, None]
  k[:, :2, RIGHT] += (middle - rules.point(k, "right_hand_root"))[:, :, None]
  k[:, 0, LEFT] += 1


def _turned_round(k):
  for joint in ("shoulder", "elbow", "wrist"):
    pair = [kp.OPENPOSE.index[f"{side}_{joint}"] for side in rules.SIDES]
    k[:, :, pair] = k[:, :, pair[::-1]]


def _wrist_outside(k):
  k[:, 1, kp.OPENPOSE.index["left_wrist"]] = 720 * 1.06


def _doubtful(k):
  k[:, 2, kp.OPENPOSE.index["left_eye"]] = 0.01


_ELBOW = [kp.OPENPOSE.index["left_elbow"]]


@pytest.mark.parametrize(
  ("spoil", "rule"),
  [
    (_far_hand, "hand far from its wrist"),
    (lambda k: _move(k, range(20), LEFT, x=-0.7), "hand at the other wrist"),
    (_swapped_hands, "hand at the other wrist"),
    (_scaled(RIGHT, "right_hand_root", 0), "hand too small or large"),
    (_scaled(RIGHT, "right_hand_root", 3), "hand too small or large"),
    (_hand_out_of_the_picture, "hand outside the picture"),
    (_found_twice, "hand found twice"),
    (lambda k: _move(k, [10], LEFT, x=0.43), "hand jumps for one frame"),
    (lambda k: _move(k, [10], _ELBOW, x=0.5), "jump for one frame"),
    (_turned_round, "left and right swapped"),
    (_wrist_outside, "outside the picture"),
    (_doubtful, "low confidence"),
    (lambda k: _move(k, range(20), FACE, x=1.0), "face far from the nose"),
    (_scaled(FACE, "face_30", 0.1), "face too small or large"),
  ],
)
def test_each_fault_is_met_by_its_rule(spoil, rule):
  keypoints = person(20)
  spoil(keypoints)
  counts = _counts(keypoints)
  assert counts[rule] > 0, counts


def test_clasped_hands_stay():
  keypoints = person(20)
  _bring_hands_together(keypoints, 0.3)
  assert not any(_counts(keypoints).values())


def test_gaps_of_five_frames_are_closed_and_longer_ones_are_not():
  whole = person(40)
  keypoints = whole.copy()
  keypoints[10:15][:, :, LEFT] = 0
  keypoints[20:26][:, :, RIGHT] = 0
  keypoints[37:][:, :, LEFT] = 0  # nothing to interpolate to at the end
  cleaned, origin, counts = clean.clean(keypoints, _origin(keypoints), BOX)
  assert (origin[10:15][:, LEFT] == Origin.INTERPOLATED).all()
  assert (cleaned[20:26][:, 2, RIGHT] == 0).all()
  assert (cleaned[37:][:, 2, LEFT] == 0).all()
  assert counts["gap closed"] == 5
  np.testing.assert_allclose(cleaned[10:15], whole[10:15], atol=3)


def test_gaps_across_a_jump_are_not_closed():
  keypoints = person(40)
  keypoints[12:][:, 0] += 400 * (keypoints[12:][:, 2] > 0)  # another shot
  keypoints[10:12] = 0
  cleaned, _, _ = clean.clean(keypoints, _origin(keypoints), BOX)
  assert (cleaned[10:12][:, 2] == 0).all()


_STEPS = np.random.default_rng(0).uniform(0.01, 0.07, 100)


@pytest.mark.parametrize(
  "times",
  [
    *(np.arange(int(4 * fps)) / fps for fps in (12.5, 15, 24, 25, 29.97, 30, 50, 60)),
    np.cumsum([0, *_STEPS]),
  ],
)
def test_motion_at_any_rate_is_the_same_at_15(times):
  # Times within 1 ms count as the same, which is 0.1 px here.
  keypoints = np.zeros((len(times), 3, kp.OPENPOSE.num_joints), np.float32)
  keypoints[:, 2, rules.USED] = 1
  keypoints[:, 0, rules.USED] = 100 * times[:, None]  # moves evenly
  grid, origin = to_grid(Detection(keypoints, _origin(keypoints)), times)
  assert len(grid) == int(times[-1] * 15 + 1e-3) + 1
  expected = 100 * np.arange(len(grid)) / 15
  np.testing.assert_allclose(grid[:, 0, rules.USED[0]], expected, atol=0.11)
  even = np.ptp(np.diff(times)) < 1e-6
  assert not even or (origin[:, rules.USED] == Origin.FOUND).all()


def test_frames_at_their_time_are_taken_exactly():
  keypoints = person(20)
  grid, _ = to_grid(Detection(keypoints, _origin(keypoints)), np.arange(20) / 15)
  np.testing.assert_array_equal(grid, keypoints)


def test_resampling_keeps_the_origin_of_points():
  keypoints = person(40)
  origin = _origin(keypoints)
  origin[20:30, LEFT] = Origin.SECOND_PASS
  keypoints[10][:, RIGHT], origin[10, RIGHT] = 0, Origin.MISSING
  keypoints[14:24][:, :, RIGHT], origin[14:24, RIGHT] = 0, Origin.MISSING
  grid, made_by = to_grid(Detection(keypoints, origin), np.arange(40) / 30)
  assert (made_by[5, RIGHT] == Origin.INTERPOLATED).all()
  assert (made_by[8:12][:, RIGHT] == Origin.MISSING).all()
  assert (grid[8:12][:, 2, RIGHT] == 0).all()
  assert (made_by[10:15][:, LEFT] == Origin.SECOND_PASS).all()


def test_every_video_gets_the_reference_shoulders():
  for unit in (60, 200):
    scaled, factor = rescale(person(30, unit=unit))
    assert rules.shoulder_widths(scaled).mean() == pytest.approx(
      REFERENCE_SHOULDER_WIDTH_PX, rel=1e-5
    )
    assert factor == pytest.approx(REFERENCE_SHOULDER_WIDTH_PX / unit, rel=0.02)


def test_rules_work_for_any_size_and_without_a_person():
  assert not any(_counts(person(20, unit=50)).values())
  nobody = np.zeros((20, 3, kp.OPENPOSE.num_joints), np.float32)
  assert not any(_counts(nobody).values())
  assert rescale(nobody)[1] == 1


# --- results of MediaPipe ---


def test_the_mapping_names_every_used_point_once():
  raw = {
    "pose": np.random.default_rng(0).uniform(1, 700, (2, 33, 3)).astype(np.float32),
    "face": np.random.default_rng(1).uniform(1, 700, (2, 478, 2)).astype(np.float32),
    "left": np.full((2, 21, 2), np.nan, np.float32),
    "right": np.random.default_rng(2).uniform(1, 700, (2, 21, 2)).astype(np.float32),
  }
  keypoints = to_openpose(raw)
  there = keypoints[:, 2] > 0
  assert there[:, np.setdiff1d(rules.USED, LEFT)].all()
  assert not there[:, LEFT].any()
  neck = (raw["pose"][:, 11] + raw["pose"][:, 12]) / 2
  np.testing.assert_allclose(keypoints[:, :, kp.OPENPOSE.index["neck"]], neck)
  np.testing.assert_array_equal(
    keypoints[:, :2, kp.OPENPOSE.index["left_wrist"]], raw["pose"][:, 15, :2]
  )


def test_squares_are_about_wrists_of_missing_hands_only():
  keypoints = person(3)
  keypoints[1][:, LEFT] = 0
  frames, sides, boxes = wrist_boxes(keypoints, 1.0)
  assert frames.tolist() == [1]
  assert rules.SIDES[sides[0]] == "left"
  middle = boxes[0, :2] + boxes[0, 2:] / 2
  np.testing.assert_allclose(middle, rules.point(keypoints, "left_wrist")[1], atol=1)
  assert boxes[0, 2] == boxes[0, 3] == round(rules.shoulder_width(keypoints))


def test_one_square_holds_both_hands_that_are_near():
  keypoints = person(2)
  keypoints[:, :, np.append(LEFT, RIGHT)] = 0
  wrist = kp.OPENPOSE.index["left_wrist"]
  keypoints[1, 0, wrist] += rules.shoulder_width(keypoints)  # an arm stretched out
  frames, _, boxes = wrist_boxes(keypoints, 2.5, together=True)
  assert frames.tolist() == [0, 0, 1, 1]
  assert (boxes[0] == boxes[1]).all()
  assert (boxes[2] != boxes[3]).any()


def test_of_two_hands_in_a_square_the_labelled_one_is_taken():
  keypoints = person(1)
  hands = np.stack([keypoints[0, :2, at].reshape(21, 2) for at in (RIGHT, LEFT)])[None]
  frames, sides = np.array([0]), np.array([rules.SIDES.index("left")])
  found = from_squares(keypoints, frames, sides, hands, np.array([[False, True]]))
  np.testing.assert_array_equal(found[0, :2, LEFT].reshape(21, 2), hands[0, 1])
  assert not found[0, :, RIGHT].any()


def _faces(per_picture, pictures=20):
  boxes = np.array([box for _ in range(pictures) for box in per_picture], float)
  return boxes, np.repeat(np.arange(pictures), len(per_picture)), pictures


def test_the_largest_of_several_people_is_looked_at():
  alone, notes = look_at(_faces([(600, 100, 100, 100)]), BOX)
  assert (alone, notes) == (BOX, [])
  beside = _faces([(200, 100, 60, 60), (800, 100, 120, 120)])
  (x, y, width, height), notes = look_at(beside, BOX)
  assert (x, x + width, y, height) == (545, 1280, 0, 720)
  assert "several people" in notes[0]
  stacked = _faces([(600, 100, 120, 120), (600, 500, 80, 80)])
  (x, y, width, height), _ = look_at(stacked, BOX)
  assert (x, width, y, height) == (0, 1280, 0, 540 - 120)  # over the lower head
  passer_by = _faces([(600, 100, 100, 100)], 20)
  boxes = np.vstack([passer_by[0], [[100, 100, 50, 50]]])
  assert look_at((boxes, np.append(passer_by[1], 3), 20), BOX) == (BOX, [])
  none = (np.zeros((0, 4)), np.zeros(0), 20)
  assert look_at(none, BOX) == (BOX, [])


# --- measurements of the report ---


@pytest.mark.parametrize("lag", [-6, 0, 4])
def test_a_wrong_sound_offset_shows(lag):
  generator = np.random.default_rng(0)
  talk = np.convolve(generator.uniform(0, 1, 620), np.ones(3) / 3, "same")
  sound = talk[10:-10]
  mouth = talk[10 - lag : len(talk) - 10 - lag] + 0.2 * generator.normal(size=600)
  curve = measures.lag_curve(mouth, sound)
  assert measures.best_lag(curve, 600) == lag
  noise = generator.normal(size=600)
  assert measures.best_lag(measures.lag_curve(noise, sound), 600) is None


def test_a_profile_face_shows():
  keypoints = person(10)
  for i, x in ((0, 500), (16, 700), (30, 600)):
    keypoints[:, 0, kp.OPENPOSE.index[f"face_{i}"]] = x
  assert measures.profile_share(keypoints) == 0
  keypoints[:5, 0, kp.OPENPOSE.index["face_30"]] = 690
  assert measures.profile_share(keypoints) == 0.5
