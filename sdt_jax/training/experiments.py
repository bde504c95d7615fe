"""From a config to an experiment and its data."""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from sdt_jax import audio
from sdt_jax.config import Config, defaults
from sdt_jax.errors import UserError
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.models.pose_vae import PoseVAE
from sdt_jax.training import pose2pose, voice2pose
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.train_state import TrainState
from sdt_jax.training.voice2pose import AXIS, Voice2Pose

if TYPE_CHECKING:
  from sdt_jax.data.builder import Built

Experiment = Voice2Pose | Pose2Pose

_CHOICES = {
  "experiment": ("voice2pose", "pose2pose"),
  "parallel": ("jit", "pmap"),
  "precision": ("float32", "bf16"),
  "dataset.name": ("synthetic", "speech2gesture"),
  "dataset.statistics": ("auto", "published", "pack"),
  "generator.norm": ("bn", "in", "in_star"),
  "template.kind": ("bp", "vae", "none"),
}
_POSITIVE = (
  "batch_size",
  "num_epochs",
  "generator.channels",
  "template.size",
  "optimizer.learning_rate",
  "template.learning_rate",
  "discriminator.learning_rate",
  "log.every_steps",
  "checkpoint.every_epochs",
  "checkpoint.keep_latest",
)
_NOT_NEGATIVE = (
  "template.kl_weight",
  "discriminator.weight",
  "optimizer.decay",
  "steps_at_once",
  "dataset.cache_gb",
  "dataset.num_threads",
  "log.train_videos",
  "log.dev_videos",
  "log.video_every_epochs",
  "checkpoint.every_steps",
  "checkpoint.every_minutes",
  "checkpoint.keep_best",
)
_SHARES = ("optimizer.b1", "optimizer.b2")


def check(config: Config) -> None:
  """Raises a UserError that names the first field with an impossible value."""
  _check_types(config, defaults())
  for name, choices in _CHOICES.items():
    value = field(config, name)
    if value not in choices:
      raise UserError(f"config.{name} is {value!r}; expected one of {choices}")
  for name in _POSITIVE:
    value = field(config, name)
    if not value > 0:
      raise UserError(f"config.{name} is {value!r}; expected a positive number")
  for name in _NOT_NEGATIVE:
    value = field(config, name)
    if value < 0:
      raise UserError(f"config.{name} is {value!r}; expected 0 or more")
  for name in _SHARES:
    value = field(config, name)
    if not 0 <= value < 1:
      raise UserError(f"config.{name} is {value!r}; expected 0 or more, below 1")
  if config.batch_size < 2:
    raise UserError("config.batch_size is 1; statistics over the batch need 2 or more")
  if not 0 <= config.seed < 2**32:
    raise UserError(f"config.seed is {config.seed}; expected 0 to {2**32 - 1}")
  if config.template.frame_wise and config.template.kind != "bp":
    raise UserError(
      f"config.template.frame_wise is for templates of kind 'bp', not "
      f"{config.template.kind!r}; a pose VAE gives each clip one"
    )
  channels = config.generator.audio_channels
  if len(channels) != 4 or not all(c > 0 for c in channels):
    raise UserError(
      f"config.generator.audio_channels is {channels!r}; expected 4 positive numbers"
    )


def _check_types(config: Config, like: Config, prefix: str = "config") -> None:
  """Raises a UserError unless `config` has the fields of `like`, of the same types."""
  for key, default in like.items():
    name = f"{prefix}.{key}"
    if key not in config:
      raise UserError(f"{name} is missing; configs/common.py has every field")
    if isinstance(default, type(like)):
      if not isinstance(config[key], type(like)):
        raise UserError(f"{name} is {config[key]!r}; expected a section of fields")
      _check_types(config[key], default, name)
    elif not _has_type_of(config[key], default):
      raise UserError(f"{name} is {config[key]!r}; expected a value like {default!r}")


def _has_type_of(value: Any, default: Any) -> bool:
  """Whether `value`, perhaps out of a JSON file, can stand where `default` does."""
  if isinstance(default, tuple):
    is_row = isinstance(value, list | tuple)
    return is_row and all(_has_type_of(item, default[0]) for item in value)
  if isinstance(default, float):
    return type(value) in (int, float) and math.isfinite(value)
  return type(value) is type(default)


def field(config: Config, name: str) -> Any:
  """A field by its dotted name, such as "generator.norm"."""
  value: Any = config
  for key in name.split("."):
    value = value[key]
  return value


def build(config: Config, steps_per_epoch: int) -> Experiment:
  """The experiment that `config` describes.

  Args:
    config: fields as in `configs/common.py`.
    steps_per_epoch: turns the epochs of the learning rate's milestones into steps.
  """
  check(config)
  adam = functools.partial(_adam, config, steps_per_epoch)
  if config.experiment == "pose2pose":
    return Pose2Pose(
      vae=PoseVAE(
        config.generator.channels,
        config.template.size,
        axis_name=AXIS,
        dtype=_dtype(config),
      ),
      kl_weight=config.template.kl_weight,
      optimizers={"vae": adam(config.optimizer.learning_rate)},
      seed=config.seed,
    )
  shape: tuple[int, ...] = (config.template.size,)
  if config.template.frame_wise:
    shape = (audio.CLIP_FRAMES, *shape)
  return Voice2Pose(
    generator=Generator(
      config.generator.channels,
      tuple(config.generator.audio_channels),
      config.generator.norm,
      axis_name=AXIS,
      dtype=_dtype(config),
    ),
    discriminator=_discriminator(config),
    template=config.template.kind,
    template_shape=shape,
    kl_weight=config.template.kl_weight,
    gan_weight=config.discriminator.weight,
    optimizers={
      "generator": adam(config.optimizer.learning_rate),
      "templates": adam(config.template.learning_rate),
      "discriminator": adam(config.discriminator.learning_rate),
    },
  )


def _discriminator(config: Config) -> MotionDiscriminator | None:
  if config.discriminator.weight == 0:
    return None
  return MotionDiscriminator(
    config.generator.channels, axis_name=AXIS, dtype=_dtype(config)
  )


def _dtype(config: Config):
  """Of the activations; see `models.layers`."""
  return jnp.bfloat16 if config.precision == "bf16" else None


def _adam(config: Config, steps_per_epoch: int, learning_rate: float):
  milestones = config.optimizer.milestones
  schedule = optax.piecewise_constant_schedule(
    learning_rate,
    {epoch * steps_per_epoch: config.optimizer.decay for epoch in milestones},
  )
  return optax.adam(schedule, b1=config.optimizer.b1, b2=config.optimizer.b2)


def build_data(config: Config) -> "Built":
  """The data set that `config` describes, built if it is not there yet."""
  # Here, since a run is opened for generation without what reads data sets.
  from sdt_jax.data import pipeline

  dataset = config.dataset
  return pipeline.build(
    dataset.name,
    root=dataset.root,
    speaker=dataset.speaker,
    data_dir=dataset.data_dir,
    num_train_clips=dataset.num_train_clips,
    num_dev_clips=dataset.num_dev_clips,
    skip_bad_clips=dataset.skip_bad_clips,
  )


def init(experiment: Experiment, seed: int, num_clips: int) -> TrainState:
  """State before the first step, for `num_clips` training clips."""
  module = pose2pose if isinstance(experiment, Pose2Pose) else voice2pose
  return jax.jit(functools.partial(module.init, experiment, num_clips=num_clips))(
    jax.random.key(seed)
  )


def train_step(experiment: Experiment) -> Callable:
  """Per-device `(state, batch) -> (state, metrics)`."""
  module = pose2pose if isinstance(experiment, Pose2Pose) else voice2pose
  return functools.partial(module.train_step, experiment)
