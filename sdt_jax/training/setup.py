"""Prepares a run: checks all its inputs before anything is written."""

import dataclasses
import functools
import pathlib

import jax

from sdt_jax import methods, speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import checkpoints, parallel, processes, runs
from sdt_jax.training.hooks import Evaluator, MakeEvaluator


@dataclasses.dataclass(frozen=True)
class Job:
  """What a run needs besides its state."""

  config: Config
  path: pathlib.Path
  speaker: speakers.Speaker
  train: pipeline.Split
  dev: pipeline.Split
  method: Method
  evaluator: Evaluator
  resumed: bool

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

  def init_state(self) -> TrainState:
    """The state before the first step, without what other runs contribute."""
    return runs.init_state(self.method, self.config.seed, len(self.train))


def prepare(config: Config, path: pathlib.Path, make_evaluator: MakeEvaluator) -> Job:
  """Checks the config and the workdir, opens the data, builds the method.

  Raises:
    UserError: a field, the data or the workdir is unusable.
  """
  methods.check(config)
  if config.debug.nans:
    jax.config.update("jax_debug_nans", True)
  parallel.check_batch_size(config.batch_size)
  resumed = checkpoints.latest(path / workdir.CHECKPOINTS) is not None
  if resumed:
    workdir.check_same(path, config)
  built = processes.in_turn(functools.partial(build_data, config))
  speaker = (
    workdir.read_speaker(path)
    if resumed
    else pipeline.speaker_statistics(built, config.dataset.statistics)
  )
  table = speaker.table(config.pose.hierarchical)
  train, dev = (pipeline.Split(built.sources[name], table) for name in ("train", "dev"))
  if config.batch_size > len(train):
    raise UserError(
      f"config.batch_size {config.batch_size} is larger than the train split of "
      f"{len(train)} clips; give a smaller one"
    )
  method = methods.build(config, len(train) // config.batch_size)
  evaluator = make_evaluator(method, table, config)
  known, best = evaluator.metric_names(), config.checkpoint.best_metric
  if best not in known:
    raise UserError(
      f"config.checkpoint.best_metric is {best!r}; expected one of {', '.join(known)}"
    )
  job = Job(config, path, speaker, train, dev, method, evaluator, resumed)
  if resumed:  # templates belong to clips by row
    workdir.check_clips(path, job.clip_ids)
  return job


def build_data(config: Config) -> pipeline.Built:
  """The data set that a config describes; builds it if necessary."""
  return pipeline.build(**config.dataset)


def fresh_state(job: Job, pretrained: str | None) -> TrainState:
  """The state of a new run, on every device.

  Raises:
    UserError: the run in `pretrained`, or the one that the templates come from, does
      not fit.
  """
  state = job.init_state()
  if job.method.bank_from is not None:
    bank = runs.template_bank(job.method.bank_from, job.clip_ids)
    state = state.replace(bank={"mean": bank})
  if pretrained:
    state = runs.take_weights(state, pretrained, job.config.pretrained_partial)
  return parallel.replicate(state)
