"""Opens what a training run left in its workdir."""

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import flax.traverse_util
import jax

from sdt_jax import speakers, workdir
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.training import experiments, parallel
from sdt_jax.training.checkpoints import Checkpoints
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.train_state import TrainState

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model with what belongs to it.

  Attributes:
    config: as it was trained.
    speaker: the statistics that it normalises with.
    experiment: the networks.
    state: restored from the checkpoint, on every device.
    step: of the checkpoint.
    epoch: of the checkpoint.
  """

  config: Config
  speaker: speakers.Speaker
  experiment: experiments.Experiment
  state: TrainState
  step: int
  epoch: int


def load(path: str | pathlib.Path, step: str = "latest") -> Run:
  """Opens a run.

  Args:
    path: its workdir.
    step: "latest", "best" or the number of a step.

  Raises:
    UserError: the folder is not a workdir, or there is no such checkpoint.
  """
  path = pathlib.Path(path)
  config = workdir.read_config(path)
  speaker = workdir.read_speaker(path)
  try:
    experiment = experiments.build(config, steps_per_epoch=1)
  except UserError as e:
    raise UserError(f"{path / workdir.CONFIG}: {e}") from e
  checkpoints = Checkpoints(
    path / workdir.CHECKPOINTS, config.checkpoint.best_metric, read_only=True
  )
  found = checkpoints.find(step)
  meta = checkpoints.meta(found)
  init = functools.partial(experiments.init, experiment, config.seed, meta["num_clips"])
  state = checkpoints.restore(found, parallel.replicated_shapes(init))
  checkpoints.close()
  return Run(config, speaker, experiment, state, found, meta["epoch"])


def template_bank(path: str, clip_ids: list[str]) -> jax.Array:
  """The template (N, D) that a pose VAE gave each training clip.

  Args:
    path: workdir of the pose VAE.
    clip_ids: the training clips that the templates are for.

  Raises:
    UserError: it is no pose VAE, or was trained on other clips.
  """
  if not path:
    raise UserError(
      "config.template.pose_vae is not set; train configs/pose2pose.py on the same "
      "data and give its workdir"
    )
  run = load(path)
  if not isinstance(run.experiment, Pose2Pose):
    raise UserError(
      f"config.template.pose_vae={path}: not a pose VAE; give the workdir of a "
      "configs/pose2pose.py run"
    )
  try:
    workdir.check_clips(pathlib.Path(path), clip_ids)
  except UserError as e:
    raise UserError(
      f"config.template.pose_vae={path}: was trained on other clips; train it on the "
      f"same data ({e})"
    ) from e
  return run.state.bank["mean"]


def take_weights(state: TrainState, path: str, partial: bool) -> TrainState:
  """`state` with the networks of the run in `path`, but not its optimisers.

  Learnt templates come along where both have as many clips.

  Args:
    state: before the first step.
    path: workdir of the pretrained run.
    partial: networks that only one of the two has are left as they are.

  Raises:
    UserError: the networks are not the same, or have other shapes.
  """
  source = load(path).state
  ours, theirs = set(state.batch_stats), set(source.batch_stats)
  if ours != theirs and not partial:
    raise UserError(
      f"--pretrained={path}: lacks {sorted(ours - theirs)}, has besides "
      f"{sorted(theirs - ours)}; --config.pretrained_partial=True takes what is common"
    )
  if not ours & theirs:
    raise UserError(
      f"--pretrained={path}: has {', '.join(sorted(theirs))}, none of "
      f"{', '.join(sorted(ours))}; give a run of the same kind"
    )
  params, batch_stats = dict(state.params), dict(state.batch_stats)
  for name in sorted(ours & theirs):
    _check_shapes(state.network(name), source.network(name), f"{path}: {name}")
    params[name], batch_stats[name] = source.params[name], source.batch_stats[name]
  mine, other = state.params.get("templates"), source.params.get("templates")
  if mine is not None and other is not None and mine.shape == other.shape:
    params["templates"] = other
  elif mine is not None or other is not None:
    _log.info("--pretrained=%s: the templates are not taken over", path)
  return state.replace(params=params, batch_stats=batch_stats)


def _check_shapes(ours, theirs, what: str) -> None:
  def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(variables, sep="/")
    return {name: array.shape for name, array in flat.items()}

  a, b = shapes(ours), shapes(theirs)
  differ = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
  if differ:
    name = differ[0]
    raise UserError(
      f"--pretrained={what}/{name} has shape {b.get(name)}, expected {a.get(name)} "
      f"({len(differ)} differ); give the same generator fields"
    )
