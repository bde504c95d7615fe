"""Conversions of poses: from the image to the model and back."""

import golden
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax import pose, speakers
from sdt_jax.errors import UserError

RECORDED = golden.load("pose_transforms")
TABLE = speakers.published("oliver").hierarchical

coordinates = st.floats(-2000, 2000, width=32)
poses_of_any_kind = hnp.arrays(
  np.float32, (2, *kp.UPPER_BODY.shape), elements=coordinates
)
quick = hypothesis.settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("form", ["parted", "global"])
@pytest.mark.parametrize("name", ["oliver", "kubinec"])
def test_conversions_to_the_model_match_the_original(name, form):
  table = speakers.published(name).table(form == "parted")
  poses_norm = pose.from_global(pose.from_openpose(RECORDED["raw137"]), table)
  poses = pose.denormalize(poses_norm, table)
  prefix = f"{name}_{form}"
  np.testing.assert_allclose(poses, RECORDED[f"{prefix}_relative"], atol=1e-3)
  assert golden.relative_error(poses_norm, RECORDED[f"{prefix}_normalized"]) < 1e-6
  final = pose.to_final(poses_norm, table)
  assert golden.relative_error(final, RECORDED[f"{prefix}_final"]) < 1e-6


@pytest.mark.parametrize("form", ["parted", "global"])
def test_final_poses_are_the_poses_at_the_common_size(form):
  table = speakers.published("kubinec").table(form == "parted")
  poses_px = pose.from_openpose(RECORDED["raw137"])
  poses_norm = pose.from_global(poses_px, table)
  final = pose.to_final(poses_norm, table)
  np.testing.assert_allclose(final, poses_px * table.scale_factor, atol=1e-2)
  np.testing.assert_allclose(pose.from_final(final, table), poses_norm, atol=1e-4)


@quick
@hypothesis.given(poses_of_any_kind)
def test_conversions_are_inverse(poses):
  there = pose.to_hierarchical(poses)
  np.testing.assert_allclose(pose.to_global(there), poses, atol=1e-3)
  back = pose.to_global(poses)
  np.testing.assert_allclose(pose.to_hierarchical(back), poses, atol=1e-3)
  poses_norm = pose.normalize(poses, TABLE)
  np.testing.assert_allclose(pose.denormalize(poses_norm, TABLE), poses, atol=1e-2)


def test_hierarchical_points_are_relative_to_their_roots():
  poses = RECORDED["oliver_global_relative"]
  hierarchical = pose.to_hierarchical(poses)
  roots = {"face": "face_30", "left_hand": "left_wrist", "right_hand": "right_wrist"}
  for part, joint in roots.items():
    root = kp.UPPER_BODY.index[joint]
    rest = np.setdiff1d(kp.UPPER_BODY.part(part), root)
    expected = poses[..., rest] - poses[..., [root]]
    np.testing.assert_array_equal(hierarchical[..., rest], expected)
    # The roots, including the tip of the nose, stay relative to the neck.
    np.testing.assert_array_equal(hierarchical[..., root], poses[..., root])
  body = kp.UPPER_BODY.part("body")
  np.testing.assert_array_equal(hierarchical[..., body], poses[..., body])


def test_poses_placed_in_an_image_come_back():
  poses = pose.from_openpose(RECORDED["raw137"])
  keypoints = pose.to_openpose(poses, (640.0, 300.0), scale=0.5)
  np.testing.assert_allclose(pose.from_openpose(keypoints), poses / 2, atol=1e-3)
  np.testing.assert_array_equal(keypoints[:, :, kp.OPENPOSE.index["left_ankle"]], 0)
  np.testing.assert_array_equal(
    keypoints[:, :, kp.OPENPOSE.index["neck"]], [(640, 300, 1)] * len(poses)
  )


def test_the_place_in_the_image_and_the_confidence_do_not_matter():
  raw = RECORDED["raw137"].astype(np.float64)
  poses = pose.from_openpose(raw)
  moved = pose.from_openpose(raw + np.array([[31.0], [-7.0], [0.0]]))
  np.testing.assert_allclose(moved, poses, atol=1e-9)
  np.testing.assert_array_equal(pose.from_openpose(raw[:, :2]), poses)


def test_a_larger_image_has_a_larger_pose():
  raw = RECORDED["raw137"].astype(np.float64)
  poses, larger = pose.from_openpose(raw), pose.from_openpose(raw * 3)
  np.testing.assert_allclose(larger, poses * 3)
  larger = pose.to_hierarchical(larger)
  np.testing.assert_allclose(larger, pose.to_hierarchical(poses) * 3, atol=1e-9)


@pytest.mark.parametrize("shape", [(137,), (64, 4, 137), (64, 3, 121), (3, 137, 64)])
def test_other_shapes_are_refused(shape):
  with pytest.raises(UserError) as e:
    pose.from_openpose(np.zeros(shape))
  assert str(shape) in str(e.value)
  assert "(..., 3, 137)" in str(e.value)


@pytest.mark.parametrize("change", [(1, 0), (0, 1), (0, -1)])
def test_shapes_other_than_the_skeletons_fail_the_type_check(change):
  poses = np.zeros((4, *np.add(kp.UPPER_BODY.shape, change)), np.float32)
  with pytest.raises(jaxtyping.TypeCheckError):
    pose.denormalize(poses, TABLE)


def _there_and_back(raw):
  return pose.to_final(pose.from_global(pose.from_openpose(raw), TABLE), TABLE)


def test_numpy_stays_numpy_and_jax_stays_jax():
  raw = RECORDED["raw137"]
  ours = _there_and_back(raw)
  assert type(ours) is np.ndarray
  assert ours.dtype == np.float32
  traced = jax.jit(_there_and_back)(jnp.asarray(raw))
  assert isinstance(traced, jax.Array)
  np.testing.assert_allclose(traced, ours, atol=1e-2)


def test_leading_axes_do_not_matter():
  raw = RECORDED["raw137"]
  one_by_one = np.stack([_there_and_back(frame) for frame in raw[:3]])
  np.testing.assert_array_equal(_there_and_back(raw[:3]), one_by_one)
  np.testing.assert_array_equal(_there_and_back(raw[None, :3])[0], one_by_one)


def test_a_point_with_an_undetected_parent_is_not_detected():
  detected = np.ones(kp.UPPER_BODY.num_joints, bool)
  detected[kp.UPPER_BODY.indices("left_wrist", "face_3")] = False
  with_parent = pose.detected_with_parent(detected)
  names = ("left_wrist", "face_3", *kp.UPPER_BODY.parts["left_hand"])
  lost = set(kp.UPPER_BODY.indices(*names))
  assert set(np.flatnonzero(~with_parent)) == lost
