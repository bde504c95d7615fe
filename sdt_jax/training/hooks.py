"""The interfaces that callers implement for a training run: evaluator and gallery."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from sdt_jax import pose
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.methods.base import Method, Metrics
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training.logs import Board
from sdt_jax.training.runs import Run


class Evaluator(Protocol):
  """Generates and scores the clips of a split; see `evaluation.evaluator`."""

  def scores(
    self, state: TrainState, split: pipeline.Split, templates: np.ndarray | None
  ) -> dict[str, float]: ...

  def encode(self, split: pipeline.Split) -> np.ndarray: ...

  def batch_scores(self, poses_norm: jax.Array, truth_norm: jax.Array) -> Metrics: ...

  def generate(
    self,
    state: TrainState,
    split: pipeline.Split,
    templates: np.ndarray | None,
    rows: np.ndarray,
  ) -> np.ndarray: ...


class MakeEvaluator(Protocol):
  """Makes an evaluator, and knows the names of the metrics before it is made."""

  @staticmethod
  def metric_names(has_pose_vae: bool) -> list[str]: ...

  def __call__(
    self, method: Method, table: pose.PoseTable, config: Config, pose_vae: Run | None
  ) -> Evaluator: ...


class Sample(NamedTuple):
  """A clip to inspect: the prediction next to the truth.

  Attributes:
    name: for example "epoch0003_dev0".
    poses_px, truth_px: (T, dims, joints) final poses.
    audio: (samples,) 16 kHz.
  """

  name: str
  poses_px: np.ndarray
  truth_px: np.ndarray
  audio: np.ndarray


class Gallery(Protocol):
  """Makes pictures and videos during training; see `synthesis.samples`."""

  def add_sample(self, sample: Sample, step: int) -> None: ...

  def add_templates(self, bank: np.ndarray, epoch: int, step: int) -> None: ...

  def close(self) -> None: ...


MakeGallery = Callable[[pathlib.Path, Board, bool], Gallery]
"""Makes a gallery from its folder, the TensorBoard file, and a flag: whether videos
also go to TensorBoard."""
