"""Runs a method over the clips of a split; every clip counts exactly once."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from sdt_jax import pose
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.evaluation import metrics, registry
from sdt_jax.methods import base
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.synthesis import motion
from sdt_jax.training import parallel, processes

Arrays = dict[str, np.ndarray]


class Evaluator:
  """Generates the motion of clips and scores it, on all devices.

  Args:
    method: what was trained.
    table: the statistics that its poses are normalised with.
    config: of the run; gives the batch size, the seed and the mapping.
  """

  def __init__(self, method: Method, table: pose.PoseTable, config: Config):
    self._batch_size = parallel.round_up(config.batch_size)
    self._seed = config.seed
    self._generate_and_score = parallel.map_clips(
      functools.partial(_generate_and_score, method, table), config.parallel
    )

  @staticmethod
  def metric_names() -> list[str]:
    """Names of what `scores` returns."""
    clip = jax.ShapeDtypeStruct((1, *base.CLIP_SHAPE), "float32")
    return list(jax.eval_shape(_scores, clip, clip, clip, clip))

  def scores(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> Arrays:
    """Metric name -> (N,) of the N clips of the split.

    Args:
      state: the trained state.
      split: the clips.
      templates: (N, D) or (N, T, D), one per clip; None for models without.
    """
    return metrics.collect(self._generated(state, split, templates, want_poses=False))

  def generate(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> np.ndarray:
    """Final poses (N, T, dims, joints) of the whole split; see `scores`."""
    batches = self._generated(state, split, templates, want_poses=True)
    return metrics.collect(batches)["poses_px"]

  def _generated(
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
    """Generated and true final poses (n, T, dims, joints) of the clips in n rows."""
    parts, share = [], pipeline.share(self._batch_size, **processes.share())
    for start in range(0, len(rows), self._batch_size):
      padded = np.resize(rows[start : start + self._batch_size], self._batch_size)
      outputs = self._run(state, split.read(padded[share]), templates)
      parts.append(parallel.fetch((outputs["poses_px"], outputs["truth_px"])))
    poses_px, truth_px = zip(*parts, strict=True)
    return np.concatenate(poses_px)[: len(rows)], np.concatenate(truth_px)[: len(rows)]

  def _run(self, state, batch: Arrays, templates: np.ndarray | None):
    rows = batch["index"]
    seeds = np.full_like(rows, self._seed, dtype=np.uint32)
    batch = batch | {"draw": np.stack([seeds, rows.astype(np.uint32)], axis=1)}
    if templates is not None:
      batch["template"] = templates[rows]
    return self._generate_and_score(state, parallel.split(batch))


def _generate_and_score(
  method: Method,
  table: pose.PoseTable,
  state: TrainState,
  batch: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """Per-device: metrics (b,), and final poses (b, T, dims, joints), of a batch."""
  poses_norm, truth_norm = motion.sample(method, state, batch), batch["poses"]
  poses_px, truth_px = (
    pose.to_final(poses, table) for poses in (poses_norm, truth_norm)
  )
  scores = _scores(poses_px, truth_px, poses_norm, truth_norm)
  return scores | {"poses_px": poses_px, "truth_px": truth_px}


def _scores(*poses: jax.Array) -> dict[str, jax.Array]:
  scores = registry.per_clip(*poses)
  return {"l1": scores.pop("l1_regression"), **scores}
