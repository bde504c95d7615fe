"""The least-squares GAN: what a discriminator scores, and how it is trained."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from sdt_jax.methods import losses, train_state
from sdt_jax.methods.base import AXIS
from sdt_jax.methods.train_state import TrainState


def score(
  network: nn.Module, params: Any, stats: Any, x: jax.Array
) -> tuple[jax.Array, Any]:
  """Scores of `x` with its own batch statistics, and the updated running statistics."""
  variables = {"params": params, "batch_stats": stats}
  scores, updated = network.apply(variables, x, train=True, mutable=["batch_stats"])
  return cast(jax.Array, scores), updated["batch_stats"]


def generator_loss(
  network: nn.Module, name: str, state: TrainState, fake: jax.Array
) -> losses.Scalar:
  """Unweighted loss of what generates `fake`, given the discriminator `name`."""
  scores, _ = score(network, state.params[name], state.batch_stats[name], fake)
  return losses.least_squares(scores, 1.0)


def update_discriminator(
  network: nn.Module,
  name: str,
  state: TrainState,
  optimizers: dict[str, optax.GradientTransformation],
  fake: jax.Array,
  real: jax.Array,
  weight: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Trains the discriminator `name` to score `real` 1 and `fake` 0.

  Its running statistics record the passes of the original: real, fake for the
  generator, fake for the discriminator.
  """

  def loss_fn(params):
    score_real, stats = score(network, params, state.batch_stats[name], real)
    score_fake, stats = score(network, params, stats, fake)
    _, stats = score(network, params, stats, fake)  # the same numbers
    d_gan = losses.least_squares(score_real, 1.0) + losses.least_squares(
      score_fake, 0.0
    )
    metrics = {
      "d_gan": d_gan,
      "score_fake": jnp.mean(score_fake),
      "score_real": jnp.mean(score_real),
    }
    return weight * d_gan, (metrics, stats)

  grads, (metrics, stats) = jax.grad(loss_fn, has_aux=True)(state.params[name])
  grads = jax.lax.pmean(grads, AXIS)
  metrics["d_grad_norm"] = optax.tree.norm(grads)
  state = train_state.apply_gradients(state, {name: grads}, optimizers)
  return state.replace(batch_stats=state.batch_stats | {name: stats}), metrics
