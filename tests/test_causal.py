"""Causal models: later sound changes nothing, and pieces give what the whole gives."""

import pathlib

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import tiny

from sdt_jax import audio, methods, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.training import runs

RATE = audio.SAMPLE_RATE
SOUND = np.random.default_rng(1).standard_normal(10 * RATE).astype(np.float32) / 10
FIELDS = {"generator.causal": True, "generator.norm": "bn"}
pytestmark = pytest.mark.usefixtures("compile_fast")


def _model(**fields) -> GestureModel:
  """A causal model with random numbers in the place of trained ones."""
  config = tiny.config("data", **FIELDS | fields)
  method = methods.build(config, steps_per_epoch=1)
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    noise = rng.standard_normal(leaf.shape).astype(leaf.dtype)
    if path[-1] == jax.tree_util.DictKey("scale") or "var" in jax.tree_util.keystr(
      path
    ):
      return np.ones(leaf.shape, leaf.dtype)
    return noise * (0.1 if leaf.ndim < 3 else (2 / np.prod(leaf.shape[:-1])) ** 0.5)

  shapes = jax.eval_shape(lambda: runs.init_state(method, 0, 6))
  state = jax.tree_util.tree_map_with_path(fill, shapes)
  if "templates" in state.params:
    state.params["templates"] *= 10
  body = speakers.published("kubinec")
  return GestureModel(
    runs.Run(pathlib.Path(), config, body, method, state, 12, 3), body
  )


@pytest.fixture(scope="module")
def model() -> GestureModel:
  return _model()


def _streamed(model: GestureModel, sound: np.ndarray, sizes=(), template=1):
  stream, start, poses_px = model.stream(template), 0, []
  for size in sizes:
    poses_px.append(stream.feed(sound[start : start + size]))
    start += size
  poses_px += [stream.feed(sound[start:]), stream.finish()]
  return np.concatenate(poses_px)


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"generator.look_ahead": 0},
    {"generator.look_ahead": 3, "generator.norm": "in_star"},
    {"template.kind": "none"},
  ],
  ids=str,
)
def test_streamed_equals_whole(fields):
  model = _model(**fields)
  template = 1 if model.bank is not None else "random"
  for frames in (5, 64, 90):
    sound = SOUND[: audio.num_samples(frames)]
    whole = model.generate(sound, RATE, template, generation="whole")
    found = model.generate(sound, RATE, template)
    assert found.shape == whole.shape == (frames, 2, 121)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-3)  # pixels
    pieces = _streamed(model, sound, [100, 300, 7000], template)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-3)
  assert np.ptp(whole, axis=0).max() > 0.1


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
  length=st.integers(1, 60_000), sizes=st.lists(st.integers(0, 20_000), max_size=20)
)
def test_pieces_of_any_size_give_the_same_frames(model, length, sizes):
  sound = SOUND[:length]
  expected = _streamed(model, sound)
  assert len(expected) == audio.num_frames(length)
  np.testing.assert_allclose(
    _streamed(model, sound, sizes), expected, rtol=1e-5, atol=1e-3
  )


def test_one_sample_at_a_time(model):
  sound = SOUND[:3000]
  found = _streamed(model, sound, [1] * len(sound))
  np.testing.assert_allclose(found, _streamed(model, sound), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("look_ahead", [0, 2])
def test_later_sound_changes_nothing(look_ahead):
  model = _model(**{"generator.look_ahead": look_ahead})
  sound = SOUND[: audio.num_samples(70)]
  heard = audio.num_samples(40) + audio.SIDE
  changed = sound.copy()
  changed[heard:] = 3 * SOUND[-len(changed[heard:]) :]
  difference = [
    np.abs(a - b).max((1, 2))
    for a, b in [
      (model.generate(sound, RATE, 1, generation=g) for sound in (sound, changed))
      for g in ("windowed", "whole")
    ]
  ]
  for by_frame in difference:
    assert by_frame[: 40 - look_ahead].max() < 1e-3
    assert by_frame[40 - look_ahead + 1] > 0.01


@pytest.mark.parametrize("look_ahead", [0, 1])
def test_the_latency_is_what_the_stream_says(look_ahead):
  stream = _model(**{"generator.look_ahead": look_ahead}).stream(1)
  final, late, step = 0, [], 80
  for heard in range(step, 4 * RATE, step):
    final += len(stream.feed(SOUND[heard - step : heard]))
    late.append(heard * audio.FPS / RATE - (final + 1))  # of the next frame
  assert max(late[200:]) == pytest.approx(stream.latency, abs=0.08)  # a step


def test_the_gain_of_the_sound_hardly_matters(model):
  quiet, loud = (model.generate(gain * SOUND, RATE, 1)[30:] for gain in (0.5, 2))
  motion = np.ptp(loud, axis=0).max()
  assert np.abs(loud - quiet).max() < 0.05 * motion


def test_a_template_takes_effect_smoothly_and_only_from_then_on(model):
  half = audio.num_samples(60)
  same, changed = model.stream(1), model.stream(1)
  early = [stream.feed(SOUND[:half]) for stream in (same, changed)]
  np.testing.assert_array_equal(*early)
  changed.set_template(model.bank[2], num_frames=10)
  late = [stream.feed(SOUND[half:]) for stream in (same, changed)]
  difference = np.abs(late[1] - late[0]).max((1, 2))
  assert difference[: 60 - len(early[0])].max() < 1e-3
  assert difference[-1] > 1
  jumps = [np.abs(np.diff(poses_px, axis=0)).max() for poses_px in late]
  assert jumps[1] < 3 * jumps[0]


def test_a_stream_keeps_little(model):
  stream = model.stream(1)
  for start in range(0, 9 * RATE, RATE):
    stream.feed(SOUND[start : start + RATE])
  assert len(stream._sound) < audio.num_samples(2)
  assert len(stream._templates) < 3


def test_it_has_as_many_weights_as_the_generator():
  def count(causal: bool) -> int:
    config = tiny.config(
      "data", **{"generator.causal": causal, "generator.norm": "in_star"}
    )
    method = methods.build(config, steps_per_epoch=1)
    state = jax.eval_shape(lambda: runs.init_state(method, 0, 6))
    leaves = jax.tree.leaves(state.params["generator"])
    return sum(np.prod(leaf.shape) for leaf in leaves if len(leaf.shape) > 1)

  assert count(True) == count(False)


@pytest.mark.parametrize("norm", ["in", "gn4"])
def test_norms_that_look_ahead_are_refused(norm):
  config = tiny.config("data", **FIELDS | {"generator.norm": norm})
  with pytest.raises(UserError, match=r"config.generator.norm is .*give bn or in_star"):
    methods.check(config)


@pytest.mark.parametrize(
  "samples", [np.array([0.1, np.nan]), np.zeros((2, 2)), np.array([1, 2])], ids=str
)
def test_a_stream_refuses_what_is_not_sound(model, samples):
  with pytest.raises(UserError, match="sound of shape"):
    model.stream(1).feed(samples)


@pytest.mark.parametrize(
  "template", [5, np.zeros((64, 4)), np.full(4, np.nan)], ids=str
)
def test_a_stream_refuses_what_is_not_a_template(model, template):
  with pytest.raises(UserError, match="a template of shape"):
    model.stream(1).set_template(template)
  with pytest.raises(UserError, match="over 0 frames"):
    model.stream(1).set_template(model.bank[0], num_frames=0)


def test_a_stream_without_templates_takes_none():
  with pytest.raises(UserError, match="has no templates"):
    _model(**{"template.kind": "none"}).stream().set_template(np.zeros(4))


def test_silence(model):
  silence = np.zeros(2 * RATE, np.float32)
  whole = model.generate(silence, RATE, 1, generation="whole")
  assert np.isfinite(whole).all()
  found = _streamed(model, silence, [1_000] * 20)
  np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-3)
