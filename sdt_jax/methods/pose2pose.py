"""The pose VAE. Its training also records the template of every training clip."""

import dataclasses
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods import base, losses, train_state
from sdt_jax.methods.base import AXIS, Batch, Condition, Metrics
from sdt_jax.methods.train_state import TrainState
from sdt_jax.models.pose_vae import PoseVAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose2Pose(base.Method):
  """Poses -> template -> the same poses; takes no audio.

  Attributes:
    vae: the pose VAE.
    regression: the regression loss.
    kl_weight: weight of the KL term.
  """

  networks: ClassVar[tuple[str, ...]] = ("vae",)
  title: ClassVar[str] = "pose VAE"
  has_encoder: ClassVar[bool] = True

  vae: PoseVAE
  regression: losses.Regression = losses.L1
  kl_weight: float

  @classmethod
  def check(cls, config: Config) -> None:
    channels = config.generator.channels, 2 * config.template.size
    base.check_groups("pose_vae.norm", config.pose_vae.norm, channels)
    if config.teacher and config.experiment == "pose2pose":
      raise UserError(
        f"config.teacher is {config.teacher!r}, but a pose VAE has no teacher; leave "
        "it out"
      )

  @classmethod
  def from_config(cls, config: Config, steps_per_epoch: int) -> "Pose2Pose":
    adam = base.adam(
      config, steps_per_epoch, weight_decay=config.optimizer.weight_decay
    )
    return cls(
      vae=PoseVAE(
        config.generator.channels,
        config.template.size,
        axis_name=AXIS,
        dtype=base.activation_dtype(config),
        norm=config.pose_vae.norm,
      ),
      regression=base.regression(config),
      kl_weight=config.template.kl_weight,
      optimizers={"vae": adam},
    )

  @property
  def inputs(self) -> frozenset[str]:
    return frozenset({"poses"})

  @property
  def template_shape(self) -> tuple[int, ...]:
    return (self.vae.size,)

  def init(self, key: jax.Array, num_clips: int) -> TrainState:
    """The record of templates starts from zeros, one row for each training clip."""
    noise = jnp.zeros((1, self.vae.size))
    poses = jnp.zeros((1, *base.CLIP_SHAPE))
    variables = self.vae.init(key, poses, noise, train=True)
    rows = jnp.zeros((num_clips, self.vae.size))
    return train_state.create(
      {"vae": variables["params"]},
      {"vae": variables.get("batch_stats", {})},
      {"mean": rows, "log_var": rows},
      self.optimizers,
    )

  def train_step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Metrics, jax.Array]:
    noise = jax.random.normal(key, (batch["index"].shape[0], self.vae.size))
    return self.update(state, batch, noise)

  def update(
    self, state: TrainState, batch: Batch, noise: jax.Array
  ) -> tuple[TrainState, Metrics, jax.Array]:
    """`train_step` with given noise (b, D), standard normal."""

    def loss_fn(params):
      (poses, mean, log_var), updated = self.vae.apply(
        {"params": params["vae"], "batch_stats": state.batch_stats["vae"]},
        batch["poses"],
        noise,
        train=True,
        mutable=["batch_stats"],
      )
      regression = self.regression(poses, batch["poses"])
      kl = losses.gaussian_kl(mean, log_var)
      loss = self.regression.weight * regression + self.kl_weight * kl
      metrics = {self.regression.kind: regression, "kl": kl, "loss": loss}
      codes = {"mean": mean, "log_var": log_var}
      return loss, (metrics, codes, poses, updated.get("batch_stats", {}))

    grads, (metrics, codes, poses, stats) = jax.grad(loss_fn, has_aux=True)(
      state.params
    )
    grads = jax.lax.pmean(grads, AXIS)
    metrics["grad_norm"] = optax.tree.norm(grads)
    state = train_state.apply_gradients(state, grads, self.optimizers)
    state = state.replace(
      step=state.step + 1,
      batch_stats={"vae": stats},
      bank=_record(state.bank, batch["index"], codes),
    )
    return state, jax.lax.pmean(metrics, AXIS), poses

  def sample(
    self, state: TrainState, condition: Condition, num_frames: int, keys: jax.Array
  ) -> jax.Array:
    """Reconstructs `condition.poses` from the encoder's mean."""
    del num_frames, keys  # a clip's length; deterministic
    assert condition.poses is not None
    mean, _ = self.encode(state, condition.poses)
    return self.decode(state, mean)

  def encode(self, state: TrainState, poses: jax.Array) -> tuple[jax.Array, jax.Array]:
    codes = self.vae.apply(state.network("vae"), poses, method="encode")
    return cast(tuple[jax.Array, jax.Array], codes)

  def decode(self, state: TrainState, templates: jax.Array) -> jax.Array:
    poses = self.vae.apply(state.network("vae"), templates, method="decode")
    return cast(jax.Array, poses)

  def template_weights(self, state: TrainState) -> np.ndarray:
    """Of the decoder's first layer."""
    kernel = state.params["vae"]["decoder"]["d5"]["conv"]["kernel"]
    return np.asarray(kernel).sum(0).T


def _record(bank, index: jax.Array, codes):
  """Writes the codes of the whole batch, of all devices, into the rows `index`."""
  index, codes = jax.lax.all_gather((index, codes), AXIS, axis=0, tiled=True)
  return {name: rows.at[index].set(codes[name]) for name, rows in bank.items()}
