"""From a config to a method: what is refused, and what is built."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import methods
from sdt_jax.errors import UserError
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.voice2pose import Voice2Pose
from sdt_jax.models.discriminator import MotionDiscriminator
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
    ("experiment", "voice2voice"),
    ("parallel", "threads"),
    ("dataset.statistics", "mine"),
    ("generator.norm", "layer"),
    ("template.kind", "ae"),
    ("template.kind", ""),
    ("batch_size", 0),
    ("batch_size", -8),
    ("num_epochs", 0),
    ("generator.channels", 0),
    ("template.size", -1),
    ("optimizer.learning_rate", 0.0),
    ("template.learning_rate", -1e-3),
    ("log.every_steps", 0),
    ("checkpoint.every_epochs", 0),
    ("checkpoint.keep_latest", 0),
    ("optimizer.learning_rate", float("nan")),
    ("discriminator.learning_rate", 0.0),
    ("generator.audio_channels", (4, 4, 8)),
    ("generator.audio_channels", (4, 4, 8, 0)),
  ],
)
def test_impossible_values_are_named(field, value):
  with pytest.raises(UserError) as e:
    methods.check(_config(**{field: value}))
  message = str(e.value)
  assert message.startswith(f"config.{field} is {value!r}; expected")
  assert "\n" not in message


def test_build_checks_too():
  with pytest.raises(UserError, match=r"config\.parallel"):
    methods.build(_config(parallel="threads"), 10)


def test_sdt_bp():
  model = methods.build(_config(), 10)
  assert isinstance(model, Voice2Pose)
  assert (model.template, model.template_shape) == ("bp", (4,))
  assert model.discriminator is None
  assert model.generator.axis_name == AXIS
  assert model.generator.norm == "in_star"


def test_s2g():
  fields = {"template.kind": "none", "discriminator.weight": 0.1}
  model = methods.build(_config(**fields, **{"generator.norm": "bn"}), 10)
  assert model.template == "none"
  assert isinstance(model.discriminator, MotionDiscriminator)
  assert model.discriminator.axis_name == AXIS
  assert model.gan_weight == 0.1


def test_templates_by_frame():
  model = methods.build(_config(**{"template.frame_wise": True}), 10)
  assert model.template_shape == (64, 4)


def test_pose2pose():
  model = methods.build(_config(experiment="pose2pose"), 10)
  assert isinstance(model, Pose2Pose)
  assert (model.vae.channels, model.vae.size) == (8, 4)
  assert model.vae.axis_name == AXIS


def _shapes(model, num_clips=7):
  init = lambda key: runs.init_state(model, 0, num_clips)  # noqa: E731
  return jax.eval_shape(init, jax.random.key(0))


def test_the_state_has_one_optimiser_for_each_entry():
  state = _shapes(methods.build(_config(), 10))
  assert set(state.params) == {"generator", "templates"} == set(state.opt_states)
  assert state.templates().shape == (7, 4)
  assert state.bank == {}

  fields = {"template.kind": "none", "discriminator.weight": 0.1}
  state = _shapes(methods.build(_config(**fields), 10))
  assert set(state.params) == {"generator", "discriminator"} == set(state.opt_states)
  assert state.templates() is None

  state = _shapes(methods.build(_config(**{"template.kind": "vae"}), 10))
  assert set(state.params) == {"generator"} == set(state.opt_states)
  assert state.templates().shape == (7, 4)

  state = _shapes(methods.build(_config(experiment="pose2pose"), 10))
  assert set(state.params) == {"vae"} == set(state.opt_states)
  assert {k: v.shape for k, v in state.bank.items()} == {
    "mean": (7, 4),
    "log_var": (7, 4),
  }


def _rates(optimizer, steps: int) -> list[float]:
  """The learning rates of Adam's first steps, for a gradient that does not change."""
  params = np.zeros(1, np.float32)
  update = jax.jit(optimizer.update)
  state, rates = optimizer.init(params), []
  for _ in range(steps):
    updates, state = update(np.ones(1, np.float32), state)
    rates.append(-float(updates[0]))
  return rates


def test_the_learning_rate_falls_after_the_milestones():
  fields = {"optimizer.milestones": (2, 3), "optimizer.decay": 0.1}
  model = methods.build(_config(**fields), steps_per_epoch=3)
  base = _config().optimizer.learning_rate
  expected = [base] * 6 + [base * 0.1] * 3 + [base * 0.01] * 3
  rates = _rates(model.optimizers["generator"], 12)
  np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_each_part_has_its_own_learning_rate():
  fields = {
    "optimizer.learning_rate": 1e-3,
    "template.learning_rate": 1e-2,
    "discriminator.learning_rate": 1e-4,
    "optimizer.milestones": (1,),
  }
  model = methods.build(_config(**fields), steps_per_epoch=1)
  for name, rate in (("generator", 1e-3), ("templates", 1e-2), ("discriminator", 1e-4)):
    rates = _rates(model.optimizers[name], 2)
    np.testing.assert_allclose(rates, [rate, rate / 10], rtol=1e-4)
