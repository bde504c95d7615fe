"""Opens trained runs from their workdirs."""

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from sdt_jax import methods, pose, speakers, workdir
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import parallel
from sdt_jax.training.checkpoints import Checkpoints

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained run, opened at one of its checkpoints.

  Attributes:
    path: the workdir.
    config: the fields that it was trained with.
    speaker: the statistics that it normalises with.
    method: what was trained.
    state: restored from the checkpoint, on every device.
    step, epoch: position of the checkpoint in the training.
  """

  path: pathlib.Path
  config: Config
  speaker: speakers.Speaker
  method: Method
  state: TrainState
  step: int
  epoch: int

  @property
  def table(self) -> pose.PoseTable:
    """The statistics in the form of the poses that it was trained on."""
    return self.speaker.table(self.config.pose.hierarchical)


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
    method = methods.build(config, steps_per_epoch=1)
  except UserError as e:
    raise UserError(f"{path / workdir.CONFIG}: {e}") from e
  checkpoints = Checkpoints(
    path / workdir.CHECKPOINTS, config.checkpoint.best_metric, read_only=True
  )
  found = checkpoints.find(step)
  meta = checkpoints.meta(found)
  state = checkpoints.restore(
    found,
    parallel.replicated_shapes(
      functools.partial(init_state, method, config.seed, meta["num_clips"])
    ),
  )
  checkpoints.close()
  return Run(path, config, speaker, method, state, found, meta["epoch"])


def init_state(method: Method, seed: int, num_clips: int) -> TrainState:
  """State of a new run before the first step, for `num_clips` training clips."""
  init = jax.jit(functools.partial(method.init, num_clips=num_clips))
  return init(jax.random.key(seed))


def load_encoder(path: str | pathlib.Path, flag: str) -> Run:
  """Opens the run of a pose VAE, whose workdir `path` was given as `flag`.

  Raises:
    UserError: the run cannot be opened, or has no encoder.
  """
  run = load(path)
  require_encoder(type(run.method), path, flag)
  return run


def require_encoder(method: type[Method], path: str | pathlib.Path, flag: str) -> None:
  """Raises a UserError if this method, of the run in `path`, has no encoder."""
  if not method.has_encoder:
    raise UserError(
      f"{flag}={path}: is the workdir of a {method.title}, which has no encoder; "
      "give that of a pose VAE (configs/pose2pose.py)"
    )


def template_bank(pose_vae: Run, clip_ids: list[str]) -> jax.Array:
  """The template (N, D) that a pose VAE recorded for each training clip.

  Raises:
    UserError: it was trained on other clips.
  """
  try:
    workdir.check_clips(pose_vae.path, clip_ids)
  except UserError as e:
    raise UserError(
      f"config.template.pose_vae={pose_vae.path}: was trained on other clips; train it "
      f"on the same data ({e})"
    ) from e
  return pose_vae.state.bank["mean"]


def templates_of(path: str, clip_ids: list[str]) -> np.ndarray:
  """The templates (N, D) of the run `config.template.of`, one for each training clip.

  Raises:
    UserError: the run has none, or was trained on other clips.
  """
  flag = f"config.template.of={path}"
  try:
    run = load(path)
    workdir.check_clips(run.path, clip_ids)
  except UserError as e:
    raise UserError(f"{flag}: {e}") from e
  bank = run.method.bank(run.state)
  if bank is None or bank.ndim != 2 or len(bank) != len(clip_ids):
    shape = "none" if bank is None else f"an array of shape {bank.shape}"
    raise UserError(
      f"{flag}: expected a template for each of {len(clip_ids)} training clips, found "
      f"{shape}; give the workdir of an sdt_bp or sdt_vae run"
    )
  return bank


def take_weights(state: TrainState, pretrained: Run, partial: bool) -> TrainState:
  """`state` with the network weights of another run; optimizer states are not copied.

  Learnt templates are copied if both runs have the same number of clips.

  Args:
    state: before the first step.
    pretrained: the run to take them from.
    partial: skip networks that only one of the two has.

  Raises:
    UserError: the networks differ, or their shapes do.
  """
  path, source = pretrained.path, pretrained.state
  ours, theirs = set(state.batch_stats), set(source.batch_stats)
  if ours != theirs and not partial:
    raise UserError(
      f"--pretrained={path}: lacks {sorted(ours - theirs)} and also has "
      f"{sorted(theirs - ours)}; --config.pretrained_partial=True skips those"
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
  elif mine is not None and "templates" not in state.opt_states:
    raise UserError(
      f"--pretrained={path}: has no templates for these {len(mine)} clips, which "
      "config.template.frozen=True needs; give an SDT-BP run on the same clips"
    )
  elif mine is not None or other is not None:
    _log.info("--pretrained=%s: its templates are not used", path)
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
