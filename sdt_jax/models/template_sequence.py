"""The density of the next template, given the templates before and the speech.

Conventions: one sequence, without a batch axis. Templates are whitened, so that the
bank has mean 0 and covariance 1. The density is a mixture of Gaussians with diagonal
covariances: one for each candidate, a template of the bank, and one that is free, for
example close to the previous template. The network gives the weights.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

_SLOPE = 0.2
_SMALL = nn.initializers.variance_scaling(0.1, "fan_in", "normal")


class Context(NamedTuple):
  """What precedes a template.

  Attributes:
    previous: (K, D) templates of the blocks before, the last one first.
    has_previous: (K,) bool; False before the start of the recording.
    sounds: (2, T, F) features of the sound of the block before, and of the coming one.
    has_sound: (2,) bool; False if it is not known.
  """

  previous: jax.Array
  has_previous: jax.Array
  sounds: jax.Array
  has_sound: jax.Array


class Mixture(NamedTuple):
  """A density over templates (D,).

  Attributes:
    log_weights: (1 + C,) of the free Gaussian, and of the candidates.
    mean, log_sd: (D,) of the free Gaussian.
    kernel_log_sd: (D,) of each candidate's Gaussian.
  """

  log_weights: jax.Array
  mean: jax.Array
  log_sd: jax.Array
  kernel_log_sd: jax.Array

  def log_density(self, template: jax.Array, candidates: jax.Array) -> jax.Array:
    """() of a template (D,); the candidates are (C, D)."""
    free = gaussians(template, self.mean[None], self.log_sd)
    near = gaussians(template, candidates, self.kernel_log_sd)
    return jax.nn.logsumexp(self.log_weights + jnp.concatenate([free, near]))


def gaussians(template: jax.Array, means: jax.Array, log_sd: jax.Array) -> jax.Array:
  """Log densities (C,) of a template (D,) under Gaussians with means (C, D)."""
  z, centres = template * jnp.exp(-log_sd), means * jnp.exp(-log_sd)
  # A product of matrices, unlike the square of the differences.
  square = z @ z - 2 * centres @ z + jnp.sum(jnp.square(centres), axis=-1)
  return -0.5 * square - jnp.sum(log_sd) - 0.5 * len(z) * math.log(2 * math.pi)


class TemplateSequence(nn.Module):
  """A context and C candidates -> a mixture with 1 + C components.

  Attributes:
    width: number of units in each layer.
    dropout: share of the units that a training step leaves out.
  """

  width: int = 64
  dropout: float = 0.3

  @nn.compact
  def __call__(
    self, context: Context, candidates: jax.Array, allowed: jax.Array, train: bool
  ) -> Mixture:
    """Candidates (C, D) have weight only where `allowed` (C,) is True."""
    size = candidates.shape[-1]
    drop = nn.Dropout(self.dropout, deterministic=not train)
    h = self._summary(context, drop)
    latest = jnp.where(context.has_previous[0], context.previous[0], 0)
    gate, shift, log_sd = jnp.split(
      nn.Dense(3 * size, kernel_init=_SMALL, name="free")(h), 3
    )
    query = nn.Dense(self.width // 4, kernel_init=_SMALL, name="query")(h)
    keys = nn.leaky_relu(nn.Dense(self.width, name="key_hidden")(candidates), _SLOPE)
    keys = nn.Dense(self.width // 4, use_bias=False, name="key")(keys)
    fits = keys @ query / math.sqrt(self.width // 4)
    among = jax.nn.log_softmax(jnp.where(allowed, fits, -1e9))
    free_or_bank = jax.nn.log_softmax(nn.Dense(2, name="free_or_bank")(h))
    kernel = self.param("kernel_log_sd", nn.initializers.constant(-0.5), (size,))
    return Mixture(
      jnp.concatenate([free_or_bank[:1], free_or_bank[1] + among]),
      jnp.tanh(gate) * latest + shift,
      jnp.clip(log_sd, -3, 2),
      kernel,
    )

  def _summary(self, context: Context, drop: nn.Dropout) -> jax.Array:
    """(width,) of the context."""
    known = context.has_sound[:, None, None]
    x = jnp.where(known, context.sounds, 0)
    x = jnp.concatenate([x, jnp.broadcast_to(known, (*x.shape[:2], 1))], axis=-1)
    x = x.reshape(-1, x.shape[-1])  # the two sounds follow one another
    for i in range(2):
      x = nn.Conv(24, (5,), strides=(2,), name=f"sound{i}")(x)
      x = nn.leaky_relu(x, _SLOPE)
    x = nn.Dense(self.width, name="sound")(drop(x.reshape(-1)))
    mask = context.has_previous[:, None]
    y = jnp.concatenate([jnp.where(mask, context.previous, 0), mask], axis=-1)
    y = nn.Dense(self.width, name="previous")(drop(y.reshape(-1)))
    h = drop(nn.leaky_relu(x + y, _SLOPE))
    return drop(nn.leaky_relu(nn.Dense(self.width, name="hidden")(h), _SLOPE))
