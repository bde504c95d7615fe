"""Train and dev share no frame, and neither is empty if that is possible."""

import numpy as np
import pytest
from data_prep_helpers import person
from hypothesis import given
from hypothesis import strategies as st

from data_prep import clips, split
from sdt_jax import audio
from sdt_jax.errors import UserError

CLIP = audio.CLIP_FRAMES


@st.composite
def _starts(draw):
  """Windows of one video of random length that contain none of some random gaps."""
  length = draw(st.integers(0, 900))
  gaps = draw(st.lists(st.integers(0, 900), max_size=6))
  return [
    s
    for s in range(0, length - CLIP + 1, clips.STRIDE)
    if not any(s <= gap < s + CLIP for gap in gaps)
  ]


_VIDEOS = st.dictionaries(st.sampled_from("abcdef"), _starts(), min_size=1)


def _frames(labels, wanted):
  return {
    (video, s + i)
    for video, of in labels.items()
    for s, label in of.items()
    if label == wanted
    for i in range(CLIP)
  }


@given(_VIDEOS, st.sampled_from(["time", "video"]), st.integers(0, 9))
def test_train_and_dev_share_no_frame_and_none_is_empty(starts, by, seed):
  spread = [max(s) - min(s) for s in starts.values() if s]
  try:
    labels = split.split(starts, by, seed)
  except UserError:
    # Only if it is impossible: one video whose windows all overlap.
    assert len(spread) < 2
    assert by == "video" or not spread or spread[0] < CLIP
    return
  assert {v: list(of) for v, of in labels.items()} == dict(starts)
  train, dev = _frames(labels, "train"), _frames(labels, "dev")
  assert train
  assert dev
  assert not train & dev
  assert labels == split.split(starts, by, seed)


def test_long_videos_give_four_fifths_to_train():
  starts = {v: list(range(0, 9000, clips.STRIDE)) for v in "abcdefgh"}
  labels = split.split(starts, "time", 0)
  for of in labels.values():
    counts = {k: list(of.values()).count(k) for k in ("train", "dev", "idle")}
    assert counts["dev"] == 360
    assert counts["idle"] == 12
  # The seed determines which end is dev; it differs between videos.
  assert len({of[0] for of in labels.values()}) == 2
  assert labels != split.split(starts, "time", 1)


def test_another_video_does_not_move_the_split_of_the_others():
  starts = {v: list(range(0, 900, clips.STRIDE)) for v in "abc"}
  before = split.split(starts, "time", 0)
  after = split.split({**starts, "d": list(range(0, 900, clips.STRIDE))}, "time", 0)
  assert {v: after[v] for v in "abc"} == before


def test_by_video_no_video_is_in_both():
  starts = {v: list(range(0, 900, clips.STRIDE)) for v in "abcdefghij"}
  labels = split.split(starts, "video", 3)
  kinds = [set(of.values()) for of in labels.values()]
  assert kinds.count({"dev"}) == 2
  assert kinds.count({"train"}) == 8


def test_short_videos_are_split_by_video():
  starts = {"a": [0, 5], "b": [0], "c": []}
  labels = split.split(starts, "time", 0)
  assert {frozenset(of.values()) for v, of in labels.items() if v != "c"} == {
    frozenset({"train"}),
    frozenset({"dev"}),
  }


@pytest.mark.parametrize(
  ("starts", "said"),
  [({"a": []}, "no window"), ({"a": [0, 5, 60], "b": []}, "'a'.*all overlap")],
)
def test_too_few_windows_are_named(starts, said):
  with pytest.raises(UserError, match=said):
    split.split(starts, "time", 0)


def test_windows_are_dropped_for_their_first_fault():
  frames = 200
  keypoints = person(frames)
  samples = audio.num_samples(frames)
  kept, dropped = clips.windows(keypoints, samples)
  assert kept == list(range(0, frames - CLIP + 1, clips.STRIDE))
  assert not any(dropped.values())
  keypoints[70][:, clips.rules.PARTS["left_hand"]] = 0
  keypoints[150:, 0] += 500  # another shot
  kept, dropped = clips.windows(keypoints, samples - audio.num_samples(20))
  assert kept == [0, 5, 75, 80, 85]
  assert dropped["left hand missing"] == 13
  assert dropped["another shot"] + dropped["no sound"] == 28 - 18
  assert sum(dropped.values()) + len(kept) == 28


def test_no_sample_is_lost_between_frames():
  ends = np.array([audio.num_samples(i) for i in range(1000)])
  assert set(np.diff(ends)) == {1066, 1067}
