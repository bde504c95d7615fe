"""Runs a method over the clips of a split; every clip counts exactly once."""

import functools
from collections.abc import Iterator

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
    config: the fields of the run; gives the batch size, the seed and the mapping.
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

    Models with templates need one per clip: (N, D) or (N, T, D).
    """
    return self._collect("scores", state, split, templates, np.arange(len(split)))

  def generate(
    self,
    state: TrainState,
    split: pipeline.Split,
    templates: np.ndarray | None,
    rows: np.ndarray,
  ) -> np.ndarray:
    """Final poses (n, T, dims, joints) of the clips in these rows (n,)."""
    return self._collect("poses", state, split, templates, rows)["poses_px"]

  def _collect(self, wanted: str, state, split, templates, rows) -> Arrays:
    """Scores or poses of these clips, on all processes."""

    def outputs() -> Iterator[tuple[Arrays, np.ndarray]]:
      share = {"batch_size": self._batch_size, **processes.share()}
      for batch in pipeline.eval_batches(split, rows, **share):
        mask, index = batch.pop("mask"), batch["index"]
        batch["draw"] = np.array([(self._seed, i) for i in index], np.uint32)
        if templates is not None:
          batch["template"] = templates[index]
        generated = self._generate_and_score(state, parallel.split(batch))
        yield parallel.fetch((generated[wanted], parallel.split(mask)))

    return metrics.collect(outputs())


def _generate_and_score(
  method: Method, table: pose.PoseTable, state: TrainState, batch: dict[str, jax.Array]
) -> dict[str, dict[str, jax.Array]]:
  """Per-device: metrics (b,), and final poses (b, T, dims, joints), of a batch."""
  poses_norm, truth_norm = motion.sample(method, state, batch), batch["poses"]
  poses_px, truth_px = (
    pose.to_final(poses, table) for poses in (poses_norm, truth_norm)
  )
  scores = _scores(poses_px, truth_px, poses_norm, truth_norm)
  return {"scores": scores, "poses": {"poses_px": poses_px}}


def _scores(*poses: jax.Array) -> dict[str, jax.Array]:
  scores = registry.per_clip(*poses)
  return {"l1": scores.pop("l1_regression"), **scores}
