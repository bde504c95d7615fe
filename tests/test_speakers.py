"""Statistics of speakers: published, and computed from poses."""

import json
import math

import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax import pose, speakers
from sdt_jax.errors import UserError


def _poses(frames: int = 40, seed: int = 0) -> np.ndarray:
  """(frames, dims, joints) of a person like oliver."""
  table = speakers.published("oliver").global_
  noise = np.random.default_rng(seed).standard_normal((frames, *kp.UPPER_BODY.shape))
  return (table.mean + table.std * noise).astype(np.float32)


def _all(poses: np.ndarray) -> np.ndarray:
  return np.ones((len(poses), kp.UPPER_BODY.num_joints), bool)


def _shoulder_width(table: pose.PoseTable) -> float:
  shoulders = kp.UPPER_BODY.indices("left_shoulder", "right_shoulder")
  return np.linalg.norm(np.diff(table.mean[:, shoulders]))


def _assert_same(a: speakers.Speaker, b: speakers.Speaker) -> None:
  assert a.name == b.name
  for ours, theirs in ((a.hierarchical, b.hierarchical), (a.global_, b.global_)):
    assert (ours is None) == (theirs is None)
    if ours is not None:
      np.testing.assert_array_equal(ours.mean, theirs.mean)
      np.testing.assert_array_equal(ours.std, theirs.std)
      assert ours.scale_factor == theirs.scale_factor


@pytest.mark.parametrize("name", speakers.published_names())
def test_every_published_table_is_usable(name):
  speaker = speakers.published(name)
  # The published tables of global poses were computed from slightly different clips.
  for table, rel in ((speaker.hierarchical, 1e-6), (speaker.global_, 0.03)):
    if table is None:
      continue
    assert table.mean.shape == table.std.shape == kp.UPPER_BODY.shape
    assert table.mean.dtype == table.std.dtype == np.float32
    assert (table.std > 0).all()
    # All speakers have the same size after scaling.
    width = _shoulder_width(table) * table.scale_factor
    assert width == pytest.approx(speakers.COMMON_SHOULDER_WIDTH_PX, rel=rel)


def test_the_speakers_of_the_paper_are_published_and_no_others():
  assert {"oliver", "kubinec", "luo", "xing"} <= set(speakers.published_names())
  with pytest.raises(UserError, match=r"'nobody'.*kubinec.*oliver"):
    speakers.published("nobody")


def test_the_table_of_the_form():
  speaker = speakers.published("oliver")
  assert speaker.table(hierarchical=True) is speaker.hierarchical
  assert speaker.table(hierarchical=False) is speaker.global_
  lacking = speakers.Speaker("ann", speaker.hierarchical, None)
  assert lacking.table(hierarchical=True) is speaker.hierarchical
  with pytest.raises(UserError, match=r"speaker ann.*global"):
    lacking.table(hierarchical=False)


def test_from_poses_is_mean_and_std_if_all_points_are_detected():
  poses_px = _poses()
  speaker = speakers.from_poses("ann", poses_px, _all(poses_px))
  for table, poses in (
    (speaker.global_, poses_px),
    (speaker.hierarchical, pose.to_hierarchical(poses_px)),
  ):
    np.testing.assert_allclose(table.mean, poses.mean(0), atol=1e-3)
    np.testing.assert_allclose(table.std, poses.std(0), rtol=1e-4)
    width = _shoulder_width(table) * table.scale_factor
    assert width == pytest.approx(speakers.COMMON_SHOULDER_WIDTH_PX)


def test_a_larger_speaker_gets_the_same_final_poses():
  poses_px = _poses()
  final = []
  for size in (1.0, 2.5):
    table = speakers.from_poses("ann", poses_px * size, _all(poses_px)).global_
    poses_norm = pose.normalize(poses_px * size, table)
    final.append(pose.to_final(poses_norm, table))
  np.testing.assert_allclose(final[0], final[1], atol=1e-2)


def test_undetected_points_are_ignored():
  poses_px = _poses()
  detected = np.random.default_rng(1).random(_all(poses_px).shape) < 0.8
  spoilt = np.where(detected[:, None], poses_px, -1e4)
  speaker = speakers.from_poses("ann", spoilt, detected)
  ours, theirs = speaker.global_, poses_px.astype(np.float64)
  for i in range(kp.UPPER_BODY.num_joints):
    seen = theirs[detected[:, i], :, i]
    np.testing.assert_allclose(ours.mean[:, i], seen.mean(0), atol=1e-3)
    np.testing.assert_allclose(ours.std[:, i], seen.std(0), rtol=1e-4)


def test_hierarchical_points_with_an_undetected_parent_are_ignored():
  poses_px = _poses()
  detected = _all(poses_px)
  wrist, hand = kp.UPPER_BODY.index["left_wrist"], kp.UPPER_BODY.part("left_hand")
  detected[::2, wrist] = False
  spoilt = poses_px.copy()
  spoilt[::2, :, wrist] = 0
  speaker = speakers.from_poses("ann", spoilt, detected)
  expected = pose.to_hierarchical(poses_px[1::2])[..., hand].mean(0)
  np.testing.assert_allclose(speaker.hierarchical.mean[:, hand], expected, atol=1e-3)
  # Global coordinates do not depend on the parent.
  expected = poses_px[..., hand].mean(0)
  np.testing.assert_allclose(speaker.global_.mean[:, hand], expected, atol=1e-3)


def test_statistics_do_not_depend_on_how_frames_are_split():
  poses_px = _poses(30)
  detected = np.random.default_rng(1).random((30, kp.UPPER_BODY.num_joints)) < 0.9
  running = speakers.RunningStatistics()
  for piece in (slice(0, 3), slice(3, 20), slice(20, 30)):
    running.add(poses_px[piece], detected[piece])
  pieces, whole = running.speaker("ann"), speakers.from_poses("ann", poses_px, detected)
  np.testing.assert_allclose(pieces.hierarchical.mean, whole.hierarchical.mean)
  np.testing.assert_allclose(pieces.hierarchical.std, whole.hierarchical.std, rtol=1e-5)


def test_a_point_that_never_moves_does_not_divide_by_zero():
  poses_px = np.repeat(_poses(1), 5, axis=0)
  table = speakers.from_poses("ann", poses_px, _all(poses_px)).global_
  np.testing.assert_allclose(table.std, speakers.MIN_STD_PX)
  assert np.abs(pose.normalize(poses_px, table)).max() < 1e-2


def test_points_that_were_never_detected_are_named():
  poses_px = _poses()
  detected = _all(poses_px)
  detected[:, kp.UPPER_BODY.indices("left_eye", "face_4")] = False
  with pytest.raises(UserError, match=r"speaker ann.*left_eye, face_4$"):
    speakers.from_poses("ann", poses_px, detected)
  detected[:] = False
  with pytest.raises(UserError, match=r"nose.* and 116 more"):
    speakers.from_poses("ann", poses_px, detected)


def test_shoulders_that_coincide_are_refused():
  poses_px = np.zeros((5, *kp.UPPER_BODY.shape))
  with pytest.raises(UserError, match=r"shoulder width is 0\.000 px"):
    speakers.from_poses("ann", poses_px, _all(poses_px))


def test_json_round_trip():
  oliver, kubinec = map(speakers.published, ("oliver", "kubinec"))
  without = speakers.Speaker("ann", oliver.hierarchical, None)
  assert set(speakers.to_json(without)) == {"hierarchical"}
  for speaker in (oliver, kubinec, without):
    tables = json.loads(json.dumps(speakers.to_json(speaker)))
    _assert_same(speakers.from_json(speaker.name, tables, "here"), speaker)


def _broken(**fields):
  table = speakers.to_json(speakers.published("oliver"))["hierarchical"]
  return {"hierarchical": {**table, **fields}}


def _last(value):
  """As many numbers as a table has, all good but the last."""
  return [1.0] * (math.prod(kp.UPPER_BODY.shape) - 1) + [value]


_NAN, _INF = float("nan"), float("inf")


@pytest.mark.parametrize(
  "tables",
  [
    *(None, [], "text", {}, {"hierarchical": None}, {"hierarchical": {}}),
    {"global": speakers.to_json(speakers.published("oliver"))["global"]},
    *(_broken(mean=mean) for mean in (_last(0.0)[1:], _last("x"), _last(_NAN))),
    *(_broken(std=_last(value)) for value in (0.0, _NAN, _INF)),
    *(_broken(scale_factor=value) for value in (None, 0, -1.0, _NAN, _INF)),
  ],
)
def test_broken_tables_are_refused(tables):
  with pytest.raises(UserError, match=r"^file\.json: speaker 'ann'") as e:
    speakers.from_json("ann", tables, "file.json")
  assert "\n" not in str(e.value)
