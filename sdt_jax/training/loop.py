"""A training run from the data to the last checkpoint."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from clu import parameter_overview
from tensorboardX import SummaryWriter

from sdt_jax import speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation.loop import Evaluator, draw_templates
from sdt_jax.training import checkpoints, experiments, interrupts, parallel, runs
from sdt_jax.training.logs import NonFiniteError, RunLog
from sdt_jax.training.train_state import TrainState
from sdt_jax.training.voice2pose import Voice2Pose


class Sample(NamedTuple):
  """A clip to look at: prediction beside truth.

  Attributes:
    name: such as "epoch0003_dev0".
    poses_px, truth_px: (T, 2, 121) final poses.
    audio: (samples,) 16 kHz.
  """

  name: str
  poses_px: np.ndarray
  truth_px: np.ndarray
  audio: np.ndarray


class Gallery(Protocol):
  """Makes pictures of what the training comes to; see `synthesis.samples`."""

  def add_sample(self, sample: Sample, step: int) -> None: ...

  def add_templates(self, bank: np.ndarray, epoch: int, step: int) -> None: ...

  def close(self) -> None: ...


MakeGallery = Callable[[pathlib.Path, SummaryWriter, bool], Gallery]


@dataclasses.dataclass(frozen=True)
class _Job:
  """What a run needs besides its state."""

  config: Config
  speaker: speakers.Speaker
  train: pipeline.Split
  dev: pipeline.Split
  experiment: experiments.Experiment
  evaluator: Evaluator
  steps_per_epoch: int
  total_steps: int
  resumed: bool


def train(
  config: Config,
  path: pathlib.Path,
  make_gallery: MakeGallery,
  pretrained: str | None = None,
) -> bool:
  """Trains; resumes the run in `path` if there is one.

  Args:
    config: fields as in `configs/common.py`.
    path: the workdir.
    make_gallery: for the pictures, of a folder, a TensorBoard writer and whether that
      gets the videos, too.
    pretrained: workdir of a run whose weights to start from.

  Returns:
    Whether it came to its end; False if it was asked to stop before.

  Raises:
    UserError: a field, the data or the workdir does not fit.
  """
  job = _prepare(config, path)
  # Whatever can be wrong is found before anything is written.
  fresh = None if job.resumed else _fresh_state(job, pretrained)
  with workdir.locked(path), interrupts.catch() as stop:
    return _run(job, path, make_gallery, fresh, stop)


def _run(
  job: _Job,
  path: pathlib.Path,
  make_gallery: MakeGallery,
  fresh: TrainState | None,
  stop: interrupts.StopRequest,
) -> bool:
  """The loop, from the first state of this process to the last; see `train`."""
  config = job.config
  workdir.create(path, config, job.speaker, _clip_ids(job.train))
  saved = checkpoints.Checkpoints(
    path / workdir.CHECKPOINTS,
    config.checkpoint.best_metric,
    config.checkpoint.keep_latest,
    config.checkpoint.keep_best,
  )
  state, start, pending = (fresh, 0, []) if fresh else _restore(job, saved)
  train_step = parallel.map_step(
    experiments.train_step(job.experiment), config.parallel
  )
  batches = _batches(job, start)
  log = RunLog(
    path,
    start_step=start,
    pending=pending,
    total_steps=job.total_steps,
    steps_per_epoch=job.steps_per_epoch,
    every_steps=config.log.every_steps,
    batch_size=config.batch_size,
  )
  gallery = make_gallery(
    path / workdir.VIDEOS, log.tensorboard, config.log.tensorboard_videos
  )
  counts = {
    name: parameter_overview.count_parameters({name: params})
    for name, params in state.params.items()
  }
  log.say(", ".join(f"{name}: {n:,} parameters" for name, n in counts.items()))
  try:
    for step in range(start + 1, job.total_steps + 1):
      state, metrics = train_step(state, parallel.split(next(batches)))
      log.train_step(step, metrics)
      is_epoch = step % job.steps_per_epoch == 0
      scores = _validate(job, state, log, step) if is_epoch else {}
      if _save_is_due(job, step) or stop.requested:
        saved.save(state, _meta(job, step, log.pending()), scores)
      if is_epoch:
        _show(job, state, step, gallery)
      if stop.requested:
        log.say(f"stopped after step {step}; the same command goes on from there")
        return step == job.total_steps
  except NonFiniteError as e:
    raise UserError(_explain(job, e, saved.latest_step())) from e
  finally:
    saved.close()
    gallery.close()
    log.close()
  return True


def _prepare(config: Config, path: pathlib.Path) -> _Job:
  """Checks everything that can be wrong before the first step, and opens the data."""
  experiments.check(config)
  if config.debug.nans:
    jax.config.update("jax_debug_nans", True)
  parallel.check_batch_size(config.batch_size)
  resumed = checkpoints.exists(path / workdir.CHECKPOINTS)
  if resumed:
    workdir.check_same(path, config)
  built = experiments.build_data(config)
  speaker = (
    workdir.read_speaker(path)
    if resumed
    else pipeline.speaker_statistics(built, config.dataset.statistics)
  )
  train, dev = (
    pipeline.open_split(
      built.sources[split],
      speaker,
      hierarchical=config.pose.hierarchical,
      cache_gb=config.dataset.cache_gb,
    )
    for split in ("train", "dev")
  )
  if config.batch_size > len(train):
    raise UserError(
      f"config.batch_size {config.batch_size} is larger than the train split of "
      f"{len(train)} clips; give a smaller one"
    )
  _check_best_metric(config)
  if resumed:  # templates belong to clips by row
    workdir.check_clips(path, _clip_ids(train))
  steps_per_epoch = len(train) // config.batch_size
  experiment = experiments.build(config, steps_per_epoch)
  evaluator = Evaluator(
    experiment,
    speaker.table(config.pose.hierarchical),
    hierarchical=config.pose.hierarchical,
    batch_size=config.batch_size,
    mode=config.parallel,
  )
  return _Job(
    config,
    speaker,
    train,
    dev,
    experiment,
    evaluator,
    steps_per_epoch,
    config.num_epochs * steps_per_epoch,
    resumed,
  )


def _check_best_metric(config: Config) -> None:
  known = Evaluator.metric_names()
  if config.checkpoint.best_metric not in known:
    raise UserError(
      f"config.checkpoint.best_metric is {config.checkpoint.best_metric!r}; expected "
      f"one of {', '.join(known)}"
    )


def _clip_ids(split: pipeline.Split) -> list[str]:
  return [split.clip_id(row) for row in range(len(split))]


def _fresh_state(job: _Job, pretrained: str | None) -> TrainState:
  """The state of a new run."""
  state = experiments.init(job.experiment, job.config.seed, len(job.train))
  if isinstance(job.experiment, Voice2Pose) and job.experiment.template == "vae":
    bank = runs.template_bank(job.config.template.pose_vae, _clip_ids(job.train))
    state = state.replace(bank={"mean": bank})
  if pretrained:
    state = runs.take_weights(state, pretrained, job.config.pretrained_partial)
  return parallel.replicate(state)


def _restore(
  job: _Job, saved: checkpoints.Checkpoints
) -> tuple[TrainState, int, list[dict[str, float]]]:
  """The state to go on from, the steps it has done, and what the log had pending."""
  step = int(saved.find("latest"))
  init = functools.partial(
    experiments.init, job.experiment, job.config.seed, len(job.train)
  )
  state = saved.restore(step, parallel.replicated_shapes(init))
  return state, step, saved.meta(step).get("pending", [])


def _batches(job: _Job, start: int) -> Iterator[pipeline.Batch]:
  """The batches of the steps after `start`."""
  return pipeline.train_batches(
    job.train,
    batch_size=job.config.batch_size,
    seed=job.config.seed,
    start_step=start,
    num_threads=job.config.dataset.num_threads,
  )


def _save_is_due(job: _Job, step: int) -> bool:
  every_steps = job.config.checkpoint.every_steps
  if every_steps and step % every_steps == 0:
    return True
  epochs, rest = divmod(step, job.steps_per_epoch)
  is_due = rest == 0 and epochs % job.config.checkpoint.every_epochs == 0
  return is_due or step == job.total_steps


def _meta(job: _Job, step: int, pending: list[dict[str, float]]) -> dict[str, Any]:
  return {
    "epoch": step // job.steps_per_epoch,
    "num_clips": len(job.train),
    "pending": pending,
  }


def _explain(job: _Job, error: NonFiniteError, last_good: int | None) -> str:
  rows = next(_batches(job, error.step - 1))["index"]
  clips = ", ".join(job.train.clip_id(row) for row in rows)
  kept = "no checkpoint yet" if last_good is None else f"step {last_good} is kept"
  return (
    f"{error}, training stops ({kept}); try a lower "
    "config.optimizer.learning_rate, or config.debug.nans=True to find the operation; "
    f"clips of the step: {clips}"
  )


def _validate(job: _Job, state: TrainState, log: RunLog, step: int) -> dict[str, float]:
  """Mean scores of the dev split, logged."""
  templates = draw_templates(state, len(job.dev), job.config.seed)
  scores = job.evaluator.scores(state, job.dev, templates)
  means = {name: float(np.mean(values)) for name, values in scores.items()}
  log.write(step, "dev", means)
  return means


def _show(job: _Job, state: TrainState, step: int, gallery: Gallery) -> None:
  """Pictures of the epochs that the config names: first clips, map of the templates."""
  epoch = step // job.steps_per_epoch
  every = job.config.log.video_every_epochs
  if not every or epoch % every:
    return
  bank = state.templates()
  if bank is not None:
    bank = np.asarray(bank)
    gallery.add_templates(bank, epoch, step)
  drawn = draw_templates(state, len(job.dev), job.config.seed)
  for name, split, count, templates in (
    ("train", job.train, job.config.log.train_videos, bank),
    ("dev", job.dev, job.config.log.dev_videos, drawn),
  ):
    rows = range(min(count, len(split)))
    if not rows:
      continue
    poses_px, truth_px = job.evaluator.poses(state, split, rows, templates)
    sound = split.read(np.array(rows))["audio"]
    for i in rows:
      sample = Sample(f"epoch{epoch:04d}_{name}{i}", poses_px[i], truth_px[i], sound[i])
      gallery.add_sample(sample, step)
