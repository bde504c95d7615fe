"""Scores motions of the clips of a split, from a model or a reference."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sdt_jax import pose
from sdt_jax.evaluation import metrics, registry
from sdt_jax.evaluation.metrics import Estimate
from sdt_jax.evaluation.registry import Motion, Sounds
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training.runs import Run

Scores = dict[str, Estimate]

_CHUNK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
  """The clips that motions are scored against.

  Attributes:
    truth_px: (N, T, dims, joints) final poses.
    sounds: their onsets, for the beat metrics.
    table: statistics of the poses in the form of the model.
  """

  truth_px: np.ndarray
  sounds: Sounds
  table: pose.PoseTable


class Scored(NamedTuple):
  """Scores of S renderings of N clips.

  Attributes:
    scores: every metric over all renderings, with its interval over clips.
    values: the metrics that are defined for a single clip: name -> (S, N).
    motion: the renderings.
  """

  scores: Scores
  values: dict[str, np.ndarray]
  motion: Motion


class Scorer:
  """Scores motions of these clips.

  Args:
    clips: what to score against.
    pose_vae: run of the pose VAE whose features FTD compares; None leaves FTD out.

  Attributes:
    truth: the true motion.
  """

  def __init__(self, clips: Clips, pose_vae: Run | None = None):
    self._clips = clips
    self._encode = None
    if pose_vae is not None:
      self._encode = encoder(pose_vae, clips.table.scale_factor)
    self._per_clip = jax.jit(registry.per_clip)
    self._speeds = jax.jit(metrics.hand_speed_histogram)
    self.truth = self._motion([clips.truth_px])

  def score(self, renderings: Sequence[np.ndarray]) -> Scored:
    """Scores renderings of the clips, each (N, T, dims, joints) final poses.

    The renderings of a clip stay together when clips are resampled for the intervals.
    """
    by_rendering = [self._values(poses_px) for poses_px in renderings]
    values = {
      name: np.stack([v[name] for v in by_rendering]) for name in by_rendering[0]
    }
    motion = self._motion(renderings)
    scores = metrics.summarize({name: value.mean(0) for name, value in values.items()})
    scores |= registry.over_clips(motion, self.truth, self._clips.sounds)
    return Scored(scores, values, motion)

  def _values(self, poses_px: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that are defined for a single clip: name -> (N,)."""
    pair = (poses_px, self._clips.truth_px)
    norm = [pose.from_final(poses, self._clips.table) for poses in pair]
    return in_chunks(self._per_clip, *pair, *norm)

  def _motion(self, renderings: Sequence[np.ndarray]) -> Motion:
    speeds = np.stack([in_chunks(self._speeds, poses_px) for poses_px in renderings])
    if self._encode is None:
      return Motion(renderings, speeds, None)
    mean, log_var = zip(*map(self._encode, renderings), strict=True)
    return Motion(renderings, speeds, (np.stack(mean), np.stack(log_var)))


def encoder(
  pose_vae: Run, scale_factor: float
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Function from final poses (N, T, dims, joints) to mean and log variance (N, D).

  Args:
    pose_vae: run of a pose VAE, of the same speaker.
    scale_factor: the factor that the final poses were multiplied by. They may come from
      a model of global poses: they are converted here to the form and the statistics
      of the VAE.
  """
  encode = jax.jit(
    lambda poses_px: encode_final(pose_vae, pose_vae.state, poses_px, scale_factor)
  )
  return lambda poses_px: in_chunks(encode, poses_px)


def encode_final(
  pose_vae: Run, state: TrainState, poses_px: jax.Array, scale_factor: float
) -> tuple[jax.Array, jax.Array]:
  """Means and log variances (b, D) of final poses (b, T, dims, joints); see `encoder`.

  `state` is that of the pose VAE, perhaps on other devices.
  """
  poses_norm = pose.from_global(poses_px / scale_factor, pose_vae.table)
  return pose_vae.method.encode(state, poses_norm)


def in_chunks(function: Callable, *arrays: np.ndarray):
  """Applies `function` to chunks of one size and concatenates its outputs."""
  length = len(arrays[0])
  outputs = []
  for start in range(0, length, _CHUNK):
    rows = np.minimum(np.arange(start, start + _CHUNK), length - 1)
    outputs.append(jax.device_get(function(*(a[rows] for a in arrays))))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:length], *outputs)
