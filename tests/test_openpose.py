"""OpenPose JSON: round trip, versions, several people, broken files."""

import contextlib

import numpy as np
import pytest
from data_prep_helpers import person
from hypothesis import given
from hypothesis import strategies as st

from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.exports import openpose


def _flat(count, offset=0.0):
  points = np.arange(3.0 * count).reshape(count, 3) + 1 + offset
  points[:, 2] = 0.5
  return points.ravel().tolist()


def _frame(person):
  return openpose.from_json({"version": 1.3, "people": [person]}, "x.json")


def test_folder_round_trip_to_a_thousandth(tmp_path):
  keypoints = person(5)
  keypoints[2] = 0  # nobody
  keypoints[3][:, kp.OPENPOSE.index["left_hand_root"] :] = 0  # no hands
  openpose.write_openpose_folder(keypoints, tmp_path / "a")
  back = openpose.read_openpose_folder(tmp_path / "a")
  np.testing.assert_allclose(back, keypoints, atol=6e-4)
  np.testing.assert_array_equal(back[2], 0)
  # Writing what was read gives the same values again.
  openpose.write_openpose_folder(back, tmp_path / "b")
  np.testing.assert_array_equal(openpose.read_openpose_folder(tmp_path / "b"), back)


def test_an_export_replaces_an_export_but_no_other_files(tmp_path):
  openpose.write_openpose_folder(person(5), tmp_path / "a")
  openpose.write_openpose_folder(person(2), tmp_path / "a")
  assert len(openpose.read_openpose_folder(tmp_path / "a")) == 2
  (tmp_path / "a" / "thesis.doc").write_text("years of work")
  with pytest.raises(UserError, match="contains other files"):
    openpose.write_openpose_folder(person(2), tmp_path / "a")
  assert (tmp_path / "a" / "thesis.doc").exists()


def test_older_names_and_the_older_body_are_read():
  parts = {"pose": 18, "face": 70, "hand_left": 21, "hand_right": 21}
  old = _frame({f"{part}_keypoints": _flat(n) for part, n in parts.items()})
  # The 18th point of the older body is the left ear, the 9th the right hip.
  np.testing.assert_allclose(old[:, kp.OPENPOSE.index["left_ear"]], (52, 53, 0.5))
  np.testing.assert_allclose(old[:, kp.OPENPOSE.index["right_hip"]], (25, 26, 0.5))
  assert (old[:, kp.OPENPOSE.index["mid_hip"]] == 0).all()
  new = _frame({"pose_keypoints_2d": _flat(25), "hand_left_keypoints_2d": _flat(21)})
  np.testing.assert_allclose(new[:, kp.OPENPOSE.index["right_heel"]], (73, 74, 0.5))
  np.testing.assert_array_equal(
    new[:, kp.OPENPOSE.index["left_hand_root"]],
    old[:, kp.OPENPOSE.index["left_hand_root"]],
  )
  assert (new[2, kp.OPENPOSE.index["right_hand_root"]] == 0).all()


def test_the_largest_of_several_people_is_used():
  small, large = person(1, unit=100)[0], person(1, unit=200)[0]
  people = [openpose.to_json(p)["people"][0] for p in (small, large, small)]
  taken = openpose.from_json({"people": people}, "x.json")
  np.testing.assert_allclose(taken, large, atol=6e-4)


def test_points_without_confidence_are_zero():
  flat = _flat(25)
  flat[2] = 0.0
  flat[5] = -1.0
  frame = _frame({"pose_keypoints_2d": flat})
  assert (frame[:, [kp.OPENPOSE.index["nose"], kp.OPENPOSE.index["neck"]]] == 0).all()


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("", "not a readable JSON"),
    ('{"people": [', "not a readable JSON"),
    ("[" * 100_000, "not a readable JSON"),
    ("[1]", "no list 'people'"),
    ('{"people": 3}', "no list 'people'"),
    ('{"people": [3]}', "person 0 is a int"),
    ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "1 points, expected 25 or 18"),
    ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "flat list"),
    ('{"people": [{"pose_keypoints_2d": [null, 1, 1]}]}', "not finite"),
    ('{"people": [{"face_keypoints_2d": [NaN, 1, 1]}]}', "not finite"),
    ('{"people": [{"face_keypoints_2d": {"x": 1}}]}', "flat list"),
  ],
)
def test_broken_files_are_named(tmp_path, content, said):
  file = tmp_path / "clip_000000000000_keypoints.json"
  file.write_text(content)
  with pytest.raises(UserError, match=said) as error:
    openpose.read_openpose_folder(tmp_path)
  assert file.name in str(error.value)
  assert "\n" not in str(error.value)


def test_gaps_duplicates_and_empty_folders_are_named(tmp_path):
  with pytest.raises(UserError, match="contains no OpenPose"):
    openpose.read_openpose_folder(tmp_path)
  with pytest.raises(UserError, match="no such folder"):
    openpose.read_openpose_folder(tmp_path / "nowhere")
  openpose.write_openpose_folder(person(9), tmp_path / "a")
  files = openpose.frame_files(tmp_path / "a")
  for i in (2, 5, 6):
    files[i].unlink()
  with pytest.raises(UserError, match="no files for frames 2, 5-6"):
    openpose.read_openpose_folder(tmp_path / "a")
  (tmp_path / "a" / "other_000000000003_keypoints.json").write_text("{}")
  with pytest.raises(UserError, match="have the same frame number"):
    openpose.read_openpose_folder(tmp_path / "a")


_NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text())
_FLAT = st.lists(_NUMBERS, max_size=9) | st.just(_flat(25)) | st.just(_flat(21))
_JSON = st.recursive(
  _NUMBERS | _FLAT,
  lambda x: (
    st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4)
  ),
  max_leaves=12,
)
_FIELD = st.sampled_from(
  ["pose_keypoints_2d", "pose_keypoints", "face_keypoints_2d", "hand_left_keypoints"]
)
_PERSON = st.dictionaries(_FIELD, _FLAT | _JSON, max_size=3) | _JSON


def _check(frame):
  assert frame.shape == kp.OPENPOSE.detection_shape
  assert np.isfinite(frame).all()


@given(st.fixed_dictionaries({"people": st.lists(_PERSON, max_size=3) | _JSON}) | _JSON)
def test_no_content_raises_anything_but_a_user_error(content):
  with contextlib.suppress(UserError):
    _check(openpose.from_json(content, "x.json"))
