"""Attributes of clips: they say what the hidden causes of the synthetic speaker are."""

import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax import pose
from sdt_jax.data import synthetic_speaker as synthetic
from sdt_jax.templates import attributes
from sdt_jax.templates.attributes import ATTRIBUTES

SPEAKER = synthetic.make_speaker("ada")


@pytest.fixture(scope="module")
def performances():
  return [synthetic.perform(SPEAKER, seed, 64 * 14) for seed in range(4)]


@pytest.fixture(scope="module")
def poses_px(performances):
  clips = [
    pose.from_openpose(p.keypoints).reshape(-1, 64, 2, 121) for p in performances
  ]
  return np.concatenate(clips)


def _values(poses_px):
  return dict(
    zip(ATTRIBUTES, np.moveaxis(attributes.measure(poses_px), -1, 0), strict=True)
  )


@pytest.mark.parametrize(
  ("name", "hidden"),
  [
    *((f"{side}_hand_high", f"{side}_hand_height") for side in ("left", "right")),
    *((f"{side}_hand_wide", f"{side}_hand_spread") for side in ("left", "right")),
    *(("head_turn", "head_turn"), ("head_tilt", "shoulder_lean")),
    ("lean", "shoulder_lean"),
  ],
)
def test_attributes_follow_the_hidden_causes(performances, poses_px, name, hidden):
  column = synthetic.TEMPLATE_NAMES.index(hidden)
  templates = np.concatenate([p.template.reshape(-1, 64, 7) for p in performances])
  cause = templates[..., column].mean(1)
  assert np.corrcoef(_values(poses_px)[name], cause)[0, 1] > 0.95


def test_means_of_both_hands_are_means(poses_px):
  values = _values(poses_px)
  for name, attribute in ATTRIBUTES.items():
    if attribute.parts:
      expected = np.mean([values[part] for part in attribute.parts], 0)
      np.testing.assert_allclose(values[name], expected, atol=1e-12)


def test_the_scale_of_the_pose_does_not_matter(poses_px):
  np.testing.assert_allclose(
    attributes.measure(1.7 * poses_px), attributes.measure(poses_px), atol=1e-4
  )


def test_a_faster_clip_has_more_energy_and_a_still_one_none(poses_px):
  clip = poses_px[0]
  fast = _values(clip[::2])["energy"] / _values(clip)["energy"]
  assert 1.2 < fast < 2.2
  assert _values(np.repeat(clip[:1], 64, axis=0))["energy"] == 0


def _mirrored(poses_px):
  """Left and right exchanged; of the face, only the joints that are measured."""
  names = list(kp.UPPER_BODY.names)
  swap = {"left": "right", "right": "left", "face_0": "face_16", "face_16": "face_0"}
  order = []
  for name in names:
    side, *rest = name.split("_", 1)
    other = "_".join([swap[side], *rest]) if side in swap else swap.get(name, name)
    order.append(names.index(other))
  return poses_px[..., order] * np.array([-1, 1])[:, None]


def test_a_mirrored_clip_has_mirrored_attributes(poses_px):
  before, after = _values(poses_px), _values(_mirrored(poses_px))
  for name in ("head_turn", "head_tilt", "lean"):
    np.testing.assert_allclose(after[name], -before[name], atol=1e-9)
  for name in ("hands_high", "hands_wide", "energy", "hands_open", "symmetry"):
    np.testing.assert_allclose(after[name], before[name], atol=1e-9)
  for way in ("high", "wide"):
    np.testing.assert_allclose(after[f"left_hand_{way}"], before[f"right_hand_{way}"])


def test_symmetry_is_highest_for_a_mirrored_pose(poses_px):
  symmetric = (poses_px + _mirrored(poses_px)) / 2
  np.testing.assert_allclose(_values(symmetric)["symmetry"], 0, atol=1e-9)
  assert (_values(poses_px)["symmetry"] < 0).all()


def test_straight_fingers_are_open():
  straight = np.zeros((2, 2, 121))
  straight[:, 0, kp.UPPER_BODY.index["left_shoulder"]] = 300
  for side in ("left", "right"):
    for chain in kp.finger_chains(side).values():
      straight[:, 1, kp.UPPER_BODY.indices(*chain)] = 20 * np.arange(5)
  assert _values(straight)["hands_open"] == pytest.approx(1)
  bent = straight.copy()
  tips = kp.UPPER_BODY.indices("left_hand_index_4", "left_hand_ring_4")
  bent[:, 1, tips] -= 40
  assert _values(bent)["hands_open"] == pytest.approx(1 - 2 / 8 * 2 / 3)
