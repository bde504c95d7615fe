"""A training run, from the data to the last checkpoint."""

import contextlib
import datetime
import pathlib
import shutil
import time
from collections.abc import Iterator

import jax
import numpy as np
from clu import parameter_overview

from sdt_jax import workdir
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.methods import base
from sdt_jax.methods.train_state import TrainState
from sdt_jax.templates import sources
from sdt_jax.training import (
  checkpoints,
  feed,
  interrupts,
  parallel,
  processes,
  setup,
  teacher,
)
from sdt_jax.training.hooks import Gallery, MakeEvaluator, MakeGallery, Sample
from sdt_jax.training.logs import NonFiniteError, RunLog, TextLog
from sdt_jax.training.setup import Job


def train(
  config: Config,
  path: pathlib.Path,
  make_evaluator: MakeEvaluator,
  make_gallery: MakeGallery,
  pretrained: str | None = None,
  must_resume: bool = False,
  from_step: int | None = None,
) -> bool:
  """Trains a model, or resumes the run in `path` if there is one.

  Args:
    config: fields as in `sdt_jax.config`.
    path: the workdir; several processes need it on a shared disk.
    make_evaluator: for validation, see `hooks`.
    make_gallery: for sample videos, see `hooks`.
    pretrained: workdir of a run whose weights to start from.
    must_resume: whether it is an error if there is no run to resume.
    from_step: the checkpoint to resume from; default: the latest. Later ones are moved
      to a folder in the workdir.

  Returns:
    True if the run is complete, False if it was asked to stop.

  Raises:
    UserError: a field, the data or the workdir is unusable, or a loss is not finite.
  """
  with TextLog() as text_log:
    with processes.errors_shared():
      plan = setup.check(
        config, path, make_evaluator, pretrained, must_resume, from_step
      )
    if plan.bank_config and not _train_bank_run(plan, make_evaluator, make_gallery):
      return False
    with processes.errors_shared():
      job, first_state = setup.prepare(plan, make_evaluator)
    # All inputs are checked before anything is written.
    with _locked(path), interrupts.catch() as stop:
      try:
        return _run(job, make_gallery, first_state, stop, text_log)
      except NonFiniteError as e:
        raise UserError(_explain(job, e)) from e


def _train_bank_run(
  plan: setup.Plan, make_evaluator: MakeEvaluator, make_gallery: MakeGallery
) -> bool:
  """Trains the run whose bank provides the templates; see `train`."""
  assert plan.bank_config
  assert plan.bank_run
  if processes.is_main():
    workdir.write_config(plan.path, plan.config)  # for --resume
    print(f"training the pose VAE of the templates first: {plan.bank_run}", flush=True)
  return train(plan.bank_config, plan.bank_run, make_evaluator, make_gallery)


def _run(
  job: Job,
  make_gallery: MakeGallery,
  first_state: TrainState | None,
  stop: interrupts.StopRequest,
  text_log: TextLog,
) -> bool:
  """The loop over steps; see `train`."""
  with processes.errors_shared():
    # Another run may have saved here before this one had the lock.
    if (checkpoints.latest(job.checkpoints) is not None) != job.resumed:
      raise UserError(f"{job.path}: another run has just saved there; try again")
    if processes.is_main():
      if job.from_step is not None:
        _set_aside(job.path, job.from_step)
      workdir.create(job.path, job.config, job.speaker, job.clip_ids)
  saver = _Saver(job)
  state, start, pending = (first_state, 0, []) if first_state else saver.restore()
  clips = _open_feed(job, start)
  train_steps = _map_train_step(job, clips)
  data = clips.data, job.teacher and job.teacher.state
  with contextlib.ExitStack() as at_exit:
    with processes.errors_shared():
      log = _open_log(job, start, pending, text_log)
    at_exit.callback(log.close)
    gallery = None
    if log.board:  # this process writes files
      videos = job.config.log.tensorboard_videos
      gallery = make_gallery(job.path / workdir.VIDEOS, log.board, videos)
      at_exit.callback(gallery.close)
    at_exit.callback(saver.close)
    log.note(parameter_overview.get_parameter_overview(state.params))
    log.say(_parameter_counts(state))
    blocks = feed.ahead(clips, _blocks(job, start, clips.steps_at_once))
    for first, last, xs in log.waiting_for(blocks):
      state, metrics = train_steps(state, data, xs, last - first + 1)
      log.train_steps(last, metrics, last - first + 1)
      is_epoch = last % job.steps_per_epoch == 0
      if is_epoch:
        log.pending()  # a non-finite loss stops the run before it is scored and shown
      scores = _validate(job, state, log, last) if job.validates_after(last) else {}
      if is_epoch:
        log.end_epoch(last, scores)
      waits = is_epoch or last % job.config.log.every_steps == 0
      stopping, overdue = processes.any_process(
        stop.requested, saver.overdue(), ask=waits
      )
      if stopping or overdue or saver.is_due(last):
        saver.save(state, last, log.pending(), scores)
      if is_epoch:
        _show(job, state, last, gallery)
      if stopping:
        log.say(f"stopped after step {last}, which is saved")
        return False
  return True


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Keeps other runs, but not the other processes of this run, out of the workdir."""
  with contextlib.ExitStack() as stack:
    with processes.errors_shared():
      if processes.is_main():
        stack.enter_context(workdir.locked(path))
    yield


def _set_aside(path: pathlib.Path, step: int) -> None:
  """Moves what came after a step to a folder of its own, so that nothing is lost."""
  folder = path / f"set_aside_{datetime.datetime.now():%Y%m%d-%H%M%S}"
  checkpoints.set_aside_after(path / workdir.CHECKPOINTS, step, folder)
  if folder.is_dir():
    with contextlib.suppress(OSError):
      shutil.copy2(path / workdir.METRICS, folder)
    print(f"checkpoints and metrics after step {step} are kept in {folder}")


class _Saver:
  """Saves the checkpoints of a run, and knows when the next one is due."""

  def __init__(self, job: Job):
    self._job = job
    self._fields = job.config.checkpoint
    self._checkpoints = checkpoints.Checkpoints(
      job.checkpoints,
      self._fields.best_metric,
      self._fields.keep_latest,
      self._fields.keep_best,
      self._fields.keep_every_epochs * job.steps_per_epoch,
    )
    self._since = time.monotonic()
    self.close = self._checkpoints.close

  def restore(self) -> tuple[TrainState, int, list[dict[str, float]]]:
    """The latest state, its step, and the metrics that the log had pending then."""
    step = int(self._checkpoints.find("latest"))
    like = parallel.replicated_shapes(self._job.init_state)
    state = self._checkpoints.restore(step, like)
    return state, step, self._checkpoints.meta(step).get("pending", [])

  def is_due(self, step: int) -> bool:
    """Whether the config asks for a checkpoint after this step."""
    every_steps = self._fields.every_steps
    if every_steps and step % every_steps == 0:
      return True
    epochs, rest = divmod(step, self._job.steps_per_epoch)
    is_epoch = rest == 0 and epochs % self._fields.every_epochs == 0
    return is_epoch or step == self._job.total_steps

  def overdue(self) -> bool:
    """Whether `checkpoint.every_minutes` have passed since the last one."""
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


def _open_feed(job: Job, start: int) -> feed.Feed:
  """The clips of the steps after `start`."""
  config = job.config
  batches: dict[str, int] = {"batch_size": config.batch_size, "seed": config.seed}
  [too_large] = processes.any_process(not feed.fits(job.train, config.dataset.cache_gb))
  if too_large:
    batches |= {"start_step": start, "num_threads": config.dataset.num_threads}
    batches |= processes.share()
    return feed.Streamed(pipeline.train_batches(job.train, **batches))
  steps = config.steps_at_once or (1 if parallel.is_cpu() else config.log.every_steps)
  if config.debug.nans:  # the operation can be found only in single steps
    steps = 1
  return feed.Resident(job.train, steps_at_once=steps, **batches)


def _map_train_step(job: Job, clips: feed.Feed):
  """Function (state, data, block, count) -> (state, metrics); see `map_steps`."""

  def step(state: TrainState, data, x):
    key = base.step_key(job.config.seed, state.step)
    tracks, teacher_state = data
    batch = clips.batch(tracks, x)
    if job.teacher:
      batch["teacher"] = teacher.poses(job.teacher.method, teacher_state, batch)
    state, metrics, poses = job.method.train_step(state, batch, key)
    if poses is None:
      return state, metrics
    scores = job.evaluator.batch_scores(poses, batch["poses"])
    return state, metrics | jax.lax.pmean(scores, base.AXIS)

  return parallel.map_steps(step, job.config.parallel)


def _blocks(job: Job, start: int, length: int) -> Iterator[tuple[int, int]]:
  """First and last step of each dispatch; logging and saving happen only in between."""
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
  job: Job, start: int, pending: list[dict[str, float]], text_log: TextLog
) -> RunLog:
  return RunLog(
    job.path if processes.is_main() else None,
    text_log,
    start_step=start,
    pending=pending,
    total_steps=job.total_steps,
    steps_per_epoch=job.steps_per_epoch,
    every_steps=job.config.log.every_steps,
    batch_size=job.config.batch_size,
    learning_rate=base.learning_rate(job.config, job.steps_per_epoch),
    title=job.method.title,
    config=job.config,
  )


def _parameter_counts(state: TrainState) -> str:
  return ", ".join(
    f"{name}: {parameter_overview.count_parameters({name: params}):,} parameters"
    for name, params in state.params.items()
  )


def _explain(job: Job, error: NonFiniteError) -> str:
  rows = pipeline.train_rows(
    len(job.train), batch_size=job.config.batch_size, seed=job.config.seed
  )[error.step - 1]
  clips = ", ".join(job.train.clip_id(row) for row in np.asarray(rows))
  last_good = checkpoints.latest(job.checkpoints)
  kept = "no checkpoint yet" if last_good is None else f"step {last_good} is kept"
  return (
    f"{error}, training stops ({kept}); try a lower "
    "config.optimizer.learning_rate, or config.debug.nans=True to find the operation; "
    f"clips of the step: {clips}"
  )


def _validate(job: Job, state: TrainState, log: RunLog, step: int) -> dict[str, float]:
  """Scores of the dev split; writes them to the log."""
  assert job.dev is not None
  scores = job.evaluator.scores(state, job.dev, _dev_templates(job, state, job.dev))
  log.write(step, "dev", scores)
  return scores


def _dev_templates(
  job: Job, state: TrainState, dev: pipeline.Split
) -> np.ndarray | None:
  """The template of each dev clip, with the same draw in every epoch."""
  bank = job.method.bank(state)
  [chosen] = sources.choose(
    "random" if bank is None else job.config.evaluation.template,
    bank,
    num_clips=len(dev),
    seed=job.config.seed,
    abilities=sources.Abilities(encode=lambda: job.evaluator.encode(dev)),
  )
  return chosen and chosen.codes


def _show(job: Job, state: TrainState, step: int, gallery: Gallery | None) -> None:
  """Sample videos and the template map, in the epochs that the config asks for."""
  fields, epoch = job.config.log, step // job.steps_per_epoch
  if not fields.video_every_epochs or epoch % fields.video_every_epochs:
    return
  bank = state.templates()
  if bank is not None and gallery:
    gallery.add_templates(np.asarray(bank), epoch, step)
  samples = [("train", job.train, fields.train_videos, job.method.bank(state))]
  if job.dev is not None and fields.dev_videos:
    templates = _dev_templates(job, state, job.dev)
    samples.append(("dev", job.dev, fields.dev_videos, templates))
  for name, split, count, templates in samples:
    rows = pipeline.spread_rows(len(split), count)
    if not len(rows):
      continue
    poses_px = job.evaluator.generate(state, split, templates, rows)
    clips = zip(
      rows, poses_px, split.poses_px(rows), split.read(rows)["audio"], strict=True
    )
    for i, *clip in clips:
      if gallery:
        gallery.add_sample(Sample(f"epoch{epoch:04d}_{name}{i}", *clip), step)
