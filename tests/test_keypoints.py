"""The joint names against the numbering of the published data."""

import numpy as np
import pytest

from sdt_jax import keypoints as kp


@pytest.mark.parametrize(
  ("skeleton", "joints"), [(kp.OPENPOSE, 137), (kp.UPPER_BODY, 121)]
)
def test_shapes_and_unique_names(skeleton, joints):
  assert len(set(skeleton.names)) == len(skeleton.names) == skeleton.num_joints
  assert skeleton.shape == (2, joints)
  assert skeleton.detection_shape == (3, joints)


def test_layout_of_openpose():
  places = {"nose": 0, "neck": 1, "right_wrist": 4, "left_wrist": 7, "right_heel": 24}
  places |= {"face_0": 25, "left_hand_root": 95, "left_hand_little_4": 115}
  places |= {"right_hand_root": 116, "right_hand_little_4": 136}
  np.testing.assert_array_equal(kp.OPENPOSE.indices(*places), [*places.values()])


def test_layout_of_the_upper_body_is_that_of_the_original():
  places = {"nose": 0, "right_shoulder": 1, "right_wrist": 3, "left_wrist": 6}
  places |= {"right_eye": 7, "left_eye": 8, "face_0": 9, "face_30": 39, "face_62": 71}
  places |= {"face_66": 75, "left_hand_root": 79, "right_hand_root": 100}
  np.testing.assert_array_equal(kp.UPPER_BODY.indices(*places), [*places.values()])
  assert kp.UPPER_BODY.index == dict(zip(kp.UPPER_BODY.names, range(121), strict=True))


def test_upper_body_has_no_neck_no_ears_and_no_lower_body():
  missing = sorted(set(range(137)) - set(kp.FROM_OPENPOSE))
  assert missing == [1, *range(8, 15), *range(17, 25)]


def test_the_index_map_keeps_the_names():
  names = tuple(kp.OPENPOSE.names[i] for i in kp.FROM_OPENPOSE)
  assert names == kp.UPPER_BODY.names


@pytest.mark.parametrize(("skeleton", "body"), [(kp.OPENPOSE, 25), (kp.UPPER_BODY, 9)])
def test_parts_cover_every_joint_once(skeleton, body):
  parts = {name: skeleton.part(name) for name in skeleton.parts}
  together = np.concatenate(list(parts.values()))
  assert sorted(together) == list(range(skeleton.num_joints))
  sizes = {name: len(part) for name, part in parts.items()}
  assert sizes == {"body": body, "face": 70, "left_hand": 21, "right_hand": 21}


def test_parents_are_the_roots_of_face_and_hands():
  skeleton = kp.UPPER_BODY
  parents = [skeleton.names[i] for i in skeleton.parent_index]
  assert parents[:9] == list(skeleton.parts["body"])
  assert parents[9:] == ["face_30"] * 70 + ["left_wrist"] * 21 + ["right_wrist"] * 21
  assert (kp.OPENPOSE.parent_index == np.arange(137)).all()


def test_an_unknown_name_is_an_error():
  with pytest.raises(KeyError, match="left_tail"):
    kp.UPPER_BODY.indices("nose", "left_tail")


def test_chains_consist_of_known_names():
  chains = [kp.ARM_CHAIN, *kp.FACE_CHAINS.values()]
  for side in ("left", "right"):
    chains += kp.finger_chains(side).values()
  assert {name for chain in chains for name in chain} <= {*kp.UPPER_BODY.names, "neck"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_fingers_cover_the_hand(side):
  chains = kp.finger_chains(side)
  names = {name for chain in chains.values() for name in chain}
  assert len(chains) == 5
  assert names == set(kp.UPPER_BODY.parts[f"{side}_hand"])
  assert all(chain[0] == f"{side}_hand_root" for chain in chains.values())


def test_closed_face_chains_end_where_they_begin():
  closed = {name for name, c in kp.FACE_CHAINS.items() if c[0] == c[-1]}
  assert closed == {"right_eye", "left_eye", "outer_lip", "inner_lip"}
  # Every point of the 68 once; the pupils 68 and 69 are in no chain.
  points = [set(chain) for chain in kp.FACE_CHAINS.values()]
  assert set.union(*points) == {f"face_{i}" for i in range(68)}
  assert sum(map(len, points)) == 68
