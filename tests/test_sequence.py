"""The sequence model: how it is trained, and the templates that it draws."""

import functools

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import methods
from sdt_jax.methods import base
from sdt_jax.methods.base import AXIS
from sdt_jax.models.code_mapper import NUM_BLOCKS
from sdt_jax.templates.director import BLOCK
from sdt_jax.templates.sequence import SequenceDirector
from sdt_jax.training import runs

pytestmark = pytest.mark.usefixtures("compile_fast")
FIELDS = {"template.kind": "vae", "sequence.train": True}
RNG = np.random.default_rng(0)
BATCH = {
  "audio": 0.1 * RNG.standard_normal((4, 8000)).astype(np.float32),
  "poses": RNG.standard_normal((4, *base.CLIP_SHAPE)).astype(np.float32),
  "index": np.arange(4, dtype=np.int32),
}


@pytest.fixture(scope="module")
def model():
  """A small method, and a state in which all numbers differ."""
  method = methods.build(tiny.config("data", **FIELDS), 10)
  state = runs.init_state(method, 0, num_clips=4)
  draw = lambda x: RNG.uniform(0.05, 0.3, x.shape).astype(np.float32)  # noqa: E731
  stats = jax.tree.map(draw, state.batch_stats)
  bank = {"mean": RNG.standard_normal((4, 4)).astype(np.float32)}
  return method, state.replace(batch_stats=stats, bank=bank)


def test_only_the_encoder_is_not_trained(model):
  method, state = model
  networks = {"generator", "code_mapper", "code_discriminator", "pose_encoder"}
  assert set(state.params) == set(state.batch_stats) == networks
  assert set(state.opt_states) == networks - {"pose_encoder"}
  assert set(state.batch_stats) <= set(method.networks)


def test_a_step_draws_noise_that_does_not_reach_the_gesture_model(model):
  method, state = model

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0, None), axis_name=AXIS)
  def step(state, batch, seed):
    return method.train_step(state, batch, jax.random.key(seed))[:2]

  batch = {name: array[None] for name, array in BATCH.items()}
  (a, of_a), (same, _), (b, of_b) = (
    jax.tree.map(lambda x: np.asarray(x[0]), step(state, batch, seed))
    for seed in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, a, same)
  jax.tree.map(
    np.testing.assert_array_equal, a.params["generator"], b.params["generator"]
  )
  assert of_a["l1"] == of_b["l1"]
  assert of_a["code_gan"] != of_b["code_gan"]
  for name in ("code_mapper", "code_discriminator"):
    moved = jax.tree.map(lambda x, y: np.any(x != y), a.params[name], b.params[name])
    assert any(jax.tree.leaves(moved)), name
  for before, after in ((state.params, a.params), (state.batch_stats, a.batch_stats)):
    jax.tree.map(
      np.testing.assert_array_equal, before["pose_encoder"], after["pose_encoder"]
    )
  terms = ("l1", "code_smoothness", "code_kl", "code_gan")
  total = sum(of_a[name] for name in terms) + 0.1 * of_a["kl"]
  assert of_a["loss"] == pytest.approx(total, rel=1e-5)


def test_blocks_equal_one_evaluation_over_the_whole_length(model):
  method, state = model
  lengths = []

  @jax.jit
  def draw(noise):
    return method.draw_templates(state, noise[None])[0]

  def decode(noise):
    lengths.append(len(noise))
    return draw(noise)

  director = SequenceDirector(decode, method.noise_size, seed=5)
  rows = np.concatenate([director.next(None, None) for _ in range(3)])
  noise = np.concatenate([director.noise(block) for block in range(-1, 4)])
  whole = np.asarray(draw(noise))[BLOCK:-BLOCK]
  assert rows.shape == whole.shape == (3 * BLOCK, 4)
  spread = whole.std(axis=0).min()
  np.testing.assert_allclose(rows, whole, rtol=0, atol=1e-4 * spread)
  assert set(lengths) == {BLOCK + 2 * NUM_BLOCKS}
  assert spread > 0.1
  other = SequenceDirector(decode, method.noise_size, seed=6).next(None, None)
  assert np.abs(other - rows[:BLOCK]).max() > spread


def test_a_method_without_a_sequence_model_draws_no_templates(model):
  _, state = model
  method = methods.build(tiny.config("data"), 10)
  assert method.noise_size is None
  with pytest.raises(NotImplementedError, match="gesture model draws no templates"):
    method.draw_templates(state, jax.numpy.zeros((1, 64, 8)))
