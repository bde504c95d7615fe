"""Prepares a run: checks all its inputs before anything is written."""

import dataclasses
import functools
import logging
import pathlib

import jax
import numpy as np

from sdt_jax import config as config_lib
from sdt_jax import methods, speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.methods import base
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import checkpoints, parallel, processes, runs, teacher
from sdt_jax.training.hooks import Evaluator, MakeEvaluator

_SOUNDS_AT_ONCE = 64

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is known of a run before its data is built.

  Attributes:
    config: every field, with the data set and the speaker named.
    path: the workdir.
    resumed: whether it contains a checkpoint.
    from_step: the checkpoint to resume from; None for the latest.
    pretrained: workdir of the run whose weights to start from; None for none.
    bank_run: workdir of the run whose bank provides the templates, None without one.
    bank_config: config to train `bank_run` with first; None if it is trained.
    ftd_vae: workdir of the pose VAE for FTD, None without one.
  """

  config: Config
  path: pathlib.Path
  resumed: bool
  from_step: int | None
  pretrained: str | None
  bank_run: pathlib.Path | None
  bank_config: Config | None
  ftd_vae: pathlib.Path | None


@dataclasses.dataclass(frozen=True)
class Job:
  """What a run needs besides its state.

  `dev` is None if the data has no such split, `teacher` without one.
  """

  config: Config
  path: pathlib.Path
  speaker: speakers.Speaker
  train: pipeline.Split
  dev: pipeline.Split | None
  clip_ids: list[str]
  method: Method
  evaluator: Evaluator
  teacher: runs.Run | None
  resumed: bool
  from_step: int | None

  @property
  def steps_per_epoch(self) -> int:
    return len(self.train) // self.config.batch_size

  @property
  def total_steps(self) -> int:
    return self.config.num_epochs * self.steps_per_epoch

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.path / workdir.CHECKPOINTS

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
  must_resume: bool = False,
  from_step: int | None = None,
) -> Plan:
  """Checks all that can be checked before the data is built; see `loop.train`.

  Raises:
    UserError: a field, the workdir or another run is unusable.
  """
  config = config.copy_and_resolve_references()
  methods.check(config)
  config = methods.METHODS[config.experiment].completed(config)
  config.dataset.update(pipeline.resolve(config.dataset))
  if config.debug.nans:
    jax.config.update("jax_debug_nans", True)
  parallel.check_batch_size(config.batch_size)
  resumed = _check_resume(path, must_resume, from_step)
  if resumed:
    workdir.check_same(path, config)
    _announce_schedule(workdir.read_config(path), config)
  elif pretrained:
    workdir.read_config(pathlib.Path(pretrained))
  elif config.template.frozen:
    raise UserError(
      "config.template.frozen is True, but there are no templates to keep; give "
      "--pretrained=<workdir of an SDT-BP run on the same clips>"
    )
  method = methods.METHODS[config.experiment]
  bank_config = None if resumed else method.bank_config(config)
  bank_run = ftd_vae = None
  if not method.has_encoder:
    bank_run = workdir.pose_vae_of_templates(path, config)
    ftd_vae = workdir.pose_vae_for_ftd(path, config)
  if bank_run and not resumed and not bank_config:
    _check_encoder(bank_run, "config.template.pose_vae", config.template.size)
    if config.sequence.train:
      _check_same_encoder(bank_run, config)
  if resumed and ftd_vae and not ftd_vae.is_dir() and not config.evaluation.pose_vae:
    _log.warning("%s: the pose VAE is no longer there; FTD is left out", ftd_vae)
    ftd_vae = None
  if config.evaluation.pose_vae:
    _check_encoder(
      pathlib.Path(config.evaluation.pose_vae), "config.evaluation.pose_vae"
    )
  if config.teacher:
    teacher.check(config)
  _check_evaluation(config, make_evaluator, ftd_vae, bank_run)
  return Plan(
    config=config,
    path=path,
    resumed=resumed,
    from_step=from_step,
    pretrained=None if resumed else pretrained,
    bank_run=None if resumed else bank_run,
    bank_config=bank_config,
    ftd_vae=ftd_vae,
  )


def _check_resume(path: pathlib.Path, must_resume: bool, from_step: int | None) -> bool:
  """Whether the workdir has a checkpoint.

  Raises:
    UserError: it must have one, or that of `from_step`, but has not.
  """
  steps = checkpoints.steps(path / workdir.CHECKPOINTS)
  if from_step is not None and from_step not in steps:
    raise UserError(
      f"--resume={path}:{from_step}: no such checkpoint; there are "
      f"{', '.join(map(str, steps)) or 'none'}"
    )
  first_phase = path / workdir.POSE_VAE / workdir.CHECKPOINTS
  if must_resume and not steps and not checkpoints.steps(first_phase):
    raise UserError(f"--resume={path}: has no checkpoint; start a run with --workdir")
  return bool(steps)


def _announce_schedule(old: Config, new: Config) -> None:
  """Warns if resuming with other fields changes the schedule of the learning rate."""
  before, after = (
    f"{' and '.join(map(str, config_lib.milestones(c))) or 'none'} of {c.num_epochs}"
    for c in (old, new)
  )
  if before != after and processes.is_main():
    _log.warning(
      "epochs after which the learning rate decays: %s (before: %s); "
      "config.optimizer.milestones changes them",
      *(after, before),
    )


def _check_encoder(path: pathlib.Path, flag: str, size: int | None = None) -> None:
  """Raises a UserError unless this is the workdir of a pose VAE, of this code size."""
  try:
    config = workdir.read_config(path)
    methods.check(config)
  except UserError as e:
    raise UserError(f"{flag}={path}: {e}") from e
  method = methods.METHODS[config.experiment]
  runs.require_encoder(method, path, flag)
  if size is not None and config.template.size != size:
    raise UserError(
      f"{flag}={path}: its templates have {config.template.size} dimensions, expected "
      f"config.template.size, {size}"
    )


def _check_same_encoder(path: pathlib.Path, config: Config) -> None:
  """Raises a UserError unless the step can encode poses with this run's encoder."""
  theirs = workdir.read_config(path)
  fields = "generator.channels", "pose_vae.norm", "pose.hierarchical"
  for name in (*fields, "dataset.statistics"):
    other, own = (config_lib.get(c, name) for c in (theirs, config))
    if other != own:
      raise UserError(
        f"config.template.pose_vae={path}: was trained with config.{name} {other!r}, "
        f"here it is {own!r}; config.sequence.train=True needs the same"
      )


def _check_evaluation(
  config: Config,
  make_evaluator: MakeEvaluator,
  ftd_vae: pathlib.Path | None,
  bank_run: pathlib.Path | None,
) -> None:
  """Raises a UserError if validation cannot compute what the config asks for."""
  known = make_evaluator.metric_names(ftd_vae is not None)
  best = config.checkpoint.best_metric
  if best not in known:
    raise UserError(
      f"config.checkpoint.best_metric is {best!r}; expected one of {', '.join(known)}"
      + ("" if ftd_vae else ", or ftd with config.evaluation.pose_vae")
    )
  if config.evaluation.template != "encoder":
    return
  if ftd_vae is None or (bank_run and bank_run != ftd_vae):
    raise UserError(
      "config.evaluation.template is 'encoder', which needs the pose VAE of the "
      "templates; "
      + (
        "leave out config.evaluation.pose_vae"
        if ftd_vae
        else "give config.evaluation.pose_vae=<its workdir>"
      )
    )


def prepare(plan: Plan, make_evaluator: MakeEvaluator) -> tuple[Job, TrainState | None]:
  """Opens the data, which is built if necessary, and builds the method.

  Returns:
    The job, and the first state on every device; None for a run to resume.

  Raises:
    UserError: the data or another run is unusable, or does not fit.
  """
  config, path = plan.config, plan.path
  built = processes.in_turn(functools.partial(build_data, config))
  speaker = (
    workdir.read_speaker(path)
    if plan.resumed
    else pipeline.speaker_statistics(built, config.dataset.statistics)
  )
  table = speaker.table(config.pose.hierarchical)
  sources = built.sources
  train = pipeline.Split(sources["train"], table)
  dev = pipeline.Split(sources["dev"], table) if "dev" in sources else None
  if config.batch_size > len(train):
    raise UserError(
      f"config.batch_size {config.batch_size} is larger than the train split of "
      f"{len(train)} clips; give a smaller one"
    )
  method = methods.build(config, len(train) // config.batch_size)
  bank_run = plan.bank_run and runs.load_encoder(
    plan.bank_run, "config.template.pose_vae"
  )
  ftd_vae = bank_run
  if plan.ftd_vae and plan.ftd_vae != plan.bank_run:
    ftd_vae = runs.load_encoder(plan.ftd_vae, "config.evaluation.pose_vae")
  if ftd_vae and ftd_vae.speaker.name != speaker.name:
    raise UserError(
      f"{ftd_vae.path}: is the pose VAE of {ftd_vae.speaker.name}, but the data is of "
      f"{speaker.name}; give one of the same speaker"
    )
  evaluator = make_evaluator(method, table, config, ftd_vae)
  clip_ids = [train.clip_id(row) for row in range(len(train))]
  job = Job(
    config=config,
    path=path,
    speaker=speaker,
    train=train,
    dev=dev,
    clip_ids=clip_ids,
    method=method,
    evaluator=evaluator,
    teacher=teacher.load(config, table, clip_ids) if config.teacher else None,
    resumed=plan.resumed,
    from_step=plan.from_step,
  )
  if plan.resumed:  # templates belong to clips by row
    workdir.check_clips(path, job.clip_ids)
    return job, None
  return job, _first_state(job, bank_run, plan.pretrained)


def build_data(config: Config) -> pipeline.Built:
  """The data set that a config describes; builds it if necessary."""
  return pipeline.build(**config.dataset)


def _clips(job: Job) -> base.Clips:
  """Where the training clips come from.

  Raises:
    UserError: the data set does not say.
  """
  clips = job.train.source.clips
  if (clips["start"] < 0).any() or (clips["video"] == b"").any():
    raise UserError(
      f"{job.method.title}: the data set {job.config.dataset.name} does not say which "
      "recording its clips are from and where they start; use one that does"
    )
  parts = np.array_split(np.arange(len(clips)), -(-len(clips) // _SOUNDS_AT_ONCE))
  sounds = (job.train.read(rows)["audio"] for rows in parts)
  return base.Clips(clips["video"], clips["start"], sounds)


def _first_state(
  job: Job, bank_run: runs.Run | None, pretrained: str | None
) -> TrainState:
  """The state of a new run, on every device.

  Raises:
    UserError: another run that contributes to it does not fit.
  """
  state = job.init_state()
  if of := job.config.template.of:
    templates = runs.templates_of(of, job.clip_ids)
    state = job.method.with_templates(state, templates, _clips(job))
  if pretrained:
    partial = job.config.pretrained_partial
    state = runs.take_weights(state, runs.load(pretrained), partial)
  if bank_run:
    bank = runs.template_bank(bank_run, job.clip_ids)
    state = state.replace(bank={"mean": bank})
    state = job.method.take_encoder(state, bank_run.state)
  return parallel.replicate(state)
