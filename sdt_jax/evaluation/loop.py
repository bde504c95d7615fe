"""Runs a model over the clips of a split: every clip counts exactly once."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.data import pipeline
from sdt_jax.evaluation import metrics
from sdt_jax.training import parallel, pose2pose, processes, voice2pose
from sdt_jax.training.experiments import Experiment
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.train_state import TrainState

Arrays = dict[str, np.ndarray]


class Evaluator:
  """Predicts clips and scores them, on all devices.

  Args:
    experiment: the model.
    table: the statistics that its poses are normalised with.
    hierarchical: the form of its poses.
    batch_size: clips at a time; a multiple of the number of devices.
    mode: see `parallel.map_clips`.
  """

  def __init__(
    self,
    experiment: Experiment,
    table: pose.PoseTable,
    *,
    hierarchical: bool,
    batch_size: int,
    mode: parallel.Mode = "jit",
  ):
    self._batch_size = batch_size
    self._predict_and_score = parallel.map_clips(
      functools.partial(_predict_and_score, experiment, table, hierarchical), mode
    )

  @staticmethod
  def metric_names() -> list[str]:
    """What `scores` gives."""
    poses = jax.ShapeDtypeStruct((1, audio.CLIP_FRAMES, 2, kp.NUM_KEYPOINTS), "float32")
    return ["l1", *jax.eval_shape(metrics.per_clip, poses, poses)]

  def scores(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> Arrays:
    """Metric name -> (N,) of the N clips of the split.

    Args:
      state: the trained state.
      split: the clips.
      templates: (N, D) or (N, T, D), one for each clip; None for models without.
    """
    return metrics.collect(self._predicted(state, split, templates, want_poses=False))

  def predict(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> np.ndarray:
    """Predicted final poses (N, 64, 2, 121) of the whole split; see `scores`."""
    batches = self._predicted(state, split, templates, want_poses=True)
    return metrics.collect(batches)["poses_px"]

  def _predicted(
    self, state, split, templates, want_poses: bool
  ) -> Iterator[tuple[Arrays, np.ndarray]]:
    """For each batch, of all processes: scores or poses, and the mask."""
    batches = pipeline.eval_batches(
      split, batch_size=self._batch_size, **processes.share()
    )
    for batch in batches:
      mask = parallel.split(batch.pop("mask"))
      outputs = self._run(state, batch, templates)
      if want_poses:
        wanted = {"poses_px": outputs["poses_px"]}
      else:
        wanted = {name: v for name, v in outputs.items() if v.ndim == 1}
      yield parallel.fetch((wanted, mask))

  def poses(
    self,
    state: TrainState,
    split: pipeline.Split,
    rows: Sequence[int],
    templates: np.ndarray | None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true final poses (n, 64, 2, 121) of these n rows."""
    parts, share = [], pipeline.share(self._batch_size, **processes.share())
    for start in range(0, len(rows), self._batch_size):
      padded = np.resize(rows[start : start + self._batch_size], self._batch_size)
      outputs = self._run(state, split.read(padded[share]), templates)
      parts.append(parallel.fetch((outputs["poses_px"], outputs["truth_px"])))
    poses_px, truth_px = zip(*parts, strict=True)
    return np.concatenate(poses_px)[: len(rows)], np.concatenate(truth_px)[: len(rows)]

  def _run(self, state, batch: Arrays, templates: np.ndarray | None):
    if templates is not None:
      batch = batch | {"template": templates[batch["index"]]}
    return self._predict_and_score(state, parallel.split(batch))


def _predict_and_score(
  experiment: Experiment,
  table: pose.PoseTable,
  hierarchical: bool,
  state: TrainState,
  batch: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """Per-device: metrics (b,), and final poses (b, 64, 2, 121), of a batch."""
  truth = batch["poses"]
  if isinstance(experiment, Pose2Pose):
    mean, _ = pose2pose.encode(experiment, state, truth)
    poses = pose2pose.decode(experiment, state, mean)
  else:
    mel = audio.mel_spectrogram(batch["audio"])
    template = batch.get("template")
    poses = voice2pose.predict(experiment, state, mel, template, truth.shape[1])
  poses_px = pose.to_final(poses, table, hierarchical)
  truth_px = pose.to_final(truth, table, hierarchical)
  return metrics.per_clip(poses_px, truth_px) | {
    "l1": metrics.l1_regression(poses, truth),
    "poses_px": poses_px,
    "truth_px": truth_px,
  }


def draw_templates(state: TrainState, num_clips: int, seed: int) -> np.ndarray | None:
  """A random template of the bank for each of `num_clips` clips; None without bank."""
  bank = state.templates()
  if bank is None:
    return None
  rows = np.random.default_rng(seed).integers(len(bank), size=num_clips)
  return np.asarray(bank)[rows]
