"""From a config to a method: what is refused, and what is built."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import config as config_lib
from sdt_jax import keypoints as kp
from sdt_jax import methods
from sdt_jax.errors import UserError
from sdt_jax.methods import base
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.voice2pose import Voice2Pose
from sdt_jax.training import runs

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def _config(**fields):
  return tiny.config("data", **fields)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda f: f.stem)
def test_every_config_file_describes_an_experiment(file):
  config = importlib.import_module(f"configs.{file.stem}").get_config()
  methods.check(config)
  assert isinstance(methods.build(config, 10), Voice2Pose | Pose2Pose)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    *[("experiment", "voice2voice"), ("parallel", "threads"), ("batch_size", 0)],
    *[("dataset.statistics", "mine"), ("generator.norm", "layer"), ("num_epochs", 0)],
    *[("template.kind", "ae"), ("template.kind", ""), ("batch_size", -8)],
    *[("generator.channels", 0), ("template.size", -1), ("log.every_steps", 0)],
    *[("optimizer.learning_rate", 0.0), ("optimizer.learning_rate", float("nan"))],
    *[("template.learning_rate_scale", -1.0), ("optimizer.milestones", (0,))],
    *[("generator.norm", "gn0"), ("loss.regression", "l2"), ("pose_vae.norm", "x")],
    *[("checkpoint.every_epochs", 0), ("checkpoint.keep_latest", 0)],
    ("generator.audio_channels", (4, 4, 8)),
    ("generator.audio_channels", (4, 4, 8, 0)),
  ],
)
def test_impossible_values_are_named(field, value):
  with pytest.raises(UserError) as e:
    methods.build(_config(**{field: value}), 10)
  message = str(e.value)
  assert message.startswith(f"config.{field} is {value!r}; expected")
  assert "\n" not in message


GAN = {"template.kind": "none", "discriminator.weight": 0.1}


def test_the_fields_reach_the_networks():
  model = methods.build(_config(), 10)
  assert (model.template, model.template_shape) == ("bp", (4,))
  assert model.discriminator is None
  assert (model.generator.axis_name, model.generator.norm) == (AXIS, "in_star")
  model = methods.build(_config(**{"template.frame_wise": True}), 10)
  assert model.template_shape == (64, 4)
  model = methods.build(_config(**GAN), 10)
  assert (model.template, model.gan_weight) == ("none", 0.1)
  assert model.discriminator.axis_name == AXIS
  model = methods.build(_config(experiment="pose2pose"), 10)
  assert (model.vae.channels, model.vae.size, model.vae.axis_name) == (8, 4, AXIS)


@pytest.mark.parametrize(
  ("fields", "entries", "templates", "bank"),
  [
    ({}, {"generator", "templates"}, (7, 4), {}),
    (GAN, {"generator", "discriminator"}, None, {}),
    ({"template.kind": "vae"}, {"generator"}, (7, 4), {"mean"}),
    ({"experiment": "pose2pose"}, {"vae"}, (7, 4), {"mean", "log_var"}),
  ],
)
def test_the_state_has_one_optimiser_for_each_entry(fields, entries, templates, bank):
  method = methods.build(_config(**fields), 10)
  state = jax.eval_shape(lambda: runs.init_state(method, 0, num_clips=7))
  assert set(state.params) == entries == set(state.opt_states)
  rows = state.templates()
  assert (None if rows is None else rows.shape) == templates
  assert {name: rows.shape for name, rows in state.bank.items()} == dict.fromkeys(
    bank, (7, 4)
  )


def _rates(optimizer, steps: int) -> list[float]:
  """The learning rates of Adam's first steps, for a gradient that does not change."""
  params = np.zeros(1, np.float32)
  update = jax.jit(optimizer.update)
  state, rates = optimizer.init(params), []
  for _ in range(steps):
    updates, state = update(np.ones(1, np.float32), state)
    rates.append(-float(updates[0]))
  return rates


@pytest.mark.parametrize("milestones", [(2, 3), (-2, -1), (2, -1)])
def test_the_learning_rate_falls_after_the_milestones(milestones):
  fields = {"optimizer.milestones": milestones, "num_epochs": 4}
  model = methods.build(_config(**fields), steps_per_epoch=3)
  rate = _config().optimizer.learning_rate
  expected = [rate] * 6 + [rate * 0.1] * 3 + [rate * 0.01] * 3
  rates = _rates(model.optimizers["generator"], 12)
  np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_one_learning_rate_moves_all_optimizers():
  fields = {
    "optimizer.learning_rate": 1e-3,
    "template.learning_rate_scale": 10.0,
    "discriminator.learning_rate_scale": 0.1,
    "optimizer.milestones": (1,),
  }
  model = methods.build(_config(**fields), steps_per_epoch=1)
  for name, rate in (("generator", 1e-3), ("templates", 1e-2), ("discriminator", 1e-4)):
    rates = _rates(model.optimizers[name], 2)
    np.testing.assert_allclose(rates, [rate, rate / 10], rtol=1e-4)


def test_a_milestone_before_the_first_epoch_has_no_effect():
  config = _config(num_epochs=5, **{"optimizer.milestones": (-10, -2)})
  assert config_lib.milestones(config) == [3]


RNG = np.random.default_rng(0)
BATCH = {
  "audio": 0.1 * RNG.standard_normal((4, 68_266)).astype(np.float32),
  "poses": RNG.standard_normal((4, *base.CLIP_SHAPE)).astype(np.float32),
  "index": np.arange(4, dtype=np.int32),
}
_LIP_NAMES = {*kp.FACE_CHAINS["outer_lip"], *kp.FACE_CHAINS["inner_lip"]}
LIPS = [name in _LIP_NAMES for name in kp.UPPER_BODY.names]


def _step(batch=BATCH, state=None, **fields):
  """The method, the state before and after a step, and the step's metrics."""
  method = methods.build(_config(**fields), 10)
  state = state or runs.init_state(method, 0, num_clips=4)

  def step(state, batch):
    return method.train_step(state, batch, jax.random.key(0))[:2]

  mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=AXIS))
  after, metrics = mapped(state, jax.tree.map(lambda x: x[None], batch))
  after, metrics = jax.tree.map(lambda x: np.asarray(x[0]), (after, metrics))
  return method, state, after, {name: float(v) for name, v in metrics.items()}


@pytest.mark.parametrize("experiment", ["voice2pose", "pose2pose"])
def test_kind_and_weight_of_the_regression_loss(experiment):
  fields = {"experiment": experiment, "template.kl_weight": 0.0}
  loss = {
    kind: _step(**fields, **{"loss.regression": kind, "loss.regression_weight": 3.0})[3]
    for kind in ("l1", "smooth_l1", "mse")
  }
  for kind, metrics in loss.items():
    assert metrics["loss"] == pytest.approx(3 * metrics[kind])
  values = {metrics["loss"] for metrics in loss.values()}
  assert len(values) == 3


@pytest.mark.parametrize("fields", [{}, GAN, {"experiment": "pose2pose"}], ids=str)
def test_a_loss_of_the_lips_only_ignores_all_other_joints(fields):
  only = {"loss.lips_only": True, **fields}
  other = BATCH | {"poses": np.where(LIPS, BATCH["poses"], 7).astype(np.float32)}
  if "experiment" in fields:  # the pose VAE encodes all joints
    with_all, without = (_step(BATCH, **f)[3] for f in (fields, only))
    assert with_all["l1"] > without["l1"] > 0
    return
  first, second = (_step(batch, **only)[3] for batch in (BATCH, other))
  assert first == second
  assert _step(other, **fields)[3] != first


def test_weight_decay_pulls_the_generator_alone():
  plain, decayed = (_step(**{"optimizer.weight_decay": w}) for w in (0.0, 1e3))
  np.testing.assert_array_equal(
    plain[2].params["templates"], decayed[2].params["templates"]
  )
  _, before, after, _ = decayed
  weights = [
    s.params["generator"]["unet"]["e0"]["conv"]["kernel"] for s in (before, after)
  ]
  # The penalty is far larger than the gradient, so Adam's first step follows its sign.
  np.testing.assert_array_equal(np.sign(weights[1] - weights[0]), -np.sign(weights[0]))


def test_frozen_templates_stay():
  given = RNG.standard_normal((4, 4)).astype(np.float32)
  frozen = methods.build(_config(**{"template.frozen": True}), 10)
  state = runs.init_state(frozen, 0, num_clips=4)
  state = state.replace(params=state.params | {"templates": given})
  _, before, after, metrics = _step(state=state, **{"template.frozen": True})
  np.testing.assert_array_equal(after.params["templates"], given)
  assert "templates" not in after.opt_states
  assert metrics["kl"] > 0
  changed = jax.tree.map(
    lambda a, b: bool(np.any(a != b)),
    before.params["generator"],
    after.params["generator"],
  )
  assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize(
  ("fields", "sees_a_still_offset", "sees_the_face"),
  [
    ({}, False, True),
    ({"discriminator.input": "poses"}, True, True),
    ({"discriminator.joints": "left_hand, right_wrist"}, False, False),
  ],
)
def test_what_the_discriminator_sees(fields, sees_a_still_offset, sees_the_face):
  model, state, _, _ = _step(**GAN, **fields)
  still = BATCH["poses"] + 1
  moving = BATCH["poses"].copy()
  moving[..., kp.UPPER_BODY.part("face")] *= 2
  scores = [
    model.discriminator.apply(
      state.network("discriminator"), model.seen_by_discriminator(poses), train=False
    )
    for poses in (BATCH["poses"], still, moving)
  ]
  assert bool(np.abs(scores[1] - scores[0]).max() > 1e-4) == sees_a_still_offset
  assert bool(np.abs(scores[2] - scores[0]).max() > 1e-4) == sees_the_face


def test_joints_and_groups_that_do_not_exist_are_named():
  with pytest.raises(UserError, match=r"discriminator\.joints: 'tail' is not a joint"):
    methods.build(_config(**{"discriminator.joints": "face,tail"}), 10)
  with pytest.raises(UserError, match=r"'gn3', but 4 channels cannot be divided"):
    methods.build(_config(**{"generator.norm": "gn3"}), 10)
  with pytest.raises(UserError, match=r"pose_vae\.norm is 'gn5'"):
    methods.build(_config(experiment="pose2pose", **{"pose_vae.norm": "gn5"}), 10)


@pytest.mark.parametrize(
  "fields",
  [{"generator.norm": "gn4"}, {"experiment": "pose2pose", "pose_vae.norm": "gn4"}],
)
def test_group_norm_trains(fields):
  _, _, after, metrics = _step(**fields)
  assert np.isfinite(metrics["loss"])
  assert not jax.tree.leaves(after.batch_stats)
