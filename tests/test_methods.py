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
    *[("template.learning_rate", -1e-3), ("discriminator.learning_rate", 0.0)],
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
