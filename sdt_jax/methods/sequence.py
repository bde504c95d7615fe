"""The authors' sequence model, trained beside SDT-VAE (paper, section 4.4)."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from sdt_jax.methods import gan, losses
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.train_state import TrainState, Variables
from sdt_jax.models.code_mapper import CodeDiscriminator, CodeMapper
from sdt_jax.models.pose_vae import PoseEncoder

MAPPER, DISCRIMINATOR, ENCODER = NETWORKS = (
  "code_mapper",
  "code_discriminator",
  "pose_encoder",
)
"""Entries of `TrainState.params`; the pose encoder is not trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceModel:
  """Noise -> templates of successive frames.

  Attributes:
    mapper: generates the templates.
    discriminator: tells templates of frames from those of real clips.
    encoder: that of the pose VAE, which gives the templates of real clips.
    smoothness_weight: weight of the difference of neighbouring frames.
    kl_weight: weight of the KL term of the templates of all frames.
    gan_weight: weight of the GAN terms of mapper and discriminator.
  """

  mapper: CodeMapper
  discriminator: CodeDiscriminator
  encoder: PoseEncoder
  smoothness_weight: float = 1.0
  kl_weight: float = 1.0
  gan_weight: float = 1.0

  def init(self, key: jax.Array, poses: jax.Array) -> dict[str, Variables]:
    """Variables of each network; `poses` (1, T, dims, joints) has the shape."""
    keys = jax.random.split(key, 3)
    noise = jnp.zeros((1, poses.shape[1], self.mapper.channels))
    codes = jnp.zeros((1, self.mapper.size))
    return {
      MAPPER: cast(Variables, self.mapper.init(keys[0], noise, train=True)),
      DISCRIMINATOR: cast(
        Variables, self.discriminator.init(keys[1], codes, train=True)
      ),
      ENCODER: cast(Variables, self.encoder.init(keys[2], poses, train=True)),
    }

  def loss(
    self, params: Any, state: TrainState, noise: jax.Array
  ) -> tuple[losses.Scalar, tuple[dict[str, losses.Array], jax.Array, Any]]:
    """Loss of the mapper, and (metrics, templates (b, T, D), batch statistics).

    Args:
      params: of the mapper.
      state: before the step.
      noise: (b, T, channels), standard normal.
    """
    variables = {"params": params, "batch_stats": state.batch_stats[MAPPER]}
    codes, updated = self.mapper.apply(
      variables, noise, train=True, mutable=["batch_stats"]
    )
    codes = cast(jax.Array, codes)
    smoothness = losses.frame_distance(codes)
    kl = losses.template_kl(jax.lax.all_gather(codes, AXIS, axis=0, tiled=True))
    g_gan = gan.generator_loss(self.discriminator, DISCRIMINATOR, state, _rows(codes))
    terms = {
      "code_smoothness": smoothness,
      "code_kl": kl,
      "code_gan": g_gan,
      "code_std": jnp.mean(jnp.std(codes, axis=1, ddof=1)),
    }
    loss = (
      self.smoothness_weight * smoothness
      + self.kl_weight * kl
      + self.gan_weight * g_gan
    )
    return loss, (terms, codes, updated["batch_stats"])

  def update_discriminator(
    self,
    state: TrainState,
    optimizers: dict[str, optax.GradientTransformation],
    codes: jax.Array,
    poses: jax.Array,
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains the discriminator with generated templates and those of true poses."""
    real, _ = self.encoder.apply(state.network(ENCODER), poses, train=False)
    state, metrics = gan.update_discriminator(
      self.discriminator,
      DISCRIMINATOR,
      state,
      optimizers,
      fake=_rows(codes),
      real=cast(jax.Array, real),
      weight=self.gan_weight,
    )
    return state, {f"code_{name}": value for name, value in metrics.items()}

  def draw(self, state: TrainState, noise: jax.Array) -> jax.Array:
    """Templates (B, T, D) from noise, with the running statistics."""
    codes = self.mapper.apply(state.network(MAPPER), noise, train=False)
    return cast(jax.Array, codes)


def _rows(codes: jax.Array) -> jax.Array:
  """Templates (b, T, D) as rows (b * T, D)."""
  return codes.reshape(-1, codes.shape[-1])
