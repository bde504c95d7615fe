"""From a sound to poses, with a model that was saved and loaded like a trained one."""

import contextlib
import functools

import golden
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import sdt_jax
from sdt_jax import audio, methods, pose, speakers, workdir
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.synthesis.generate import GestureModel, bucket
from sdt_jax.training import runs
from sdt_jax.training.checkpoints import Checkpoints

RATE = audio.SAMPLE_RATE
NUM_CLIPS, SIZE = 6, 4
pytestmark = pytest.mark.usefixtures("compile_fast")


def _state(method):
  """Random numbers in the place of trained ones."""
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    if getattr(path[-1], "key", "") in ("scale", "var"):  # of batch norm
      return np.ones(leaf.shape, leaf.dtype)
    spread = 0.1 if leaf.ndim < 3 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
    return (spread * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  shapes = jax.eval_shape(lambda: runs.init_state(method, 0, NUM_CLIPS))
  state = jax.tree_util.tree_map_with_path(fill, shapes)
  if "templates" in state.params:
    state.params["templates"] *= 10
  return state.replace(step=jnp.int32(12))


def _save(path, **fields) -> None:
  """A workdir, as training leaves it."""
  config = tiny.config("data", **fields)
  clips = [f"clip{i}" for i in range(NUM_CLIPS)]
  workdir.create(path, config, speakers.published("kubinec"), clips)
  saved = Checkpoints(path / workdir.CHECKPOINTS, "lip_sync")
  state = _state(methods.build(config, steps_per_epoch=1))
  saved.save(state, {"epoch": 3, "num_clips": NUM_CLIPS}, {"lip_sync": 1.0})
  saved.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("run") / "workdir"
  _save(path)
  return path


@pytest.fixture(scope="module")
def model(path) -> GestureModel:
  return sdt_jax.load(path)


@pytest.fixture(scope="module")
def without_templates(path) -> GestureModel:
  run = runs.load(path)
  config = tiny.config("data", **{"template.kind": "none"})
  method = methods.build(config, steps_per_epoch=1)
  lacking = runs.Run(path, config, run.speaker, method, _state(method), 12, 3)
  return GestureModel(lacking, run.speaker)


def _sound(frames: int, extra: int = 1) -> np.ndarray:
  """Noise as long as that many frames, plus `extra` samples."""
  samples = audio.num_samples(frames) + extra
  return 0.1 * np.random.default_rng(1).standard_normal(samples).astype(np.float32)


@functools.cache
def _whole_clip() -> np.ndarray:
  return _sound(64)


def test_the_loaded_model_is_the_saved_one(path, model):
  assert model.step == sdt_jax.load(str(path), step="best").step == 12
  state = _state(methods.build(tiny.config("data"), steps_per_epoch=1))
  np.testing.assert_array_equal(model.bank, state.params["templates"])


@pytest.mark.parametrize(
  ("frames", "samples"), [(1, 534), (10, 10_667), (200, 213_333)]
)
def test_every_length_gives_its_frames(model, frames, samples):
  poses_px = model.generate(_sound(200)[:samples], RATE, template=3)
  assert poses_px.shape == (frames, *kp.UPPER_BODY.shape)
  assert poses_px.dtype == np.float32
  assert np.isfinite(poses_px).all()


@pytest.mark.parametrize("frames", [64, 71])
def test_poses_are_those_of_the_network(path, model, frames):
  run = runs.load(path)
  sound = _sound(frames)
  mel = audio.mel_spectrogram(jnp.asarray(audio.fit_to_frames(sound, frames)[None]))
  poses_norm = run.method.generator.apply(
    jax.device_get(run.state.network("generator")), mel, model.bank[3:4], frames
  )
  table = speakers.published("kubinec").hierarchical
  expected = pose.to_final(np.asarray(poses_norm[0]), table)
  ours = model.generate(sound, RATE, template=3, generation="whole")
  assert golden.relative_error(ours, expected) < 1e-4


def test_there_are_four_buckets_in_an_octave():
  lengths = [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
  assert sorted({bucket(frames) for frames in range(1, 513)}) == lengths


@hypothesis.given(st.integers(64, 10**6))
def test_buckets_are_a_quarter_longer_at_most(frames):
  assert frames <= bucket(frames) < 1.25 * frames
  assert bucket(bucket(frames)) == bucket(frames)


def test_lengths_of_one_bucket_share_a_program(model):
  with _compilations() as first:
    model.generate(_sound(97), RATE, template=3, generation="whole")
  with _compilations() as later:
    model.generate(_sound(98), RATE, template=4, generation="whole")
    model.generate(_sound(112), RATE, template=4, generation="whole")
  assert first
  assert not later


@contextlib.contextmanager
def _compilations():
  """Yields a list that collects the duration of each compilation in the context."""
  times = []

  def listen(event, duration_secs, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
      times.append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield times
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("generation", ["windowed", "whole"])
def test_a_batch_on_many_devices_equals_one_by_one(model, generation):
  assert model.at_once == 8
  sounds = [np.roll(_sound(frames), frames) for frames in (70, 5, 64, 80, 66) * 2]
  codes = [model.bank[i % NUM_CLIPS] for i in range(len(sounds))]
  together = model.generate_many(sounds, codes, generation=generation)
  for sound, code, poses_px in zip(sounds, codes, together, strict=True):
    alone = model.generate(sound, RATE, code, generation=generation)
    assert golden.relative_error(poses_px, alone) < 1e-4


def test_a_short_sound_is_followed_by_silence(model):
  generate = functools.partial(model.generate, template=3, generation="whole")
  short = generate(_sound(10), RATE)
  silence = np.zeros(audio.num_samples(54), np.float32)
  whole = generate(np.concatenate([_sound(10), silence]), RATE)
  assert len(whole) >= 63
  np.testing.assert_array_equal(short, whole[:10])


@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(
  frames=st.integers(1, 150), sizes=st.lists(st.integers(1, 40_000), max_size=8)
)
def test_a_stream_gives_the_same_for_pieces_of_any_size(model, frames, sizes):
  sound = _sound(frames)
  whole, pieces = model.stream(3), model.stream(3)
  expected = np.concatenate([whole.feed(sound), whole.finish()])
  cuts = np.cumsum(sizes)
  parts = [pieces.feed(part) for part in np.split(sound, cuts[cuts < len(sound)])]
  ours = np.concatenate([*parts, pieces.finish()])
  assert ours.shape == (audio.num_frames(len(sound)), *kp.UPPER_BODY.shape)
  assert golden.relative_error(ours, expected) < 1e-5


def test_a_loud_end_does_not_change_the_beginning(model):
  quiet, loud = _sound(200), _sound(200)
  loud[audio.num_samples(150) :] *= 3
  for generation, changes in (("windowed", False), ("whole", True)):
    ours, other = (
      model.generate(sound, RATE, template=3, generation=generation)[:80]
      for sound in (quiet, loud)
    )
    assert (np.abs(ours - other).max() > 1e-2) == changes


def test_a_clip_is_generated_as_in_training(model):
  """A sound as long as a clip is one window."""
  ours, whole = (
    model.generate(_whole_clip(), RATE, template=3, generation=generation)
    for generation in ("windowed", "whole")
  )
  assert golden.relative_error(ours, whole) < 1e-4


@pytest.mark.parametrize(("look_ahead", "hop"), [(-1, 2), (2, 0), (60, 20)])
def test_a_stream_that_is_not_possible(model, look_ahead, hop):
  with pytest.raises(UserError, match=f"look_ahead={look_ahead}, hop={hop}: expected"):
    model.stream(3, look_ahead=look_ahead, hop=hop)


def test_samples_after_the_last_frame_do_not_matter(model):
  sound = _sound(64, extra=500)
  ours, shorter = (model.generate(s, RATE, template=3) for s in (sound, sound[:-499]))
  np.testing.assert_array_equal(ours, shorter)


def test_sound_and_template_matter(model):
  ours = model.generate(_whole_clip(), RATE, template=3)
  other_sound = model.generate(np.roll(_whole_clip(), 20_000), RATE, template=3)
  other_template = model.generate(_whole_clip(), RATE, template=4)
  assert np.abs(ours - other_sound).max() > 1e-2
  assert np.abs(ours - other_template).max() > 1


def test_all_ways_to_name_a_template_give_the_same(model, tmp_path):
  expected = model.generate(_whole_clip(), RATE, template=3)
  code, file = model.bank[3], tmp_path / "code.npz"
  np.savez(file, template=code)
  for template in ("3", np.int64(3), "3:3", code, code.astype(float), str(file)):
    ours = model.generate(_whole_clip(), RATE, template=template)
    np.testing.assert_array_equal(ours, expected)


def test_random_is_decided_by_the_seed(model):
  first, again, other = (
    model.generate(_whole_clip(), RATE, seed=seed) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1
  rows = [model.generate(_whole_clip(), RATE, template=i) for i in range(NUM_CLIPS)]
  assert any(np.array_equal(first, row) for row in rows)


@pytest.mark.parametrize("length", [1, 5, 64, 300])
def test_a_template_by_frame_that_does_not_change_is_one_by_clip(model, length):
  by_frame = np.repeat(model.bank[3:4], length, axis=0)
  ours = model.generate(_whole_clip(), RATE, template=by_frame)
  expected = model.generate(_whole_clip(), RATE, template=3)
  assert golden.relative_error(ours, expected) < 1e-5


def test_a_template_by_frame_is_stretched_over_the_sound(model):
  ends = np.stack([model.bank[3], model.bank[4]])
  straight = np.linspace(ends[0], ends[1], 64)
  ours = model.generate(_whole_clip(), RATE, template=ends)
  expected = model.generate(_whole_clip(), RATE, template=straight)
  assert golden.relative_error(ours, expected) < 1e-4


def test_a_model_without_templates(without_templates):
  poses_px = without_templates.generate(_sound(10), RATE)
  other_seed = without_templates.generate(_sound(10), RATE, seed=1)
  np.testing.assert_array_equal(poses_px, other_seed)
  for template in (3, np.zeros(SIZE)):
    with pytest.raises(UserError, match="no templates"):
      without_templates.generate(_sound(10), RATE, template=template)


def test_another_speakers_body(path, model):
  other = sdt_jax.load(path, speaker="oliver")
  ours = other.generate(_whole_clip(), RATE, template=3)
  own = speakers.published("kubinec").hierarchical
  poses_px = model.generate(_whole_clip(), RATE, template=3) / own.scale_factor
  poses_norm = pose.normalize(pose.to_hierarchical(poses_px), own)
  table = speakers.published("oliver").hierarchical
  expected = pose.to_final(poses_norm, table)
  assert golden.relative_error(ours, expected) < 1e-4


def test_any_rate_and_type_of_sound(model):
  time = np.arange(0, 4.3, 1 / 48_000)
  tone = 0.3 * np.sin(2 * np.pi * 300 * time) * np.sin(2 * np.pi * 2 * time)
  expected = model.generate(tone[::3].astype(np.float32), RATE, template=3)
  from_48k = model.generate(tone, 48_000, template=3)
  assert golden.relative_error(from_48k, expected) < 1e-2
  integers = np.round(tone[::3] * 32_768).astype(np.int16)
  assert golden.relative_error(model.generate(integers, RATE, 3), expected) < 1e-2


@pytest.mark.parametrize(
  ("sound", "rate", "complaint"),
  [
    (np.zeros(533, np.float32), RATE, "shorter than half a frame"),
    (np.zeros(0, np.float32), RATE, "no samples"),
    (np.zeros((2, 16_000), np.float32), RATE, "expected \\(samples,\\)"),
    (np.full(16_000, np.nan, np.float32), RATE, "NaN"),
    (np.zeros(16_000, np.float32), 0, "sample rate"),
  ],
)
def test_sounds_that_cannot_be_used(model, sound, rate, complaint):
  with pytest.raises(UserError, match=complaint):
    model.generate(sound, rate, template=3)


@pytest.mark.parametrize(
  ("template", "complaint"),
  [
    (NUM_CLIPS, "outside the bank of 6"),
    (-1, "outside the bank"),
    ("best", "expected random"),
    (None, "expected random"),
    (np.zeros(SIZE + 1), r"shape \(5,\)"),
    (np.zeros((64, SIZE + 1)), r"shape \(64, 5\)"),
    (np.zeros((2, 64, SIZE)), r"shape \(2, 64, 4\)"),
    (np.zeros((0, SIZE)), r"shape \(0, 4\)"),
    (np.zeros(()), r"shape \(\)"),
    (np.full(SIZE, np.nan), "NaN"),
  ],
)
def test_templates_that_cannot_be_used(model, template, complaint):
  with pytest.raises(UserError, match=complaint):
    model.generate(_whole_clip(), RATE, template=template)


def test_what_cannot_be_loaded(path, tmp_path):  # test_bad_inputs.py has more
  with pytest.raises(UserError, match="no such folder"):
    sdt_jax.load(tmp_path / "none")
  with pytest.raises(UserError, match=r"config\.json: missing"):
    sdt_jax.load(tmp_path)
  with pytest.raises(UserError, match=r"--step=7: no such checkpoint.*12"):
    sdt_jax.load(path, step=7)
  with pytest.raises(UserError, match="'nobody' has no published statistics"):
    sdt_jax.load(path, speaker="nobody")
