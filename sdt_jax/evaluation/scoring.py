"""Scores motions of the clips of a split, whoever made them."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from sdt_jax import pose
from sdt_jax.evaluation import frechet, metrics
from sdt_jax.evaluation.metrics import Estimate
from sdt_jax.training import pose2pose
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.runs import Run

Scores = dict[str, Estimate]

_CHUNK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
  """The clips that motions are scored against.

  Attributes:
    truth_px: (N, T, 2, 121) final poses.
    audio: (N, samples) 16 kHz.
    mean_change: (4,) `metrics.mean_angle_change` of training clips.
    table: statistics of the poses in the form of the model.
    hierarchical: that form.
  """

  truth_px: np.ndarray
  audio: np.ndarray
  mean_change: np.ndarray
  table: pose.PoseTable
  hierarchical: bool


class Scorer:
  """Scores motions of these clips.

  Args:
    clips: what to score against.
    pose_vae: run of the pose VAE whose features FTD compares; without it FTD is left
      out.
  """

  def __init__(self, clips: Clips, pose_vae: Run | None = None):
    self._clips = clips
    self._onsets = [metrics.audio_onsets(audio) for audio in clips.audio]
    self._per_clip = jax.jit(metrics.per_clip)
    self._counts = jax.jit(metrics.hand_speed_histogram)
    self._true_counts = in_chunks(self._counts, clips.truth_px)
    self._encode = None
    if pose_vae is not None:
      self._encode = encoder(pose_vae, clips.table.scale_factor)
      self._true_features = self._encode(clips.truth_px)

  def values(self, poses_px: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that every clip has for itself: name -> (N,)."""
    truth_px = self._clips.truth_px
    values = in_chunks(self._per_clip, poses_px, truth_px)
    norm = [self._normalized(p) for p in (poses_px, truth_px)]
    return values | {"l1_regression": in_chunks(metrics.l1_regression, *norm)}

  def score(self, poses_px: np.ndarray) -> Scores:
    """Every metric of (N, T, 2, 121) final poses, with its interval over clips."""
    beats, weights = metrics.bc_ha2g(poses_px, self._onsets, self._clips.mean_change)
    scores = metrics.summarize(
      self.values(poses_px) | {"bc_ha2g": beats}, {"bc_ha2g": weights}
    )
    counts = in_chunks(self._counts, poses_px)
    scores["hellinger_speed"] = metrics.hellinger_speed(counts, self._true_counts)
    if self._encode is not None:
      (mean, log_var), true = self._encode(poses_px), self._true_features
      scores["ftd"] = frechet.ftd(mean, true[0])
      scores["ftd_mu_logvar"] = frechet.ftd_mu_logvar(mean, log_var, *true)
    return scores

  def _normalized(self, poses_px: np.ndarray) -> np.ndarray:
    """Final poses, back in the form that the model was trained on."""
    table = self._clips.table
    poses = pose.to_form(poses_px / table.scale_factor, self._clips.hierarchical)
    return pose.normalize(poses, table)


def encoder(
  pose_vae: Run, scale_factor: float
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Function of final poses (N, 64, 2, 121): the VAE's mean and log variance (N, D).

  Args:
    pose_vae: run of a pose VAE, of the same speaker.
    scale_factor: that the final poses were multiplied by. They may come from a model
      of global poses: only here they get the form and the statistics of the VAE.
  """
  experiment, state = pose_vae.experiment, pose_vae.state
  assert isinstance(experiment, Pose2Pose)
  hierarchical = pose_vae.config.pose.hierarchical
  table = pose_vae.speaker.table(hierarchical)

  @jax.jit
  def encode(poses_px):
    poses = pose.to_form(poses_px / scale_factor, hierarchical)
    return pose2pose.encode(experiment, state, pose.normalize(poses, table))

  return lambda poses_px: in_chunks(encode, poses_px)


def in_chunks(function: Callable, *arrays: np.ndarray):
  """`function` of chunks of one size, its outputs put together along the first axis."""
  length = len(arrays[0])
  outputs = []
  for start in range(0, length, _CHUNK):
    rows = np.minimum(np.arange(start, start + _CHUNK), length - 1)
    outputs.append(jax.device_get(function(*(a[rows] for a in arrays))))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:length], *outputs)
