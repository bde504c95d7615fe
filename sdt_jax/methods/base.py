"""What a method is: something that can be trained and that generates poses.

A method is a frozen dataclass of networks and settings; its functions are pure. The
training loop, the evaluator, generation, the exports and the importer know methods only
through the class `Method`, so a new method is one new file and one line in
`methods.METHODS`.

`train_step` is written for one device, inside a map over the axis `AXIS`: the batch is
this device's share; gradients, losses and batch statistics are averaged over the axis.
A batch is a dict of `audio` (b, samples) at 16 kHz, `poses` (b, T, dims, joints)
normalised, and `index` (b,), the row of each clip among the training clips; with a
teacher also `teacher` (b, T, dims, joints), its normalised poses for these clips.
"""

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdt_jax import audio
from sdt_jax import config as config_lib
from sdt_jax import keypoints as kp
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods import losses
from sdt_jax.methods.train_state import TrainState

AXIS = "data"
"""Name of the device axis that a step is mapped over."""

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

CLIP_SHAPE = (audio.CLIP_FRAMES, *kp.UPPER_BODY.shape)
CLIP_SAMPLES = audio.num_samples(audio.CLIP_FRAMES)
CLIP_MEL_SHAPE = (audio.NUM_MELS, audio.num_mel_frames(CLIP_SAMPLES))


class Condition(NamedTuple):
  """What poses are generated from; a method reads the fields that it lists in `inputs`.

  Attributes:
    mel: (B, mels, M) power mel spectrogram of the speech.
    template: (B, *template_shape), or (B, T, D) for one that changes over time.
    poses: (B, T, dims, joints) normalised poses to reconstruct.
    speaker: (B,) int32 index of the speaker; None if the run has only one.
    lengths: (B,) int32 frames of each sequence, the rest is padding; None for all.
  """

  mel: jax.Array | None = None
  template: jax.Array | None = None
  poses: jax.Array | None = None
  speaker: jax.Array | None = None
  lengths: jax.Array | None = None


class Clips(NamedTuple):
  """Where the N training clips come from.

  Attributes:
    videos: (N,) name of the recording.
    starts: (N,) first frame in it.
    sounds: (n, samples) at 16 kHz of a few clips at a time, in order.
  """

  videos: np.ndarray
  starts: np.ndarray
  sounds: Iterable[np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
  """The interface of a method.

  Attributes:
    networks: names of the networks that runs of this method may have, the keys of
      `TrainState.batch_stats`.
    title: what error messages call it, for example "pose VAE".
    has_encoder: whether `encode` maps poses to templates. Such a run gives the features
      for FTD, and its `TrainState.bank` can serve as the templates of another run.
    models_templates: whether it models the templates of another run,
      `config.template.of`, and generates no poses.
    optimizers: one for each entry of `TrainState.params` that is trained.
    needs_bank: whether the templates of a run are the bank of another run.
  """

  networks: ClassVar[tuple[str, ...]]
  title: ClassVar[str]
  has_encoder: ClassVar[bool] = False
  models_templates: ClassVar[bool] = False

  optimizers: dict[str, optax.GradientTransformation]
  needs_bank: bool = False

  @classmethod
  def check(cls, config: Config) -> None:
    """Raises a UserError if fields of the config contradict each other."""
    del config

  @classmethod
  def completed(cls, config: Config) -> Config:
    """`config` with the fields that other runs decide.

    Raises:
      UserError: another run cannot be opened.
    """
    return config

  @classmethod
  @abc.abstractmethod
  def from_config(cls, config: Config, steps_per_epoch: int) -> "Method":
    """The method that a checked config describes.

    `steps_per_epoch` converts the milestones of the learning rate to steps.
    """

  @classmethod
  def bank_config(cls, config: Config) -> Config | None:
    """The config of the run whose bank provides the templates, if it is to be trained.

    None for a method without such a run, or if the user names one in `config`.
    """
    del config
    return None

  @property
  @abc.abstractmethod
  def inputs(self) -> frozenset[str]:
    """The fields of `Condition` that `sample` needs: "mel", "template", "poses"."""

  @property
  @abc.abstractmethod
  def template_shape(self) -> tuple[int, ...] | None:
    """(D,), or (T, D) for templates that change over time; None without templates."""

  @property
  def mel_rate(self) -> int:
    """Time steps per second of `Condition.mel`."""
    return audio.MEL_RATE

  @property
  def look_ahead(self) -> int | None:
    """Frames of sound after a frame that affect it; None: all.

    A method with a look-ahead implements `advance`; its motion does not depend on the
    length of the sound.
    """
    return None

  def bank(self, state: TrainState) -> np.ndarray | None:
    """Templates of the training clips that `sample` can use, (N, *template_shape)."""
    bank = state.templates() if "template" in self.inputs else None
    return None if bank is None else np.asarray(bank)

  @abc.abstractmethod
  def init(self, key: jax.Array, num_clips: int) -> TrainState:
    """State before the first step, for `num_clips` training clips."""

  def with_templates(
    self, state: TrainState, templates: np.ndarray, clips: Clips
  ) -> TrainState:
    """The state of `init` with what the method models; needs `models_templates`.

    Args:
      state: from `init`.
      templates: (N, D) of the run `config.template.of`.
      clips: the training clips.

    Raises:
      UserError: the clips are unsuitable.
    """
    raise NotImplementedError(f"a {self.title} models no templates")

  @abc.abstractmethod
  def train_step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Metrics, jax.Array | None]:
    """One optimization step on this device's share of a batch.

    Args:
      state: the same on every device.
      batch: see above.
      key: random key of this step and device, see `step_key`.

    Returns:
      The new state; scalar metrics averaged over devices, among them "loss"; and the
      normalised poses (b, T, dims, joints) that were compared with those of the batch,
      None if the method generates no poses.
    """

  @abc.abstractmethod
  def sample(
    self, state: TrainState, condition: Condition, num_frames: int, keys: jax.Array
  ) -> jax.Array:
    """Generates poses; batch norm uses the running statistics.

    Args:
      state: the trained state.
      condition: has the fields that `inputs` names.
      num_frames: T.
      keys: (B,) random keys, one per sequence, so that a sequence does not depend on
        the others in its batch. A deterministic method ignores them.

    Returns:
      (B, T, dims, joints) normalised poses.
    """

  def advance(
    self, state: TrainState, past: Any, condition: Condition
  ) -> tuple[jax.Array, Any]:
    """Generates the poses that the next T frames of the sound make final.

    Args:
      state: the trained state.
      past: what the call before returned; {} at the start.
      condition: of these frames; `template` is (B, T, D), of the frames of the result.

    Returns:
      (B, T, dims, joints) normalised poses of the frames `look_ahead` before, and the
      past for the next call.
    """
    raise NotImplementedError(f"a {self.title} is not generated frame by frame")

  @property
  def noise_size(self) -> int | None:
    """Channels of the noise that `draw_templates` takes; None if it draws none."""
    return None

  def draw_templates(self, state: TrainState, noise: jax.Array) -> jax.Array:
    """Templates (B, T, D), one for each frame, from standard normal noise.

    Args:
      state: the trained state.
      noise: (B, T, noise_size).
    """
    raise NotImplementedError(f"a {self.title} draws no templates")

  def take_encoder(self, state: TrainState, provider: TrainState) -> TrainState:
    """`state` with the encoder of the run that provides the bank, if training uses it.

    Args:
      state: before the first step.
      provider: state of a run whose method has an encoder.
    """
    del provider
    return state

  def encode(self, state: TrainState, poses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance (B, D) of normalised poses; needs `has_encoder`."""
    raise NotImplementedError(f"a {self.title} has no encoder")

  def decode(self, state: TrainState, templates: jax.Array) -> jax.Array:
    """Normalised poses (B, T, dims, joints) of templates; needs `has_encoder`."""
    raise NotImplementedError(f"a {self.title} has no encoder")

  def template_weights(self, state: TrainState) -> np.ndarray | None:
    """How the first layer that reads the template changes with it, (outputs, D).

    It is for templates that hold over time, so it sums over the kernel. None without
    templates.
    """
    del state
    return None


def step_key(seed: int, step: jax.Array) -> jax.Array:
  """Random key of a training step, different for each step and each device."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def learning_rate(
  config: Config, steps_per_epoch: int, scale: float = 1.0
) -> optax.Schedule:
  """Function from the number of earlier steps to the rate: decays at the milestones."""
  decays = {
    epoch * steps_per_epoch: config.optimizer.decay
    for epoch in config_lib.milestones(config)
  }
  initial = config.optimizer.learning_rate * scale
  return optax.piecewise_constant_schedule(initial, decays)


def adam(
  config: Config, steps_per_epoch: int, scale: float = 1.0, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Adam with the settings of `config.optimizer`.

  Args:
    config: the fields of the run.
    steps_per_epoch: converts the milestones to steps.
    scale: factor on the learning rate.
    weight_decay: as in PyTorch's Adam, an L2 penalty: this times the parameters is
      added to the gradient.
  """
  fields = config.optimizer
  rate = learning_rate(config, steps_per_epoch, scale)
  optimizer = optax.adam(rate, b1=fields.b1, b2=fields.b2)
  if not weight_decay:
    return optimizer

  def update(updates, state, params=None):
    updates = optax.tree.add_scale(updates, weight_decay, params)
    return optimizer.update(updates, state, params)

  return optax.GradientTransformation(optimizer.init, update)


def regression(config: Config) -> losses.Regression:
  """The regression loss of `config.loss`."""
  fields = config.loss
  return losses.Regression(
    fields.regression, fields.regression_weight, fields.lips_only
  )


def check_groups(field: str, norm: str, channels: Sequence[int]) -> None:
  """Raises a UserError if group norm cannot divide these channels evenly."""
  if not norm.startswith("gn"):
    return
  groups = int(norm.removeprefix("gn"))
  uneven = [count for count in channels if count % groups]
  if uneven:
    raise UserError(
      f"config.{field} is {norm!r}, but {uneven[0]} channels cannot be divided into "
      f"{groups} groups; give a divisor of {', '.join(map(str, channels))}"
    )


def activation_dtype(config: Config) -> Any:
  """Type of the activations, see `models.layers`: None stands for float32."""
  return jnp.bfloat16 if config.precision == "bf16" else None
