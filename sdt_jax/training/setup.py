"""Prepares a run: checks all its inputs before anything is written."""

import dataclasses
import functools
import logging
import pathlib

import jax

from sdt_jax import config as config_lib
from sdt_jax import methods, speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import checkpoints, parallel, processes, runs
from sdt_jax.training.hooks import Evaluator, MakeEvaluator

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is known of a run before its data is built.

  Attributes:
    config: every field, with the data set and the speaker named.
    path: the workdir.
    resumed: whether it contains a checkpoint.
    from_step: the checkpoint to resume from; None for the latest.
    pretrained: the run whose weights to start from.
    pose_vae: workdir of the pose VAE for FTD and templates; None without one.
    bank_config: config of the run to train first, in `pose_vae`, because its bank
      provides the templates; None if there is no need.
  """

  config: Config
  path: pathlib.Path
  resumed: bool
  from_step: int | None
  pretrained: runs.Run | None
  pose_vae: pathlib.Path | None
  bank_config: Config | None


@dataclasses.dataclass(frozen=True)
class Job:
  """What a run needs besides its state; `dev` is None if the data has no such split."""

  config: Config
  path: pathlib.Path
  speaker: speakers.Speaker
  train: pipeline.Split
  dev: pipeline.Split | None
  method: Method
  evaluator: Evaluator
  resumed: bool
  from_step: int | None = None

  @property
  def steps_per_epoch(self) -> int:
    return len(self.train) // self.config.batch_size

  @property
  def total_steps(self) -> int:
    return self.config.num_epochs * self.steps_per_epoch

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.path / workdir.CHECKPOINTS

  @property
  def clip_ids(self) -> list[str]:
    return [self.train.clip_id(row) for row in range(len(self.train))]

  def validates_after(self, step: int) -> bool:
    """Whether the dev split is scored after this step."""
    every = self.config.evaluation.every_epochs * self.steps_per_epoch
    if self.dev is None or not every:
      return False
    return step % every == 0 or step == self.total_steps

  def init_state(self) -> TrainState:
    """The state before the first step, without what other runs contribute."""
    return runs.init_state(self.method, self.config.seed, len(self.train))


def check(
  config: Config,
  path: pathlib.Path,
  make_evaluator: MakeEvaluator,
  pretrained: str | None = None,
  from_step: int | None = None,
) -> Plan:
  """Checks all that can be checked before the data is built; see `loop.train`.

  Raises:
    UserError: a field, the workdir or another run is unusable.
  """
  config = config.copy_and_resolve_references()
  methods.check(config)
  config.dataset.update(pipeline.resolve(config.dataset))
  if config.debug.nans:
    jax.config.update("jax_debug_nans", True)
  parallel.check_batch_size(config.batch_size)
  steps = checkpoints.steps(path / workdir.CHECKPOINTS)
  resumed = bool(steps)
  if from_step is not None and from_step not in steps:
    raise UserError(
      f"--resume={path}:{from_step}: no such checkpoint; there are "
      f"{', '.join(map(str, steps)) or 'none'}"
    )
  if resumed:
    workdir.check_same(path, config)
    _announce_schedule(workdir.read_config(path), config)
  method = methods.METHODS[config.experiment]
  bank_config = None if resumed else method.bank_config(config)
  pose_vae = None if method.has_encoder else workdir.pose_vae(path, config)
  if pose_vae and not bank_config:
    pose_vae = _check_pose_vae(pose_vae, config, resumed)
  known = make_evaluator.metric_names(pose_vae is not None)
  best = config.checkpoint.best_metric
  if best not in known:
    raise UserError(
      f"config.checkpoint.best_metric is {best!r}; expected one of {', '.join(known)}"
      + ("" if pose_vae else ", or ftd with config.evaluation.pose_vae")
    )
  if config.evaluation.template == "encoder" and pose_vae is None:
    raise UserError(
      "config.evaluation.template is 'encoder', which needs "
      "config.evaluation.pose_vae=<workdir of a pose VAE>"
    )
  start = runs.load(pretrained) if pretrained and not resumed else None
  return Plan(config, path, resumed, from_step, start, pose_vae, bank_config)


def _announce_schedule(old: Config, new: Config) -> None:
  """Says what becomes of the learning rate in a run that is extended or shortened."""
  before, after = (config_lib.milestones(c) for c in (old, new))
  if before != after:
    _log.warning(
      "the learning rate now decays after epochs %s of %d, no longer after %s of %d; "
      "config.optimizer.milestones changes this",
      *(_listed(after), new.num_epochs, _listed(before), old.num_epochs),
    )


def _listed(epochs: list[int]) -> str:
  return " and ".join(map(str, epochs)) or "none"


def _check_pose_vae(
  path: pathlib.Path, config: Config, resumed: bool
) -> pathlib.Path | None:
  """The workdir of the pose VAE; None if a run can go on without it.

  Raises:
    UserError: it cannot be used.
  """
  named = config.evaluation.pose_vae
  if resumed and not named and not path.is_dir():  # the templates are in the state
    _log.warning("%s: the pose VAE is no longer there; FTD is left out", path)
    return None
  flag = "config.evaluation.pose_vae" if named else "config.template.pose_vae"
  size = runs.load_encoder(path, flag).config.template.size
  if config.evaluation.template == "encoder" and size != config.template.size:
    raise UserError(
      f"{flag}={path}: its templates have {size} dimensions, those of this run "
      f"{config.template.size}; config.evaluation.template=encoder needs the same"
    )
  return path


def prepare(plan: Plan, make_evaluator: MakeEvaluator) -> Job:
  """Opens the data, which is built if necessary, and builds the method.

  Raises:
    UserError: the data is unusable or does not fit the run.
  """
  config, path = plan.config, plan.path
  built = processes.in_turn(functools.partial(build_data, config))
  speaker = (
    workdir.read_speaker(path)
    if plan.resumed
    else pipeline.speaker_statistics(built, config.dataset.statistics)
  )
  table = speaker.table(config.pose.hierarchical)
  splits = {n: pipeline.Split(source, table) for n, source in built.sources.items()}
  train = splits["train"]
  if config.batch_size > len(train):
    raise UserError(
      f"config.batch_size {config.batch_size} is larger than the train split of "
      f"{len(train)} clips; give a smaller one"
    )
  method = methods.build(config, len(train) // config.batch_size)
  pose_vae = plan.pose_vae and runs.load_encoder(plan.pose_vae, "the pose VAE")
  if pose_vae and pose_vae.speaker.name != speaker.name:
    raise UserError(
      f"{pose_vae.path}: is the pose VAE of {pose_vae.speaker.name}, but the data is "
      f"of {speaker.name}; give one of the same speaker"
    )
  evaluator = make_evaluator(method, table, config, pose_vae)
  dev = splits.get("dev")
  resume = plan.resumed, plan.from_step
  job = Job(config, path, speaker, train, dev, method, evaluator, *resume)
  if plan.resumed:  # templates belong to clips by row
    workdir.check_clips(path, job.clip_ids)
  return job


def build_data(config: Config) -> pipeline.Built:
  """The data set that a config describes; builds it if necessary."""
  return pipeline.build(**config.dataset)


def fresh_state(job: Job, pretrained: runs.Run | None) -> TrainState:
  """The state of a new run, on every device.

  Raises:
    UserError: the run in `pretrained`, or the one that the templates come from, does
      not fit.
  """
  state = job.init_state()
  if job.method.bank_from is not None:
    path = job.method.bank_from or str(job.path / workdir.POSE_VAE)
    state = state.replace(bank={"mean": runs.template_bank(path, job.clip_ids)})
  if pretrained:
    state = runs.take_weights(state, pretrained, job.config.pretrained_partial)
  return parallel.replicate(state)
