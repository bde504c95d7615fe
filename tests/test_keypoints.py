"""The names of the keypoints against the numbers that the published data is in."""

import numpy as np
import pytest

from sdt_jax import keypoints as kp


def test_names_are_unique():
  assert len(set(kp.KEYPOINTS_137)) == len(kp.KEYPOINTS_137) == 137
  assert len(set(kp.KEYPOINTS_121)) == kp.NUM_KEYPOINTS == 121


@pytest.mark.parametrize(
  ("name", "index"),
  [
    ("nose", 0),
    ("neck", 1),
    ("right_wrist", 4),
    ("left_wrist", 7),
    ("right_heel", 24),
    ("face_0", 25),
    ("left_hand_root", 95),
    ("left_hand_little_4", 115),
    ("right_hand_root", 116),
    ("right_hand_little_4", 136),
  ],
)
def test_137_is_the_layout_of_openpose(name, index):
  assert kp.INDEX_137[name] == index


@pytest.mark.parametrize(
  ("name", "index"),
  [
    ("nose", 0),
    ("right_shoulder", 1),
    ("right_wrist", 3),
    ("left_wrist", 6),
    ("right_eye", 7),
    ("left_eye", 8),
    ("face_0", 9),
    ("face_30", 39),
    ("face_62", 71),
    ("face_66", 75),
    ("left_hand_root", 79),
    ("right_hand_root", 100),
  ],
)
def test_121_is_the_layout_of_the_original(name, index):
  assert kp.INDEX_121[name] == index
  assert kp.indices(name) == [index]


def test_121_leaves_out_the_neck_the_ears_and_the_lower_body():
  missing = sorted(set(range(137)) - set(kp.FROM_137))
  assert missing == [kp.NECK_137, *range(8, 15), *range(17, 25)]


def test_the_index_map_keeps_the_names():
  assert tuple(kp.KEYPOINTS_137[i] for i in kp.FROM_137) == kp.KEYPOINTS_121


def test_parts_cover_every_keypoint_once():
  together = np.concatenate(list(kp.PARTS.values()))
  assert sorted(together) == list(range(kp.NUM_KEYPOINTS))
  sizes = {name: len(part) for name, part in kp.PARTS.items()}
  assert sizes == {"body": 9, "face": 70, "left_hand": 21, "right_hand": 21}


def test_an_unknown_name_is_an_error():
  with pytest.raises(KeyError, match="left_tail"):
    kp.indices("nose", "left_tail")


def test_chains_consist_of_known_names():
  chains = [kp.ARM_CHAIN, *kp.FACE_CHAINS.values()]
  for side in ("left", "right"):
    chains += kp.finger_chains(side).values()
  assert {name for chain in chains for name in chain} <= {*kp.KEYPOINTS_121, "neck"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_fingers_cover_the_hand(side):
  chains = kp.finger_chains(side)
  names = {name for chain in chains.values() for name in chain}
  assert len(chains) == 5
  assert set(kp.indices(*names)) == set(kp.PARTS[f"{side}_hand"])
  assert all(chain[0] == f"{side}_hand_root" for chain in chains.values())


def test_closed_face_chains_end_where_they_begin():
  closed = {name for name, c in kp.FACE_CHAINS.items() if c[0] == c[-1]}
  assert closed == {"right_eye", "left_eye", "outer_lip", "inner_lip"}
  # Every point of the 68 once; the pupils 68 and 69 are in no chain.
  points = [set(chain) for chain in kp.FACE_CHAINS.values()]
  assert set.union(*points) == {f"face_{i}" for i in range(68)}
  assert sum(map(len, points)) == 68
