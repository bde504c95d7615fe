"""Loss terms, unweighted: a training step multiplies them by their weights.

Each is a mean over the clips of this device, and the step averages over devices. The
exception is `template_kl`, which needs the templates of the whole batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from sdt_jax import keypoints as kp

Array = jax.Array | np.ndarray
Scalar = Float[Array, ""]
Poses = Float[Array, "batch frames dims joints"]
Codes = Float[Array, "batch size"]


def l1(poses_norm: Poses, truth_norm: Poses) -> Scalar:
  """Mean absolute error of normalised poses."""
  return jnp.mean(jnp.abs(poses_norm - truth_norm))


def smooth_l1(poses_norm: Poses, truth_norm: Poses) -> Scalar:
  """Mean Huber loss with delta 1 of normalised poses (PyTorch's SmoothL1Loss)."""
  return jnp.mean(optax.huber_loss(poses_norm, truth_norm))


def mse(poses_norm: Poses, truth_norm: Poses) -> Scalar:
  """Mean squared error of normalised poses."""
  return jnp.mean(jnp.square(poses_norm - truth_norm))


REGRESSION = {"l1": l1, "smooth_l1": smooth_l1, "mse": mse}
"""The regression losses by name."""


class Regression(NamedTuple):
  """The regression loss that a config describes; fields as in its section `loss`."""

  kind: str = "l1"
  weight: float = 1.0
  lips_only: bool = False

  def __call__(self, poses_norm: jax.Array, truth_norm: jax.Array) -> Scalar:
    """The unweighted loss of poses (batch, frames, dims, joints)."""
    if self.lips_only:
      poses_norm, truth_norm = lips_only(poses_norm), lips_only(truth_norm)
    return REGRESSION[self.kind](poses_norm, truth_norm)


L1 = Regression()
"""The default: that of the paper."""


def lips_only(poses: jax.Array) -> jax.Array:
  """Poses (..., joints) whose joints other than the lips are 0, without gradient."""
  lips = {*kp.FACE_CHAINS["outer_lip"], *kp.FACE_CHAINS["inner_lip"]}
  is_lip = np.array([name in lips for name in kp.UPPER_BODY.names])
  return jnp.where(is_lip, poses, 0)


def template_kl(templates: Float[Array, "batch *frames size"]) -> Scalar:
  """KL divergence from N(0, I) of a batch of templates (paper, eq. 4).

  Fits a Gaussian with unbiased variance to each dimension and returns the mean over
  dimensions of 0.5 (-log var + mean^2 + var - 1). Zero, with zero gradient, while any
  variance is exactly zero: learnt templates all start from zeros.

  Args:
    templates: (B, D) of the whole batch, or (B, T, D), whose frames count as samples.
  """
  templates = templates.reshape(-1, templates.shape[-1])
  mean = jnp.mean(templates, axis=0)
  var = jnp.var(templates, axis=0, ddof=1)
  degenerate = jnp.any(var == 0)
  # The inner `where` keeps log(0) out of the gradient, too.
  safe_var = jnp.where(degenerate, 1.0, var)
  kl = 0.5 * jnp.mean(-jnp.log(safe_var) + jnp.square(mean) + safe_var - 1)
  return jnp.where(degenerate, 0.0, kl)


def frame_distance(templates: Float[Array, "batch frames size"]) -> Scalar:
  """Mean Euclidean distance of the templates of neighbouring frames.

  The gradient of equal neighbours is zero.
  """
  return jnp.mean(optax.safe_norm(jnp.diff(templates, axis=1), 0.0, axis=-1))


def gaussian_kl(mean: Codes, log_var: Codes) -> Scalar:
  """KL of N(mean, exp(log_var)) from N(0, I), mean over batch and dimensions."""
  return 0.5 * jnp.mean(jnp.exp(log_var) + jnp.square(mean) - 1 - log_var)


def least_squares(score: Float[Array, "*scores"], target: float) -> Scalar:
  """Least-squares GAN loss: mean of (score - target)^2."""
  return jnp.mean(jnp.square(score - target))
