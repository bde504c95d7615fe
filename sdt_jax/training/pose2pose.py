"""The training step of the pose VAE, which also records the template of every clip.

Written for one device, inside a map over the axis "data", as `voice2pose` is; of the
same batch it uses `poses` and `index`.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import optax

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.models.pose_vae import PoseVAE
from sdt_jax.training import losses, train_state
from sdt_jax.training.train_state import TrainState
from sdt_jax.training.voice2pose import AXIS, Batch, Metrics


@dataclasses.dataclass(frozen=True)
class Pose2Pose:
  """What a run of this experiment consists of.

  Attributes:
    vae: the pose VAE.
    kl_weight: of the KL term.
    optimizers: for "vae".
    seed: of the reparameterisation noise.
  """

  vae: PoseVAE
  kl_weight: float
  optimizers: dict[str, optax.GradientTransformation]
  seed: int = 0


def init(model: Pose2Pose, key: jax.Array, num_clips: int) -> TrainState:
  """State before the first step, with an empty record of `num_clips` templates."""
  poses = jnp.zeros((1, audio.CLIP_FRAMES, 2, kp.NUM_KEYPOINTS))
  noise = jnp.zeros((1, model.vae.size))
  variables = model.vae.init(key, poses, noise, train=True)
  rows = jnp.zeros((num_clips, model.vae.size))
  return train_state.create(
    {"vae": variables["params"]},
    {"vae": variables["batch_stats"]},
    {"mean": rows, "log_var": rows},
    model.optimizers,
  )


def draw_noise(model: Pose2Pose, state: TrainState, batch: Batch) -> jax.Array:
  """(b, D) standard normal: other numbers at each step and on each device."""
  key = jax.random.fold_in(jax.random.key(model.seed), state.step)
  key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
  return jax.random.normal(key, (batch["index"].shape[0], model.vae.size))


def train_step(
  model: Pose2Pose, state: TrainState, batch: Batch, noise: jax.Array | None = None
) -> tuple[TrainState, Metrics]:
  """One optimisation step; `noise` (b, D) is drawn where it is not given."""
  if noise is None:
    noise = draw_noise(model, state, batch)

  def loss_fn(params):
    (poses, mean, log_var), updated = model.vae.apply(
      {"params": params["vae"], "batch_stats": state.batch_stats["vae"]},
      batch["poses"],
      noise,
      train=True,
      mutable=["batch_stats"],
    )
    terms = {
      "l1": losses.l1(poses, batch["poses"]),
      "kl": losses.gaussian_kl(mean, log_var),
    }
    loss = terms["l1"] + model.kl_weight * terms["kl"]
    codes = {"mean": mean, "log_var": log_var}
    return loss, (terms | {"loss": loss}, codes, updated["batch_stats"])

  grads, (metrics, codes, stats) = jax.grad(loss_fn, has_aux=True)(state.params)
  grads = jax.lax.pmean(grads, AXIS)
  metrics["grad_norm"] = optax.tree.norm(grads)
  state = train_state.apply_gradients(state, grads, model.optimizers)
  state = state.replace(
    step=state.step + 1,
    batch_stats={"vae": stats},
    bank=_record(state.bank, batch["index"], codes),
  )
  return state, jax.lax.pmean(metrics, AXIS)


def _record(bank, index: jax.Array, codes):
  """Writes the codes of the whole batch, of all devices, into the rows `index`."""
  index, codes = jax.lax.all_gather((index, codes), AXIS, axis=0, tiled=True)
  return {name: rows.at[index].set(codes[name]) for name, rows in bank.items()}


def encode(
  model: Pose2Pose, state: TrainState, poses: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and log variance (B, D) of normalised poses, by the running statistics."""
  codes = model.vae.apply(state.network("vae"), poses, method="encode")
  return cast(tuple[jax.Array, jax.Array], codes)


def decode(model: Pose2Pose, state: TrainState, templates: jax.Array) -> jax.Array:
  """Normalised poses (B, 64, 2, 121) of templates (B, D)."""
  poses = model.vae.apply(state.network("vae"), templates, method="decode")
  return cast(jax.Array, poses)
