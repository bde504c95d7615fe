"""Generated motion in the formats of other tools, read back."""

import csv
import json

import numpy as np
import pytest

from sdt_jax import exports, pose
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.exports import csv_table, openpose, pose2img

POSES = np.random.default_rng(0).uniform(-300, 300, (6, 2, 121)).astype(np.float32)


def test_openpose_comes_back_about_the_neck(tmp_path):
  neck, scale = (822.0, 357.5), 0.85
  folder = openpose.write_motion(tmp_path / "speech", POSES, neck, scale)
  assert folder.name == "speech_openpose"
  assert sorted(f.name for f in folder.iterdir())[0] == (
    "speech_000000000000_keypoints.json"
  )
  keypoints = openpose.read_openpose_folder(folder)
  np.testing.assert_allclose(keypoints[:, :2, kp.OPENPOSE.index["neck"]], [neck] * 6)
  poses = pose.from_openpose(keypoints) / scale
  np.testing.assert_allclose(poses, POSES, atol=0.01)


def test_openpose_has_zeros_where_there_is_no_point(tmp_path):
  poses = POSES.copy()
  poses[2, :, kp.UPPER_BODY.index["left_wrist"]] = np.nan
  poses[3, 0, kp.UPPER_BODY.index["left_wrist"]] = np.nan
  (folder,) = exports.export(["openpose"], tmp_path / "a", poses)
  keypoints = openpose.read_openpose_folder(folder)
  absent = set(range(137)) - {*kp.FROM_OPENPOSE, kp.OPENPOSE.index["neck"]}
  assert not keypoints[:, :, sorted(absent)].any()
  wrist = keypoints[:, :, kp.OPENPOSE.index["left_wrist"]]
  np.testing.assert_array_equal(wrist.any(axis=1), [1, 1, 0, 0, 1, 1])
  person = json.loads(sorted(folder.iterdir())[0].read_text())["people"][0]
  lengths = {name: len(v) for name, v in person.items() if name.endswith("_2d")}
  assert lengths == {
    "pose_keypoints_2d": 75,
    "face_keypoints_2d": 210,
    "hand_left_keypoints_2d": 63,
    "hand_right_keypoints_2d": 63,
  }


def test_pose2img_has_the_key_that_the_renderer_reads(tmp_path):
  (path,) = exports.export(["pose2img"], tmp_path / "a.b", POSES)
  assert path.name == "a.b_pose2img.npz"
  with np.load(path, allow_pickle=False) as arrays:
    assert arrays.files == ["poses_pred_batch"]
    np.testing.assert_array_equal(arrays["poses_pred_batch"][0], POSES)


def test_csv_has_named_columns(tmp_path):
  poses = POSES.copy()
  poses[1, :, 0] = np.nan
  (path,) = exports.export(["csv"], tmp_path / "a", poses)
  with path.open(newline="") as f:
    rows = list(csv.DictReader(f))
  assert len(rows) == 6
  assert len(rows[0]) == 2 + 242
  assert [float(row["time_s"]) for row in rows[:2]] == [
    0,
    pytest.approx(1 / 15, abs=1e-4),
  ]
  assert rows[1]["nose_x"] == rows[1]["nose_y"] == ""
  for name in ("right_wrist", "face_30", "left_hand_thumb_4"):
    ours = [[float(row[f"{name}_{axis}"]) for axis in "xy"] for row in rows]
    np.testing.assert_allclose(ours, poses[:, :, kp.UPPER_BODY.index[name]], atol=5e-4)


def test_all_kinds_at_once_in_their_order(tmp_path):
  kinds = exports.parse_kinds("csv, openpose,pose2img")
  names = [path.name for path in exports.export(kinds, tmp_path / "new" / "a", POSES)]
  assert names == ["a.csv", "a_openpose", "a_pose2img.npz"]
  assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)
  assert exports.export((), tmp_path / "a", POSES) == []
  assert exports.parse_kinds("") == ()


def test_an_export_replaces_an_earlier_one(tmp_path):
  for poses in (POSES, POSES[:2]):
    exports.export(exports.EXPORTS, tmp_path / "a", poses)
  assert len(openpose.frame_files(tmp_path / "a_openpose")) == 2


def test_what_cannot_be_exported_is_named(tmp_path):
  with pytest.raises(
    UserError, match="--export=csv,bvh: unknown 'bvh'; known: openpose"
  ):
    exports.parse_kinds("csv,bvh")
  with pytest.raises(UserError, match="unknown 'bvh'"):
    exports.export(["bvh"], tmp_path / "a", POSES)
  with pytest.raises(UserError, match=r"shape \(2, 121\), expected \(T, 2, 121\)"):
    exports.export(exports.EXPORTS, tmp_path / "a", POSES[0])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("neck", "scale", "complaint"), [((0, 0), 0, "scale 0"), ((np.nan, 0), 1, "neck")]
)
def test_an_impossible_place_is_named(tmp_path, neck, scale, complaint):
  with pytest.raises(UserError, match=complaint):
    openpose.write_motion(tmp_path / "a", POSES, neck, scale)
  assert not list(tmp_path.iterdir())


def _read_openpose(path):
  return pose.from_openpose(openpose.read_openpose_folder(path))


READERS = {"openpose": _read_openpose, "pose2img": pose2img.read, "csv": csv_table.read}


@pytest.mark.parametrize("kind", exports.EXPORTS)
def test_what_is_written_is_read(tmp_path, kind):
  (path,) = exports.export([kind], tmp_path / "a", POSES)
  np.testing.assert_allclose(READERS[kind](path), POSES, atol=2e-3)


def test_missing_points_of_a_table_are_read(tmp_path):
  poses = POSES.copy()
  poses[1, :, 3] = np.nan
  (path,) = exports.export(["csv"], tmp_path / "a", poses)
  np.testing.assert_array_equal(np.isnan(csv_table.read(path)), np.isnan(poses))


@pytest.mark.parametrize("text", ["", "frame,time_s\n0,0\n", "a,b\n1,x\n"])
def test_another_table_is_refused(tmp_path, text):
  (tmp_path / "a.csv").write_text(text)
  with pytest.raises(UserError, match=r"a\.csv: not a table of motion"):
    csv_table.read(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", exports.EXPORTS)
def test_a_folder_that_cannot_be_written_is_named(tmp_path, kind):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be written"):
    exports.export([kind], tmp_path / "file" / "a", POSES)
