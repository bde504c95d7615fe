"""The training step of the gesture generator: S2G, SDT-BP, SDT-VAE.

Written for one device, inside a map over the axis "data": a batch here is this
device's share; gradients, losses and batch statistics are means over all devices.

A batch is a dict of `audio` (b, 68266) 16 kHz, `poses` (b, 64, 2, 121) normalised, and
`index` (b,), the row of each clip among the training clips.
"""

import dataclasses
from typing import Literal, cast

import jax
import jax.numpy as jnp
import optax

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.training import losses, train_state
from sdt_jax.training.train_state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Voice2Pose:
  """What a run of this experiment consists of.

  Attributes:
    generator: the gesture generator.
    discriminator: of motion, or None for no GAN.
    template: where templates come from: "bp" learnt, "vae" fixed bank, "none".
    template_shape: (D,), or (T, D) for templates that change from frame to frame.
    kl_weight: of the template KL term.
    gan_weight: of the GAN terms of generator and discriminator.
    optimizers: for "generator", and "templates" and "discriminator" where there are.
  """

  generator: Generator
  discriminator: MotionDiscriminator | None
  template: Literal["bp", "vae", "none"]
  template_shape: tuple[int, ...]
  kl_weight: float
  gan_weight: float
  optimizers: dict[str, optax.GradientTransformation]


def init(model: Voice2Pose, key: jax.Array, num_clips: int) -> TrainState:
  """State before the first step; templates (`num_clips` rows) start from zeros."""
  mel_frames = audio.num_mel_frames(audio.num_samples(audio.CLIP_FRAMES))
  mel = jnp.zeros((1, audio.NUM_MELS, mel_frames))
  has_template = model.template != "none"
  template = jnp.zeros((1, *model.template_shape)) if has_template else None
  keys = jax.random.split(key)
  networks = {
    "generator": model.generator.init(keys[0], mel, template, audio.CLIP_FRAMES)
  }
  if model.discriminator:
    motion = jnp.zeros((1, audio.CLIP_FRAMES - 1, 2, kp.NUM_KEYPOINTS))
    networks["discriminator"] = model.discriminator.init(keys[1], motion, train=True)
  params = {name: variables["params"] for name, variables in networks.items()}
  stats = {name: v.get("batch_stats", {}) for name, v in networks.items()}
  rows = jnp.zeros((num_clips, *model.template_shape))
  if model.template == "bp":
    params["templates"] = rows
  bank = {"mean": rows} if model.template == "vae" else {}
  return train_state.create(params, stats, bank, model.optimizers)


def train_step(
  model: Voice2Pose, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
  """One optimisation step.

  In this order: one forward pass of the generator; generator and templates are updated;
  then the discriminator, from the poses of that same forward pass.
  """
  mel = audio.mel_spectrogram(batch["audio"])
  trained = {k: v for k, v in state.params.items() if k != "discriminator"}

  def loss_fn(params):
    templates = _templates_of_batch(params, state, batch["index"])
    poses, updated = model.generator.apply(
      {"params": params["generator"], "batch_stats": state.batch_stats["generator"]},
      mel,
      templates,
      num_frames=batch["poses"].shape[1],
      train=True,
      mutable=["batch_stats"],
    )
    terms = {"l1": losses.l1(poses, batch["poses"])}
    loss = terms["l1"]
    if templates is not None:
      terms["kl"] = losses.template_kl(
        jax.lax.all_gather(templates, AXIS, axis=0, tiled=True)
      )
      loss += model.kl_weight * terms["kl"]
    if model.discriminator:
      score, _ = _discriminate(model, state, state.params["discriminator"], poses)
      terms["gan"] = losses.least_squares(score, 1.0)
      loss += model.gan_weight * terms["gan"]
    return loss, (terms | {"loss": loss}, poses, updated.get("batch_stats", {}))

  grads, (metrics, poses, stats) = jax.grad(loss_fn, has_aux=True)(trained)
  grads = jax.lax.pmean(grads, AXIS)
  metrics["grad_norm"] = optax.tree.norm(grads)
  new_state = train_state.apply_gradients(state, grads, model.optimizers)
  new_state = new_state.replace(
    step=state.step + 1, batch_stats=state.batch_stats | {"generator": stats}
  )
  if model.discriminator:
    new_state, d_metrics = _update_discriminator(
      model, new_state, jax.lax.stop_gradient(poses), batch["poses"]
    )
    metrics |= d_metrics
  return new_state, jax.lax.pmean(metrics, AXIS)


def _templates_of_batch(params, state: TrainState, index: jax.Array):
  """(b, D) or (b, T, D) templates of the batch, differentiable where learnt."""
  templates = params.get("templates", state.bank.get("mean"))
  return None if templates is None else templates[index]


def _discriminate(model: Voice2Pose, state: TrainState, params, poses: jax.Array):
  """Scores (b, 15) of the motion of `poses`, and updated batch statistics."""
  variables = {"params": params, "batch_stats": state.batch_stats["discriminator"]}
  assert model.discriminator is not None
  score, updated = model.discriminator.apply(
    variables, jnp.diff(poses, axis=1), train=True, mutable=["batch_stats"]
  )
  return score, updated["batch_stats"]


def _update_discriminator(
  model: Voice2Pose, state: TrainState, fake: jax.Array, real: jax.Array
) -> tuple[TrainState, Metrics]:
  """Teaches the discriminator to score `real` 1 and `fake` 0."""

  def loss_fn(params):
    score_fake, stats = _discriminate(model, state, params, fake)
    seen_fake = state.replace(batch_stats=state.batch_stats | {"discriminator": stats})
    score_real, stats = _discriminate(model, seen_fake, params, real)
    d_gan = losses.least_squares(score_real, 1.0) + losses.least_squares(
      score_fake, 0.0
    )
    metrics = {
      "d_gan": d_gan,
      "score_fake": jnp.mean(score_fake),
      "score_real": jnp.mean(score_real),
    }
    return model.gan_weight * d_gan, (metrics, stats)

  grads, (metrics, stats) = jax.grad(loss_fn, has_aux=True)(
    state.params["discriminator"]
  )
  grads = jax.lax.pmean(grads, AXIS)
  metrics["d_grad_norm"] = optax.tree.norm(grads)
  state = train_state.apply_gradients(state, {"discriminator": grads}, model.optimizers)
  stats = state.batch_stats | {"discriminator": stats}
  return state.replace(batch_stats=stats), metrics


def predict(
  model: Voice2Pose,
  state: TrainState,
  mel: jax.Array,
  templates: jax.Array | None,
  num_frames: int,
  lengths: jax.Array | None = None,
) -> jax.Array:
  """(B, T, 2, 121) normalised poses, by the running statistics; see `Generator`."""
  poses = model.generator.apply(
    state.network("generator"), mel, templates, num_frames, lengths=lengths
  )
  return cast(jax.Array, poses)
