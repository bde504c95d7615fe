"""Runs a method over the clips of a split; every clip counts exactly once."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import pose
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.evaluation import frechet, metrics, registry, scoring
from sdt_jax.methods import base
from sdt_jax.methods.base import Batch, Method, Metrics
from sdt_jax.methods.train_state import TrainState
from sdt_jax.synthesis import motion
from sdt_jax.training import parallel, processes
from sdt_jax.training.runs import Run

Arrays = dict[str, np.ndarray]


class Evaluator:
  """Generates the motion of clips and scores it, on all devices.

  Args:
    method: what was trained.
    table: the statistics that its poses are normalised with.
    config: the fields of the run; gives the batch size, the seed and the mapping.
    pose_vae: run of the pose VAE whose features FTD compares; None leaves FTD out.
  """

  def __init__(
    self,
    method: Method,
    table: pose.PoseTable,
    config: Config,
    pose_vae: Run | None = None,
  ):
    self._table, self._pose_vae = table, pose_vae
    self._batch_size = parallel.round_up(config.batch_size)
    self._seed = config.seed
    self._generate_and_score = parallel.map_clips(
      functools.partial(_generate_and_score, method, table, pose_vae), config.parallel
    )
    self._encode_truth = parallel.map_clips(
      functools.partial(_encode_truth, table, pose_vae), config.parallel
    )
    self._codes: dict[pipeline.Split, np.ndarray] = {}

  @staticmethod
  def metric_names(has_pose_vae: bool) -> list[str]:
    """Names of what `scores` returns."""
    clip = jax.ShapeDtypeStruct((1, *base.CLIP_SHAPE), "float32")
    names = list(jax.eval_shape(_scores, clip, clip, clip, clip))
    return [*names, "ftd", "ftd_mu_logvar"] if has_pose_vae else names

  def scores(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> dict[str, float]:
    """Each metric of the N clips of a split; FTD if there is a pose VAE, and N > 1.

    Models with templates need one per clip: (N, D) or (N, T, D).
    """
    collected = self._run_model("scores", state, split, templates, _all_rows(split))
    codes = collected.pop("codes", None)
    scores = {name: float(np.mean(values)) for name, values in collected.items()}
    if codes is not None and len(split) > 1:
      truth = self._true_codes(split)
      scores["ftd"] = frechet.distance_of_clips(codes[:, 0], truth[:, 0])
      scores["ftd_mu_logvar"] = frechet.distance_of_clips(
        codes.reshape(len(codes), -1), truth.reshape(len(truth), -1)
      )
    return scores

  def generate(
    self,
    state: TrainState,
    split: pipeline.Split,
    templates: np.ndarray | None,
    rows: np.ndarray,
  ) -> np.ndarray:
    """Final poses (n, T, dims, joints) of the clips in these rows (n,)."""
    return self._run_model("poses", state, split, templates, rows)["poses_px"]

  def encode(self, split: pipeline.Split) -> np.ndarray:
    """The pose VAE's means (N, D) of the true clips of a split."""
    return self._true_codes(split)[:, 0]

  def batch_scores(self, poses_norm: jax.Array, truth_norm: jax.Array) -> Metrics:
    """L2 and lip-sync error of a training batch (b, T, dims, joints), traceable."""
    pair = [pose.to_final(poses, self._table) for poses in (poses_norm, truth_norm)]
    scores = {"l2": metrics.l2(*pair), "lip_sync": metrics.lip_sync(*pair)}
    return {name: jnp.mean(values) for name, values in scores.items()}

  def _run_model(self, wanted: str, state, split, templates, rows) -> Arrays:
    """Scores or poses of these clips, on all processes."""
    states = (state, self._pose_vae and self._pose_vae.state)

    def generate_and_score(batch: Arrays):
      batch["draw"] = np.array([(self._seed, i) for i in batch["index"]], np.uint32)
      if templates is not None:
        batch["template"] = templates[batch["index"]]
      return self._generate_and_score(states, parallel.split(batch))[wanted]

    return self._collect(generate_and_score, split, rows)

  def _true_codes(self, split: pipeline.Split) -> np.ndarray:
    """The pose VAE's means and log variances (N, 2, D) of the true clips."""
    if split not in self._codes:
      assert self._pose_vae is not None
      vae_state = self._pose_vae.state

      def encode(batch: Arrays):
        return self._encode_truth(vae_state, parallel.split({"poses": batch["poses"]}))

      self._codes[split] = self._collect(encode, split, _all_rows(split))["codes"]
    return self._codes[split]

  def _collect(
    self, function: Callable[[Arrays], Metrics], split: pipeline.Split, rows: np.ndarray
  ) -> Arrays:
    """Joins what `function` returns for the batches of these clips."""

    def outputs() -> Iterator[tuple[Arrays, np.ndarray]]:
      share = {"batch_size": self._batch_size, **processes.share()}
      for batch in pipeline.eval_batches(split, rows, **share):
        mask = batch.pop("mask")
        yield parallel.fetch((function(batch), parallel.split(mask)))

    return metrics.collect(outputs())


def _all_rows(split: pipeline.Split) -> np.ndarray:
  return np.arange(len(split))


def _generate_and_score(
  method: Method,
  table: pose.PoseTable,
  pose_vae: Run | None,
  states: tuple[TrainState, TrainState | None],
  batch: Batch,
) -> dict[str, dict[str, jax.Array]]:
  """Per-device: metrics (b,), and final poses (b, T, dims, joints), of a batch."""
  state, vae_state = states
  poses_norm, truth_norm = motion.sample(method, state, batch), batch["poses"]
  poses_px, truth_px = (
    pose.to_final(poses, table) for poses in (poses_norm, truth_norm)
  )
  scores = _scores(poses_px, truth_px, poses_norm, truth_norm)
  if pose_vae and vae_state:
    codes = scoring.encode_final(pose_vae, vae_state, poses_px, table.scale_factor)
    scores["codes"] = jnp.stack(codes, axis=1)
  return {"scores": scores, "poses": {"poses_px": poses_px}}


def _scores(*poses: jax.Array) -> dict[str, jax.Array]:
  scores = registry.per_clip(*poses)
  return {"l1": scores.pop("l1_regression"), **scores}


def _encode_truth(
  table: pose.PoseTable, pose_vae: Run | None, vae_state: TrainState, batch: Batch
) -> dict[str, jax.Array]:
  """Per-device: the codes (b, 2, D) of the true poses of a batch."""
  assert pose_vae is not None
  truth_px = pose.to_final(batch["poses"], table)
  codes = scoring.encode_final(pose_vae, vae_state, truth_px, table.scale_factor)
  return {"codes": jnp.stack(codes, axis=1)}
