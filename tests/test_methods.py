"""From a config to a method: what is refused, and what is built."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import audio, methods
from sdt_jax import config as config_lib
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.methods import base, losses
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.voice2pose import Voice2Pose
from sdt_jax.training import runs

pytestmark = pytest.mark.usefixtures("compile_fast")
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def _config(**fields):
  return tiny.config("data", **fields)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda f: f.stem)
def test_every_config_file_describes_an_experiment(file):
  config = importlib.import_module(f"configs.{file.stem}").get_config()
  if file.stem == "template_sequence":
    config.template.of = "run"
  methods.check(config)
  assert type(methods.build(config, 10)) is methods.METHODS[config.experiment]


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


GIVEN = RNG.standard_normal((4, 4)).astype(np.float32)
UNUSUAL = {
  "loss.regression": "mse",
  "loss.regression_weight": 3.0,
  "template.frozen": True,
  "optimizer.weight_decay": 1e3,
}


@pytest.fixture(scope="module")
def unusual():
  """A step with the fields above and given templates."""
  state = runs.init_state(methods.build(_config(**UNUSUAL), 10), 0, num_clips=4)
  return _step(
    state=state.replace(params=state.params | {"templates": GIVEN}), **UNUSUAL
  )


def test_kind_and_weight_of_the_regression_loss(unusual):
  model, before, _, metrics = unusual
  mel = audio.mel_spectrogram(BATCH["audio"])
  condition = base.Condition(mel=mel, template=GIVEN)
  keys = jax.random.split(jax.random.key(0), 4)
  poses = np.asarray(model.sample(before, condition, 64, keys))
  assert metrics["mse"] == pytest.approx(
    np.mean((poses - BATCH["poses"]) ** 2), rel=1e-4
  )
  assert metrics["loss"] == pytest.approx(3 * metrics["mse"] + 0.1 * metrics["kl"])


def test_frozen_templates_stay(unusual):
  _, _, after, metrics = unusual
  np.testing.assert_array_equal(after.params["templates"], GIVEN)
  assert "templates" not in after.opt_states
  assert metrics["kl"] > 0


def test_weight_decay_pulls_the_generator(unusual):
  _, before, after, _ = unusual
  old, new = (
    s.params["generator"]["unet"]["e0"]["conv"]["kernel"] for s in (before, after)
  )
  # The penalty is far larger than the gradient, so Adam's first step follows its sign.
  np.testing.assert_array_equal(np.sign(new - old), -np.sign(old))
  fields = UNUSUAL | {"template.frozen": False}
  optimizers = methods.build(_config(**fields), 10).optimizers
  one = np.ones(1, np.float32)
  for name, expected in (("templates", 1), ("generator", -1)):
    updates, _ = optimizers[name].update(-one, optimizers[name].init(one), one)
    assert np.sign(updates) == expected, name


def test_the_pose_vae_has_loss_and_norm_of_its_own():
  fields = {
    "experiment": "pose2pose",
    "pose_vae.norm": "gn4",
    "loss.lips_only": True,
    "loss.regression": "smooth_l1",
    "loss.regression_weight": 2.0,
  }
  _, _, after, metrics = _step(**fields)
  assert metrics["loss"] == pytest.approx(
    2 * metrics["smooth_l1"] + 0.1 * metrics["kl"]
  )
  # 20 of 121 joints contribute; an untrained VAE reconstructs close to 0.
  expected = 20 / 121 * losses.smooth_l1(BATCH["poses"], np.zeros_like(BATCH["poses"]))
  assert metrics["smooth_l1"] == pytest.approx(expected, rel=0.5)
  assert not jax.tree.leaves(after.batch_stats)


def test_a_loss_of_the_lips_only_ignores_all_other_joints():
  """Of generator and discriminator."""
  other = BATCH | {"poses": np.where(LIPS, BATCH["poses"], 7).astype(np.float32)}
  first, second = (
    _step(b, **{"loss.lips_only": True}, **GAN)[3] for b in (BATCH, other)
  )
  assert first == second


@pytest.mark.parametrize(
  ("fields", "sees_a_still_offset", "sees_the_face"),
  [
    ({}, False, True),
    ({"discriminator.input": "poses"}, True, True),
    ({"discriminator.joints": "left_hand, right_wrist"}, False, False),
  ],
)
def test_what_the_discriminator_sees(fields, sees_a_still_offset, sees_the_face):
  model = methods.build(_config(**GAN, **fields), 10)
  state = runs.init_state(model, 0, num_clips=4)
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
