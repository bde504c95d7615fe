"""A training run from the data to the last checkpoint."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import numpy as np
from clu import parameter_overview

from sdt_jax import speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation.loop import Evaluator, draw_templates
from sdt_jax.training import (
  checkpoints,
  experiments,
  feed,
  interrupts,
  parallel,
  processes,
  runs,
)
from sdt_jax.training.logs import Board, NonFiniteError, RunLog
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


MakeGallery = Callable[[pathlib.Path, Board, bool], Gallery]


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
    path: the workdir; of several processes, on a disk that all of them see.
    make_gallery: for the pictures, of a folder, an event file of TensorBoard and
      whether that gets the videos, too.
    pretrained: workdir of a run whose weights to start from.

  Returns:
    Whether it came to its end; False if it was asked to stop before.

  Raises:
    UserError: a field, the data or the workdir does not fit.
  """
  with processes.errors_shared():
    job = _prepare(config, path)
    # Whatever can be wrong is found before anything is written.
    fresh = None if job.resumed else _fresh_state(job, pretrained)
  with _owned(path), interrupts.catch() as stop:
    try:
      return _run(job, path, make_gallery, fresh, stop)
    except NonFiniteError as e:
      raise UserError(_explain(job, e, path)) from e


@contextlib.contextmanager
def _owned(path: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of the workdir, not the other processes of this one."""
  with contextlib.ExitStack() as stack:
    with processes.errors_shared():
      if processes.is_main():
        stack.enter_context(workdir.locked(path))
    yield


def _run(
  job: _Job,
  path: pathlib.Path,
  make_gallery: MakeGallery,
  fresh: TrainState | None,
  stop: interrupts.StopRequest,
) -> bool:
  """The loop, from the first state of this process to the last; see `train`."""
  with processes.errors_shared():
    _check_still(job, path)
    if processes.is_main():
      workdir.create(path, job.config, job.speaker, _clip_ids(job.train))
  saved = _Saved(job, path)
  state, start, pending = (fresh, 0, []) if fresh else saved.restore()
  clips = _feed(job, start)
  train_steps = _train_steps(job, clips)
  with contextlib.ExitStack() as at_end:  # in reverse order, whatever fails
    with processes.errors_shared():
      log = _open_log(job, path, start, pending)
    at_end.callback(log.close)
    gallery = _open_gallery(job, path, make_gallery, log)
    if gallery:
      at_end.callback(gallery.close)
    at_end.callback(saved.close)
    log.say(_sizes(state))
    blocks = feed.ahead(clips, _blocks(job, start, clips.steps_at_once))
    for first, last, xs in log.waiting_for(blocks):
      state, metrics = train_steps(state, clips.data, xs, last - first + 1)
      log.train_steps(last, metrics, last - first + 1)
      is_epoch = last % job.steps_per_epoch == 0
      if is_epoch:
        log.pending()  # whatever is not finite, before it is scored and shown
      scores = _validate(job, state, log, last) if is_epoch else {}
      waits = is_epoch or last % job.config.log.every_steps == 0
      stopping, overdue = processes.any_process(
        stop.requested, saved.overdue(), ask=waits
      )
      if stopping or overdue or saved.is_due(last):
        saved.save(state, last, log.pending(), scores)
      if is_epoch:
        _show(job, state, last, gallery)
      if stopping:
        log.say(f"stopped after step {last}; the same command goes on from there")
        return last == job.total_steps
  return True


def _check_still(job: _Job, path: pathlib.Path) -> None:
  """Raises a UserError if another run has saved since, before this one had the lock."""
  if (checkpoints.latest(path / workdir.CHECKPOINTS) is not None) != job.resumed:
    raise UserError(f"{path}: another run has just saved there; try once more")


def _prepare(config: Config, path: pathlib.Path) -> _Job:
  """Checks everything that can be wrong before the first step, and opens the data."""
  experiments.check(config)
  if config.debug.nans:
    jax.config.update("jax_debug_nans", True)
  parallel.check_batch_size(config.batch_size)
  resumed = checkpoints.latest(path / workdir.CHECKPOINTS) is not None
  if resumed:
    workdir.check_same(path, config)
  built = processes.in_turn(lambda: experiments.build_data(config))
  speaker = (
    workdir.read_speaker(path)
    if resumed
    else pipeline.speaker_statistics(built, config.dataset.statistics)
  )
  train, dev = (
    pipeline.open_split(
      built.sources[split], speaker, hierarchical=config.pose.hierarchical
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


class _Saved:
  """The checkpoints of a run, and when the next one is due."""

  def __init__(self, job: _Job, path: pathlib.Path):
    self._job = job
    self._fields = job.config.checkpoint
    self._checkpoints = checkpoints.Checkpoints(
      path / workdir.CHECKPOINTS,
      self._fields.best_metric,
      self._fields.keep_latest,
      self._fields.keep_best,
    )
    self._since = time.monotonic()
    self.close = self._checkpoints.close

  def restore(self) -> tuple[TrainState, int, list[dict[str, float]]]:
    """The state to go on from, the steps it has done, what the log had pending."""
    job, step = self._job, int(self._checkpoints.find("latest"))
    init = functools.partial(
      experiments.init, job.experiment, job.config.seed, len(job.train)
    )
    state = self._checkpoints.restore(step, parallel.replicated_shapes(init))
    return state, step, self._checkpoints.meta(step).get("pending", [])

  def is_due(self, step: int) -> bool:
    """Whether the config wants a checkpoint after this step."""
    every_steps = self._fields.every_steps
    if every_steps and step % every_steps == 0:
      return True
    epochs, rest = divmod(step, self._job.steps_per_epoch)
    is_epoch = rest == 0 and epochs % self._fields.every_epochs == 0
    return is_epoch or step == self._job.total_steps

  def overdue(self) -> bool:
    """Whether the last one was long ago."""
    limit = self._fields.every_minutes
    return bool(limit) and time.monotonic() - self._since > 60 * limit

  def save(
    self,
    state: TrainState,
    step: int,
    pending: list[dict[str, float]],
    scores: dict[str, float],
  ) -> None:
    meta = {
      "epoch": step // self._job.steps_per_epoch,
      "num_clips": len(self._job.train),
      "pending": pending,
    }
    self._checkpoints.save(state, meta, scores)
    self._since = time.monotonic()


def _feed(job: _Job, start: int) -> feed.Feed:
  """The clips of the steps after `start`."""
  config = job.config
  batches = {"batch_size": config.batch_size, "seed": config.seed}
  [too_large] = processes.any_process(not feed.fits(job.train, config.dataset.cache_gb))
  if not too_large:
    steps = config.steps_at_once or (1 if parallel.is_cpu() else config.log.every_steps)
    if config.debug.nans:  # the operation is found in single steps alone
      steps = 1
    return feed.Resident(job.train, steps_at_once=steps, **batches)
  return feed.Streamed(
    job.train, start_step=start, num_threads=config.dataset.num_threads, **batches
  )


def _train_steps(job: _Job, clips: feed.Feed):
  """Function (state, data, block, count) -> (state, metrics); see `map_steps`."""
  train_step = experiments.train_step(job.experiment)

  def step(state, data, x):
    return train_step(state, clips.batch(data, x))

  return parallel.map_steps(step, job.config.parallel)


def _blocks(job: _Job, start: int, length: int) -> Iterator[tuple[int, int]]:
  """First and last of the steps that go together: nothing is due in between."""
  marks = {
    job.config.log.every_steps,
    job.config.checkpoint.every_steps or job.total_steps,
    job.steps_per_epoch,
    job.total_steps,
  }
  while start < job.total_steps:
    last = min(start + length, *(start // mark * mark + mark for mark in marks))
    yield start + 1, last
    start = last


def _open_log(
  job: _Job, path: pathlib.Path, start: int, pending: list[dict[str, float]]
) -> RunLog:
  return RunLog(
    path if processes.is_main() else None,
    start_step=start,
    pending=pending,
    total_steps=job.total_steps,
    steps_per_epoch=job.steps_per_epoch,
    every_steps=job.config.log.every_steps,
    batch_size=job.config.batch_size,
  )


def _open_gallery(
  job: _Job, path: pathlib.Path, make_gallery: MakeGallery, log: RunLog
) -> Gallery | None:
  """None in a process that writes nothing."""
  if log.board is None:
    return None
  videos = job.config.log.tensorboard_videos
  return make_gallery(path / workdir.VIDEOS, log.board, videos)


def _sizes(state: TrainState) -> str:
  counts = {
    name: parameter_overview.count_parameters({name: params})
    for name, params in state.params.items()
  }
  return ", ".join(f"{name}: {count:,} parameters" for name, count in counts.items())


def _explain(job: _Job, error: NonFiniteError, path: pathlib.Path) -> str:
  rows = pipeline.train_rows(
    len(job.train), batch_size=job.config.batch_size, seed=job.config.seed
  )[error.step - 1]
  clips = ", ".join(job.train.clip_id(row) for row in np.asarray(rows))
  last_good = checkpoints.latest(path / workdir.CHECKPOINTS)
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


def _show(job: _Job, state: TrainState, step: int, gallery: Gallery | None) -> None:
  """Pictures of the epochs that the config names: first clips, map of the templates."""
  epoch = step // job.steps_per_epoch
  every = job.config.log.video_every_epochs
  if not every or epoch % every:
    return
  bank = state.templates()
  if bank is not None:
    bank = np.asarray(bank)
    if gallery:
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
    if not gallery:
      continue
    sound = split.read(np.array(rows))["audio"]
    for i in rows:
      sample = Sample(f"epoch{epoch:04d}_{name}{i}", poses_px[i], truth_px[i], sound[i])
      gallery.add_sample(sample, step)
