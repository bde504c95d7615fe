"""Windows and streams: pieces of any size give the motion of the whole sound."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.synthesis import windows
from sdt_jax.synthesis.windows import FRAMES, Schedule
from sdt_jax.synthesis.windows import WindowedStream as Stream

SHAPE = kp.UPPER_BODY.shape
SCHEDULES = (windows.WHOLE_SOUND, windows.live(), Schedule(8, 4, 4), Schedule(1, 0, 0))
SOUND = np.random.default_rng(0).uniform(-1, 1, audio.num_samples(400))


def _loudness(sounds: np.ndarray, templates: np.ndarray | None) -> np.ndarray:
  """Poses that depend on the sound (and the template) of their own frame alone."""
  starts = [audio.num_samples(i) for i in range(FRAMES)]
  values = np.stack([sounds[:, s : s + 1000].mean(1) for s in starts], axis=1)
  if templates is not None:
    values = values + templates[..., 0]
  return np.tile(values[..., None, None], (1, 1, *SHAPE)).astype(np.float32)


def _in_pieces(stream: Stream, sound: np.ndarray, sizes) -> np.ndarray:
  parts, start = [], 0
  for size in sizes:
    parts.append(stream.feed(sound[start : start + size]))
    start += size
  parts.append(stream.feed(sound[start:]))
  return np.concatenate([*parts, stream.finish()])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("frames", [0, 1, 3, 63, 64, 65, 104, 105, 250])
def test_every_frame_comes_once_and_in_its_place(schedule, frames):
  sound = SOUND[: audio.num_samples(frames)].astype(np.float32)
  joined = _in_pieces(Stream(_loudness, schedule), sound, [])
  assert joined.shape == (frames, *SHAPE)
  # Frame starts are rounded differently in each window, so means differ a little.
  expected = [sound[s : s + 1000].mean() for s in map(audio.num_samples, range(frames))]
  np.testing.assert_allclose(joined[:, 0, 0], expected, atol=5e-3)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  schedule=st.sampled_from(SCHEDULES),
  length=st.integers(1, audio.num_samples(200)),
  sizes=st.lists(st.integers(0, 30_000), max_size=30),
)
def test_pieces_of_any_size_give_the_same_frames(schedule, length, sizes):
  sound = SOUND[:length].astype(np.float32)
  whole = _in_pieces(Stream(_loudness, schedule), sound, [])
  stream = Stream(_loudness, schedule, at_once=3)
  np.testing.assert_array_equal(whole, _in_pieces(stream, sound, sizes))


def test_one_sample_at_a_time():
  sound = SOUND[:9_000].astype(np.float32)
  whole = _in_pieces(Stream(_loudness, windows.live()), sound, [])
  pieces = _in_pieces(Stream(_loudness, windows.live()), sound, [1] * len(sound))
  np.testing.assert_array_equal(whole, pieces)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_latency_is_what_the_schedule_says(schedule):
  stream, heard, final, late = Stream(_loudness, schedule), 0, 0, []
  for piece in np.array_split(SOUND[: audio.num_samples(300)], 900):
    heard += len(piece)
    final += len(stream.feed(piece))
    if heard > audio.num_samples(schedule.first):
      late.append(heard * audio.FPS / audio.SAMPLE_RATE - final)
  assert max(late) < schedule.latency + 2


def test_windows_are_crossfaded():
  numbers = iter(range(100))

  def numbered(sounds, templates):
    return np.stack(
      [np.full((FRAMES, *SHAPE), next(numbers), np.float32) for _ in sounds]
    )

  schedule = Schedule(hop=20, look_ahead=4, fade=4)
  joined = _in_pieces(Stream(numbered, schedule), SOUND[: audio.num_samples(100)], [])
  ramp = [0.2, 0.4, 0.6, 0.8]
  expected = [0] * 56 + ramp + [1] * 16 + [1 + x for x in ramp]
  np.testing.assert_allclose(joined[:80, 0, 0], expected, atol=1e-6)


def test_memory_does_not_grow_with_the_sound():
  stream = Stream(_loudness, windows.live())
  for _ in range(40):
    stream.feed(SOUND[:16_000])
  assert len(stream._sound) < audio.num_samples(2 * FRAMES)


def test_a_template_takes_effect_smoothly_and_only_from_then_on():
  before, after = np.zeros(3, np.float32), np.ones(3, np.float32)
  first, changed = (Stream(_loudness, windows.live(), before) for _ in range(2))
  sound = SOUND[: audio.num_samples(120)]
  half = audio.num_samples(60)
  early = [stream.feed(sound[:half]) for stream in (first, changed)]
  np.testing.assert_array_equal(*early)
  changed.set_template(after, num_frames=10)
  late = [
    np.concatenate([stream.feed(sound[half:]), stream.finish()])
    for stream in (first, changed)
  ]
  difference = (late[1] - late[0])[:, 0, 0]
  final = 60 - len(early[0])
  assert np.abs(difference[:final]).max() < 1e-6
  assert (np.diff(difference[final : final + 10]) > 0).all()
  np.testing.assert_allclose(difference[final + 12 :], 1, atol=1e-6)


def test_silence():
  joined = _in_pieces(Stream(_loudness, windows.live()), np.zeros(32_000), [1_000] * 20)
  np.testing.assert_array_equal(joined, np.zeros((30, *SHAPE)))
