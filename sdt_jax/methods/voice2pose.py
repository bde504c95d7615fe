"""The regression-based gesture generator: S2G, SDT-BP, SDT-VAE, or no templates."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods import base, gan, losses, sequence, train_state
from sdt_jax.methods.base import AXIS, Batch, Condition, Metrics
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.sequence import SequenceModel
from sdt_jax.methods.train_state import TrainState
from sdt_jax.models import causal
from sdt_jax.models.causal import CausalGenerator
from sdt_jax.models.code_mapper import CodeDiscriminator, CodeMapper
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.models.pose_vae import PoseEncoder

_DISCRIMINATORS = ("discriminator", sequence.DISCRIMINATOR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice2Pose(base.Method):
  """Speech and, if the model uses templates, a template -> poses.

  Attributes:
    generator: the gesture generator; a causal one makes the method causal.
    discriminator: scores motion or poses; None to train without a GAN.
    template: "bp" learns a template for each training clip, "vae" takes them from the
      bank of another run, "none" uses no templates.
    clip_template_shape: (D,), or (T, D) for templates that change over time.
    regression: the regression loss.
    kl_weight: weight of the template KL term.
    gan_weight: weight of the GAN terms of generator and discriminator.
    gan_motion: whether the discriminator sees differences of successive poses.
    gan_joints: indices of the joints that the discriminator sees; None for all.
    teacher_weight: weight of the regression to the poses of the teacher, if any.
    sequence: the sequence model that is trained beside the generator, if any.
  """

  networks: ClassVar[tuple[str, ...]] = (
    "generator",
    "discriminator",
    *sequence.NETWORKS,
  )
  title: ClassVar[str] = "gesture model"

  generator: Generator | CausalGenerator
  discriminator: MotionDiscriminator | None
  template: Literal["bp", "vae", "none"]
  clip_template_shape: tuple[int, ...]
  regression: losses.Regression = losses.L1
  kl_weight: float
  gan_weight: float
  gan_motion: bool = True
  gan_joints: tuple[int, ...] | None = None
  teacher_weight: float = 1.0
  sequence: SequenceModel | None = None

  @classmethod
  def check(cls, config: Config) -> None:
    if config.template.frame_wise and config.template.kind != "bp":
      raise UserError(
        "config.template.frame_wise is True, but only templates of kind 'bp' can be "
        f"frame-wise; config.template.kind is {config.template.kind!r}"
      )
    if config.template.frozen and config.template.kind != "bp":
      raise UserError(
        "config.template.frozen is True, but only templates of kind 'bp' are trained; "
        f"config.template.kind is {config.template.kind!r}"
      )
    if config.sequence.train and config.template.kind != "vae":
      raise UserError(
        "config.sequence.train is True, but the sequence model needs templates of kind "
        f"'vae'; config.template.kind is {config.template.kind!r}"
      )
    fields = config.generator
    if fields.causal and fields.norm not in ("bn", "in_star"):
      raise UserError(
        f"config.generator.norm is {fields.norm!r}, which looks ahead, but "
        "config.generator.causal is True; give bn or in_star"
      )
    channels = *fields.audio_channels, fields.channels
    base.check_groups("generator.norm", fields.norm, channels)
    _joints(config.discriminator.joints)
    if config.template.kind == "vae" and not config.template.pose_vae:
      Pose2Pose.check(config)

  @classmethod
  def bank_config(cls, config: Config) -> Config | None:
    if config.template.kind != "vae" or config.template.pose_vae:
      return None
    vae = config.copy_and_resolve_references()
    vae.experiment, vae.teacher = "pose2pose", ""
    vae.checkpoint.best_metric = "l1"
    vae.evaluation.update({"template": "random", "pose_vae": ""})
    return vae

  @classmethod
  def from_config(cls, config: Config, steps_per_epoch: int) -> "Voice2Pose":
    dtype = base.activation_dtype(config)
    channels, size = config.generator.channels, config.template.size
    adam = functools.partial(base.adam, config, steps_per_epoch)
    optimizers = {
      "generator": adam(weight_decay=config.optimizer.weight_decay),
      "discriminator": adam(config.discriminator.learning_rate_scale),
      sequence.MAPPER: adam(weight_decay=config.optimizer.weight_decay),
      sequence.DISCRIMINATOR: adam(),
    }
    if not config.template.frozen:
      optimizers["templates"] = adam(config.template.learning_rate_scale)
    return cls(
      generator=_generator(config),
      discriminator=MotionDiscriminator(channels, axis_name=AXIS, dtype=dtype)
      if config.discriminator.weight
      else None,
      template=config.template.kind,
      clip_template_shape=(audio.CLIP_FRAMES, size)
      if config.template.frame_wise
      else (size,),
      regression=base.regression(config),
      kl_weight=config.template.kl_weight,
      gan_weight=config.discriminator.weight,
      gan_motion=config.discriminator.input == "motion",
      gan_joints=_joints(config.discriminator.joints),
      teacher_weight=config.loss.teacher_weight,
      sequence=_sequence(config) if config.sequence.train else None,
      optimizers=optimizers,
      needs_bank=config.template.kind == "vae",
    )

  @property
  def inputs(self) -> frozenset[str]:
    return frozenset({"mel"} if self.template == "none" else {"mel", "template"})

  @property
  def template_shape(self) -> tuple[int, ...] | None:
    return None if self.template == "none" else self.clip_template_shape

  @property
  def mel_rate(self) -> int:
    return causal.MEL_RATE if self.look_ahead is not None else super().mel_rate

  @property
  def look_ahead(self) -> int | None:
    return getattr(self.generator, "look_ahead", None)

  def init(self, key: jax.Array, num_clips: int) -> TrainState:
    """Templates start from zeros, one row for each training clip."""
    mel = audio.mel_spectrogram(jnp.zeros((1, base.CLIP_SAMPLES)), self.mel_rate)
    shape = self.template_shape
    template = None if shape is None else jnp.zeros((1, *shape))
    keys = jax.random.split(key)
    poses = jnp.zeros((1, *base.CLIP_SHAPE))
    networks: dict[str, Any] = {
      "generator": self.generator.init(keys[0], mel, template, audio.CLIP_FRAMES)
    }
    if self.discriminator:
      seen = self.seen_by_discriminator(poses)
      networks["discriminator"] = self.discriminator.init(keys[1], seen, train=True)
    if self.sequence:
      networks |= self.sequence.init(jax.random.fold_in(key, 2), poses)
    params = {name: variables["params"] for name, variables in networks.items()}
    stats = {name: v.get("batch_stats", {}) for name, v in networks.items()}
    rows = jnp.zeros((num_clips, *self.clip_template_shape))
    if self.template == "bp":
      params["templates"] = rows
    bank = {"mean": rows} if self.template == "vae" else {}
    return train_state.create(params, stats, bank, self.optimizers)

  def seen_by_discriminator(self, poses: jax.Array) -> jax.Array:
    """Motion or poses of the chosen joints."""
    if self.regression.lips_only:
      poses = losses.lips_only(poses)
    if self.gan_joints is not None:
      poses = poses[..., np.array(self.gan_joints)]
    return jnp.diff(poses, axis=1) if self.gan_motion else poses

  def train_step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Metrics, jax.Array]:
    noise = None
    if self.noise_size:
      shape = (*batch["poses"].shape[:2], self.noise_size)
      noise = jax.random.normal(key, shape)
    return self.update(state, batch, noise)

  def update(
    self, state: TrainState, batch: Batch, noise: jax.Array | None
  ) -> tuple[TrainState, Metrics, jax.Array]:
    """Updates generator, templates and sequence model, in one forward pass.

    The discriminators are updated afterwards, from the outputs of the same pass.

    Args:
      state, batch: see `train_step`.
      noise: (b, T, noise_size) for the sequence model, standard normal; else None.
    """
    trained = {
      name: params
      for name, params in state.params.items()
      if name in self.optimizers and name not in _DISCRIMINATORS
    }
    loss_and_grad = jax.grad(_loss, argnums=1, has_aux=True)
    grads, (metrics, poses, codes, stats) = loss_and_grad(
      self, trained, state, batch, noise
    )
    grads = jax.lax.pmean(grads, AXIS)
    metrics["grad_norm"] = optax.tree.norm(grads)
    new_state = train_state.apply_gradients(state, grads, self.optimizers)
    new_state = new_state.replace(
      step=state.step + 1, batch_stats=state.batch_stats | stats
    )
    if self.discriminator:
      new_state, d_metrics = gan.update_discriminator(
        self.discriminator,
        "discriminator",
        new_state,
        self.optimizers,
        fake=self.seen_by_discriminator(jax.lax.stop_gradient(poses)),
        real=self.seen_by_discriminator(batch["poses"]),
        weight=self.gan_weight,
      )
      metrics |= d_metrics
    if self.sequence:
      new_state, d_metrics = self.sequence.update_discriminator(
        new_state, self.optimizers, jax.lax.stop_gradient(codes), batch["poses"]
      )
      metrics |= d_metrics
    return new_state, jax.lax.pmean(metrics, AXIS), poses

  @property
  def noise_size(self) -> int | None:
    return self.sequence.mapper.channels if self.sequence else None

  def draw_templates(self, state: TrainState, noise: jax.Array) -> jax.Array:
    if not self.sequence:
      return super().draw_templates(state, noise)
    return self.sequence.draw(state, noise)

  def take_encoder(self, state: TrainState, provider: TrainState) -> TrainState:
    if not self.sequence:
      return state
    vae = provider.network("vae")
    encoder = {part: arrays.get("encoder", {}) for part, arrays in vae.items()}
    return state.replace(
      params=state.params | {sequence.ENCODER: encoder["params"]},
      batch_stats=state.batch_stats | {sequence.ENCODER: encoder["batch_stats"]},
    )

  def sample(
    self, state: TrainState, condition: Condition, num_frames: int, keys: jax.Array
  ) -> jax.Array:
    del keys  # deterministic
    poses = self.generator.apply(
      state.network("generator"),
      condition.mel,
      condition.template,
      num_frames,
      lengths=condition.lengths,
    )
    return cast(jax.Array, poses)

  def advance(
    self, state: TrainState, past: Any, condition: Condition
  ) -> tuple[jax.Array, Any]:
    assert isinstance(self.generator, CausalGenerator)
    poses, updated = self.generator.apply(
      state.network("generator") | {"past": past},
      condition.mel,
      condition.template,
      mutable=["past"],
      method="advance",
    )
    return cast(jax.Array, poses), updated["past"]

  def template_weights(self, state: TrainState) -> np.ndarray | None:
    """Of the layer after the audio encoder; templates are its last inputs."""
    if self.template == "none":
      return None
    params = state.params["generator"]
    causal = self.look_ahead is not None
    layer = params["entry_0"] if causal else params["unet"]["e0"]["conv"]
    kernel = np.asarray(layer["kernel"])[:, -self.clip_template_shape[-1] :]
    return kernel.sum(0).T


def _generator(config: Config) -> Generator | CausalGenerator:
  fields = config.generator
  arguments = {
    "channels": fields.channels,
    "audio_channels": tuple(fields.audio_channels),
    "norm": fields.norm,
    "axis_name": AXIS,
    "dtype": base.activation_dtype(config),
  }
  if fields.causal:
    return CausalGenerator(look_ahead=fields.look_ahead, **arguments)
  return Generator(**arguments)


def _sequence(config: Config) -> SequenceModel:
  channels, size = config.generator.channels, config.template.size
  fields, dtype = config.sequence, base.activation_dtype(config)
  return SequenceModel(
    mapper=CodeMapper(channels, size, axis_name=AXIS, dtype=dtype),
    discriminator=CodeDiscriminator(channels, axis_name=AXIS, dtype=dtype),
    encoder=PoseEncoder(channels, size, dtype=dtype, norm=config.pose_vae.norm),
    smoothness_weight=fields.smoothness_weight,
    kl_weight=fields.kl_weight,
    gan_weight=fields.gan_weight,
  )


def _joints(names: str) -> tuple[int, ...] | None:
  """Indices of the joints and parts in a comma-separated list; None if it is empty."""
  skeleton, chosen = kp.UPPER_BODY, set()
  for name in filter(None, map(str.strip, names.split(","))):
    if name not in skeleton.parts and name not in skeleton.index:
      raise UserError(
        f"config.discriminator.joints: {name!r} is not a joint, nor one of the parts "
        f"{', '.join(skeleton.parts)}"
      )
    chosen |= {skeleton.index[joint] for joint in skeleton.parts.get(name, (name,))}
  return tuple(sorted(chosen)) or None


def _loss(model: Voice2Pose, params, state: TrainState, batch: Batch, noise):
  """Loss, and (metrics, poses, codes, batch statistics) of the forward pass."""
  loss, (metrics, poses, stats) = _generator_loss(model, params, state, batch)
  stats, codes = {"generator": stats}, None
  if model.sequence:
    more, (terms, codes, stats[sequence.MAPPER]) = model.sequence.loss(
      params[sequence.MAPPER], state, noise
    )
    loss, metrics = loss + more, metrics | terms
  return loss, (metrics | {"loss": loss}, poses, codes, stats)


def _generator_loss(model: Voice2Pose, params, state: TrainState, batch: Batch):
  """Loss of the generator, and (terms, poses, batch statistics)."""
  bank = params.get("templates", state.templates())  # differentiable where learnt
  templates = None if bank is None else bank[batch["index"]]
  poses, updated = model.generator.apply(
    {"params": params["generator"], "batch_stats": state.batch_stats["generator"]},
    audio.mel_spectrogram(batch["audio"], model.mel_rate),
    templates,
    num_frames=batch["poses"].shape[1],
    train=True,
    mutable=["batch_stats"],
  )
  regression = model.regression(poses, batch["poses"])
  terms = {model.regression.kind: regression}
  loss = model.regression.weight * regression
  if "teacher" in batch:
    terms["teacher"] = model.regression(poses, batch["teacher"])
    loss += model.teacher_weight * terms["teacher"]
  if templates is not None:
    terms["kl"] = losses.template_kl(
      jax.lax.all_gather(templates, AXIS, axis=0, tiled=True)
    )
    loss += model.kl_weight * terms["kl"]
  if model.discriminator:
    seen = model.seen_by_discriminator(poses)
    terms["gan"] = gan.generator_loss(model.discriminator, "discriminator", state, seen)
    loss += model.gan_weight * terms["gan"]
  return loss, (terms, poses, updated.get("batch_stats", {}))
