"""Reference motions: no clip gets its own motion; nearest sounds match."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdt_jax import keypoints as kp
from sdt_jax import pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.evaluation import references
from sdt_jax.evaluation.references import Places

SHAPE = kp.UPPER_BODY.shape


def overlap(places, i, j):
  return (
    places.videos[i] == places.videos[j]
    and places.starts[i] < places.ends[j]
    and places.starts[j] < places.ends[i]
  )


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_no_clip_gets_itself_and_every_clip_is_used_once(num_clips, seed):
  others = references.other_clips(num_clips, seed)
  np.testing.assert_array_equal(np.sort(others), np.arange(num_clips))
  assert (others != np.arange(num_clips)).all()
  np.testing.assert_array_equal(others, references.other_clips(num_clips, seed))


@given(
  st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.sampled_from([64, 90])),
    min_size=1,
    max_size=60,
  ),
  st.integers(0, 1000),
)
def test_no_clip_gets_one_that_it_overlaps(clips, seed):
  starts = np.array([s for _, s, _ in clips])
  ends = starts + [length for _, _, length in clips]
  places = Places([v for v, _, _ in clips], starts, ends)
  try:
    others = references.other_clips(len(clips), seed, places)
  except UserError:
    return  # too few clips that do not overlap; see the next test
  np.testing.assert_array_equal(np.sort(others), np.arange(len(clips)))
  assert not any(overlap(places, i, j) for i, j in enumerate(others))


def windows(num_clips, video="v"):
  starts = 5 * np.arange(num_clips)
  return Places([video] * num_clips, starts, starts + 64)


def test_windows_of_one_video_are_refused_only_where_the_middle_has_no_partner():
  # A window overlaps 12 on either side, so of 25 the middle one overlaps all.
  with pytest.raises(UserError, match=r"25 clips are too few .* reach 12 clips"):
    references.other_clips(25, 0, windows(25))
  with pytest.raises(UserError, match="1 clips are too few"):
    references.other_clips(1, 0)
  others = references.other_clips(26, 0, windows(26))
  assert (np.abs(others - np.arange(26)) >= 13).all()


def test_seeds_differ_and_the_truth_is_only_reordered():
  truth = np.random.default_rng(0).normal(size=(40, 3, *SHAPE))
  shuffled = references.truth_of_another(truth, 0, windows(40))
  assert not (shuffled == truth).all((1, 2, 3)).any()
  order = np.argsort(shuffled[:, 0, 0, 0])
  np.testing.assert_array_equal(shuffled[order], truth[np.argsort(truth[:, 0, 0, 0])])
  results = [tuple(references.other_clips(40, s)) for s in range(5)]
  assert len(set(results)) == 5


@pytest.mark.parametrize("hierarchical", [True, False])
def test_mean_pose_held_is_the_mean_of_final_poses_and_still(hierarchical):
  rng = np.random.default_rng(0)
  frames = rng.normal(0, 50, (200, *SHAPE)).astype(np.float32)
  speaker = speakers.from_poses("a", frames, np.ones((200, SHAPE[1]), bool))
  table = speaker.table(hierarchical)
  held = references.mean_pose_held(table, 4, 6)
  assert held.shape == (4, 6, *SHAPE)
  assert (held == held[:1, :1]).all()
  expected = pose.to_final(pose.from_global(frames, table), table).mean(0)
  np.testing.assert_allclose(held[0, 0], expected, atol=1e-2)


def tones(frequencies, seed):
  """One clip per frequency: bursts of a tone in noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(68266) / 16_000
  bursts = np.sin(2 * np.pi * np.asarray(frequencies)[:, None] * t) * (t % 1 < 0.5)
  return (0.3 * bursts + 0.01 * rng.normal(size=bursts.shape)).astype(np.float32)


def test_each_sound_finds_the_nearest_one():
  heard = [200, 400, 800, 1600, 3200]
  wanted = [3, 0, 4, 2, 1, 1]
  found = references.nearest_features(
    references.sound_features(tones([heard[i] for i in wanted], seed=1)),
    references.sound_features(tones(heard, seed=0)),
  )
  np.testing.assert_array_equal(found, wanted)


def test_features_are_those_of_each_clip_whatever_the_chunk(monkeypatch):
  audio = tones([200, 400, 800], seed=0)
  once = references.sound_features(audio)
  assert once.shape == (3, 1280)
  monkeypatch.setattr(references, "_AUDIO_CHUNK", 2)
  np.testing.assert_allclose(references.sound_features(audio), once, atol=1e-4)


def test_nearest_equals_a_naive_loop_on_standardised_features(monkeypatch):
  monkeypatch.setattr(references, "_CLIP_CHUNK", 4)
  rng = np.random.default_rng(0)
  scale = np.array([1, 100, 0.01, 1])
  train, features = rng.normal(size=(30, 4)) * scale, rng.normal(size=(9, 4)) * scale
  train[:, 3] = features[:, 3] = 7  # a feature that never changes
  a, b = (np.delete((x - train.mean(0)) / scale, 3, 1) for x in (features, train))
  b_std = b.std(0)
  expected = [np.argmin([np.sum(((f - t) / b_std) ** 2) for t in b]) for f in a]
  found = references.nearest_features(features, train)
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(references.nearest_features(train, train), range(30))
