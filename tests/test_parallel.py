"""A step over eight devices equals the step over the full batch on one device.

The tests compare raw gradients, since an optimiser like Adam would hide gradients that
are too large by a factor of the number of devices. They run in double precision: norms
over the few channels of these networks amplify single-precision rounding errors.
"""

import functools
from typing import NamedTuple

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdt_jax.errors import UserError
from sdt_jax.methods import base, losses, train_state
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.sequence import SequenceModel
from sdt_jax.methods.voice2pose import Voice2Pose
from sdt_jax.models.code_mapper import CodeDiscriminator, CodeMapper
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.models.pose_vae import PoseEncoder, PoseVAE
from sdt_jax.training import parallel

DEVICES, BATCH, BANK, SIZE = 8, 16, 20, 4
EXPERIMENTS = ["s2g", "sdt_bp", "pose2pose", "sdt_vae_sequence"]
MODES = ["jit", "pmap"]
KL_WEIGHT = 0.1
RNG = np.random.default_rng(0)
TOLERANCE = 1e-9  # of numbers, relative to the largest of their tree


@pytest.fixture(scope="module", autouse=True)
def _double_precision(compile_fast):
  with jax.enable_x64(True):
    yield


# SGD of rate 1 whose state is the raw gradient.
_SGD = optax.chain(optax.trace(0.0), optax.scale(-1.0))


def _model(experiment: str, kl_weight=KL_WEIGHT):
  entries = "generator", "templates", "discriminator", "vae"
  entries += "code_mapper", "code_discriminator"
  optimizers = dict.fromkeys(entries, _SGD)
  if experiment == "pose2pose":
    vae = PoseVAE(channels=8, size=SIZE, axis_name=AXIS)
    return Pose2Pose(vae=vae, kl_weight=kl_weight, optimizers=optimizers)
  gan = experiment == "s2g"
  return Voice2Pose(
    generator=Generator(8, (4, 4, 8, 8), "bn" if gan else "in_star", axis_name=AXIS),
    discriminator=MotionDiscriminator(8, axis_name=AXIS) if gan else None,
    template={"s2g": "none", "sdt_bp": "bp"}.get(experiment, "vae"),
    sequence=_sequence() if experiment == "sdt_vae_sequence" else None,
    clip_template_shape=(SIZE,),
    kl_weight=kl_weight,
    gan_weight=0.1,
    optimizers=optimizers,
  )


def _sequence() -> SequenceModel:
  return SequenceModel(
    mapper=CodeMapper(SIZE, SIZE, axis_name=AXIS),
    discriminator=CodeDiscriminator(8, axis_name=AXIS),
    encoder=PoseEncoder(8, SIZE),
  )


def _state(experiment: str) -> train_state.TrainState:
  """A random state in NumPy (in a real initial state, templates have no variance)."""
  init = functools.partial(_model(experiment).init, num_clips=BANK)

  def fill(path, leaf):
    if not leaf.shape:
      return np.zeros((), leaf.dtype)
    if leaf.ndim > 2:  # a kernel
      spread, centre = (2 / np.prod(leaf.shape[:-1])) ** 0.5, 0
    else:
      ones = {jax.tree_util.DictKey(name) for name in ("scale", "var")}
      spread, centre = 0.1, 1 if path[-1] in ones else 0
    return centre + spread * RNG.standard_normal(leaf.shape)

  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(fill, shapes)


def _batch() -> dict[str, np.ndarray]:
  # The clips differ in loudness and poses, so that no device's share is like another's.
  # Half a second of audio is enough: its features are stretched over the frames.
  scale = np.linspace(0.3, 2, BATCH)
  return {
    "audio": 0.1 * scale[:, None] * RNG.standard_normal((BATCH, 8000)),
    "poses": scale[:, None, None, None]
    * RNG.standard_normal((BATCH, *base.CLIP_SHAPE)),
    "index": RNG.permutation(BANK)[:BATCH].astype(np.int32),
    "noise": scale[:, None, None] * RNG.standard_normal((BATCH, 64, SIZE)),
  }


def _step(experiment: str, kl_weight=KL_WEIGHT):
  """Per-device step; the noise comes with the batch."""
  model = _model(experiment, kl_weight)

  def step(state, batch):
    batch = dict(batch)
    noise = batch.pop("noise")
    if experiment == "pose2pose":
      noise = noise[:, 0]
    return model.update(state, batch, noise)[:2]

  return step


def _run(step, mode, state, batches, length: int | None = None):
  """State and metrics (K,) after the batches, in a block that has room for `length`."""
  steps = parallel.map_steps(lambda state, data, x: step(state, x), mode)
  padded = batches + [batches[-1]] * ((length or len(batches)) - len(batches))
  xs = {name: np.stack([b[name] for b in padded]) for name in batches[0]}
  xs = parallel.split(xs, axis=1)
  return steps(parallel.replicate(state), (), xs, len(batches))


class Case(NamedTuple):
  """A step with the full batch on one device; the results are NumPy arrays."""

  experiment: str
  state: train_state.TrainState
  batch: dict[str, np.ndarray]
  end: train_state.TrainState
  metrics: dict[str, np.ndarray]
  end_without_kl: train_state.TrainState


@pytest.fixture(scope="module", params=EXPERIMENTS)
def case(request) -> Case:
  experiment, state, batch = request.param, _state(request.param), _batch()

  def step(state, batch, kl_weight):
    return _step(experiment, kl_weight)(state, batch)

  # The axis has one entry, which is the whole batch.
  step = jax.jit(jax.vmap(step, in_axes=(None, 0, None), axis_name=AXIS))
  whole = {name: array[None] for name, array in batch.items()}
  results = [step(state, whole, kl_weight) for kl_weight in (KL_WEIGHT, 0.0)]
  (end, metrics), (end_without_kl, _) = jax.tree.map(
    lambda x: np.asarray(x[0]), results
  )
  return Case(experiment, state, batch, end, metrics, end_without_kl)


def _assert_same_on_every_device(tree) -> None:
  for leaf in jax.tree.leaves(tree):
    first, *others = (shard.data for shard in leaf.addressable_shards)
    for other in others:
      np.testing.assert_array_equal(other, first)


def _assert_close(ours, theirs) -> None:
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  flat = (
    np.concatenate([*map(np.ravel, jax.tree.leaves(tree))]) for tree in (ours, theirs)
  )
  assert golden.relative_error(*flat) < TOLERANCE


@pytest.mark.parametrize("mode", MODES)
def test_eight_devices_equal_one(case, mode):
  assert jax.device_count() == DEVICES
  end, metrics = _run(_step(case.experiment), mode, case.state, [case.batch])

  _assert_same_on_every_device((end, metrics))
  metrics = {name: values[0] for name, values in metrics.items()}
  assert int(end.step) == 1
  assert metrics.keys() == case.metrics.keys()
  for name, value in case.metrics.items():
    assert float(metrics[name]) == pytest.approx(float(value), rel=TOLERANCE), name
  for name, gradients in case.end.opt_states.items():
    _assert_close(end.opt_states[name], gradients)
    _assert_close(end.params[name], case.end.params[name])
  for name, stats in case.end.batch_stats.items():
    if stats:
      _assert_close(end.batch_stats[name], stats)
  for name, rows in case.end.bank.items():
    _assert_close(end.bank[name], rows)


@pytest.mark.parametrize("mode", MODES)
def test_a_block_of_steps_equals_step_by_step(mode):
  step, batches = _step("sdt_bp"), [_batch() for _ in range(3)]
  state = one_by_one = _state("sdt_bp")
  losses_one_by_one = []
  for batch in batches:
    one_by_one, metrics = _run(step, mode, one_by_one, [batch])
    losses_one_by_one.append(jax.device_get(metrics["loss"][0]))
  at_once, metrics = _run(step, mode, state, batches, length=4)
  assert int(at_once.step) == 3
  np.testing.assert_allclose(metrics["loss"][:3], losses_one_by_one, rtol=TOLERANCE)
  _assert_close(at_once.params, one_by_one.params)


def test_every_term_contributes(case):
  """Terms that are zero would make the comparison above empty."""
  terms = {"s2g": {"gan", "d_gan"}, "sdt_bp": {"kl"}, "pose2pose": {"kl"}}
  terms["sdt_vae_sequence"] = {"code_smoothness", "code_kl", "code_gan", "code_d_gan"}
  assert terms[case.experiment] <= case.metrics.keys()
  assert all(abs(value) > 1e-4 for value in case.metrics.values()), case.metrics
  for gradients in case.end.opt_states.values():
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_only_the_rows_of_the_batch_are_touched(case):
  if case.experiment in ("s2g", "sdt_vae_sequence"):
    pytest.skip("has no rows that change")
  before, after = case.state.templates(), case.end.templates()
  changed = np.flatnonzero(np.any(before != after, axis=1))
  assert set(changed) == set(case.batch["index"])


def test_the_kl_term_moves_the_templates_of_the_batch(case):
  if case.experiment != "sdt_bp":
    pytest.skip("has no learnt templates")
  index = case.batch["index"]
  kl_gradient = jax.grad(losses.template_kl)(jnp.asarray(case.state.templates()[index]))
  ends = (case.end, case.end_without_kl)
  with_kl, without = (end.opt_states["templates"][0].trace[index] for end in ends)
  _assert_close(with_kl - without, KL_WEIGHT * kl_gradient)


def _noise(step, batch):
  """Per-device: what a method draws with the key of a step."""
  return jax.random.normal(base.step_key(0, step), (len(batch["index"]), SIZE))


_INDEX = {"index": np.arange(BATCH, dtype=np.int32)}


@pytest.mark.parametrize("mode", MODES)
def test_every_device_and_step_has_its_own_key(mode):
  def noise_of(step: int, mode=mode) -> np.ndarray:
    step = parallel.replicate(np.int32(step))
    return parallel.fetch(
      parallel.map_clips(_noise, mode)(step, parallel.split(_INDEX))
    )

  noise = noise_of(0)
  assert noise.shape == (BATCH, SIZE)
  assert len(np.unique(noise)) == noise.size
  np.testing.assert_array_equal(noise_of(0, MODES[0]), noise)
  assert not np.intersect1d(noise_of(1), noise).size


@pytest.mark.parametrize("mode", MODES)
def test_map_clips_keeps_the_order(mode):
  def function(state, batch):
    device = jnp.full(batch["x"].shape[0], jax.lax.axis_index(AXIS))
    return {"y": state["offset"] + batch["x"], "device": device}

  state = parallel.replicate({"offset": np.float32(100)})
  batch = {"x": np.arange(3 * BATCH, dtype=np.float32).reshape(BATCH, 3)}
  outputs = parallel.map_clips(function, mode)(state, parallel.split(batch))
  outputs = parallel.fetch(outputs)
  assert type(outputs["y"]) is np.ndarray
  np.testing.assert_array_equal(outputs["y"], batch["x"] + 100)
  expected = np.repeat(np.arange(DEVICES), BATCH // DEVICES)
  np.testing.assert_array_equal(outputs["device"], expected)
  # Unlike a training step it leaves the state for the next batch.
  assert float(state["offset"]) == 100


def test_replicate_and_split_use_every_device():
  state = parallel.replicate({"x": np.arange(3.0)})
  assert len(state["x"].sharding.device_set) == DEVICES
  assert state["x"].is_fully_replicated
  shards = parallel.split({"x": np.arange(BATCH)})["x"].addressable_shards
  assert {shard.data.shape for shard in shards} == {(BATCH // DEVICES,)}
  assert {shard.device for shard in shards} == set(jax.devices())


def test_a_batch_that_cannot_be_shared_is_refused():
  parallel.check_batch_size(BATCH)
  with pytest.raises(UserError, match="batch_size 12 is not divisible by the 8 dev"):
    parallel.check_batch_size(12)
