"""Saves and restores the checkpoints of a run; the only file that uses Orbax.

A checkpoint consists of the whole `TrainState` and a small JSON (epoch, number of
clips, pending metrics). The latest and the best checkpoints are kept.
"""

import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Coroutine, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sdt_jax.errors import UserError
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import processes

_DELETED = "deleted"  # Orbax moves old checkpoints here instead of deleting them

_REASONS = [
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
]

# Orbax logs a traceback of every error that it raises.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def _run_to_completion(coroutine: Coroutine[Any, Any, Any]) -> Any:
  """Runs a coroutine in a new event loop, then the tasks that it left behind.

  Orbax reads or writes all arrays at once. It closes its loop when the first one fails,
  whereupon TensorStore prints a traceback for each of the others.
  """
  loop = asyncio.new_event_loop()
  loop.set_exception_handler(lambda *_: None)  # Orbax raises the first error anyway
  try:
    return loop.run_until_complete(coroutine)
  finally:
    while tasks := asyncio.all_tasks(loop):
      loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


# This is private to Orbax. A version without it works, but prints the tracebacks.
with contextlib.suppress(ImportError):
  from orbax.checkpoint._src import asyncio_utils

  asyncio_utils._run_sync_via_new_loop = _run_to_completion


class Checkpoints:
  """The checkpoints in one folder.

  Args:
    path: the folder, which Orbax creates unless `read_only`.
    metric: name of the validation metric whose lowest value marks the best checkpoint.
    keep_latest: how many of the newest checkpoints to keep.
    keep_best: how many of the best checkpoints to keep.
    keep_every: also keep the checkpoints of the steps that this divides; 0 for none.
    read_only: never change the folder.
  """

  def __init__(
    self,
    path: pathlib.Path,
    metric: str,
    keep_latest: int = 1,
    keep_best: int = 1,
    keep_every: int = 0,
    read_only: bool = False,
  ):
    self._path = path
    if not read_only:
      self._delete_old()

    def best(metrics: dict[str, float]) -> float:
      return metrics.get(metric, float("inf"))

    policies = [
      checkpoint_managers.LatestN(keep_latest),
      checkpoint_managers.BestN(get_metric_fn=best, reverse=True, n=keep_best),
      *([checkpoint_managers.EveryNSteps(keep_every)] if keep_every else []),
    ]
    self._manager = ocp.CheckpointManager(
      path.absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=best,
        best_mode="min",
        todelete_subdir=None if read_only else _DELETED,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        create=not read_only,
        # Otherwise Orbax waits 20 minutes for a folder that cannot be created.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
      ),
    )

  def save(
    self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]
  ) -> None:
    """Saves in the background, after waiting for an unfinished save.

    Raises:
      UserError: this checkpoint or the previous one cannot be written.
    """
    step = int(state.step)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    with self._raise_as_user_error():
      self._manager.wait_until_finished()
      self._delete_old()
      self._manager.save(step, args=args, metrics=metrics, force=True)

  def _delete_old(self) -> None:
    """Deletes old checkpoints, which Orbax has moved aside.

    So a process killed at any time leaves no half-deleted checkpoint.
    """
    if processes.is_main():
      shutil.rmtree(self._path / _DELETED, ignore_errors=True)

  def find(self, which: str) -> int:
    """Returns the step of a checkpoint, given "latest", "best" or a step number.

    Raises:
      UserError: there is no such checkpoint.
    """
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise UserError(f"{self._path}: no checkpoint; train the run first")
    if which == "latest":
      return steps[-1]
    if which == "best":
      best = self._manager.best_step()
      return steps[-1] if best is None else best
    if which not in map(str, steps):
      raise UserError(
        f"--step={which}: no such checkpoint in {self._path}; "
        f"choose one of latest, best, {', '.join(map(str, steps))}"
      )
    return int(which)

  def meta(self, step: int) -> dict[str, Any]:
    """Returns the JSON that was saved with the state.

    Raises:
      UserError: it is damaged, or "epoch" or "num_clips" is missing.
    """
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = self._restore(step, args)["meta"]
    counts = [isinstance(meta, dict) and meta.get(k) for k in ("epoch", "num_clips")]
    if not all(type(count) is int and 0 <= count < 2**31 for count in counts):
      raise UserError(
        f"{self._path / str(step)}: cannot be restored (epoch and number of clips are "
        f"{counts}); it may be damaged: try another --step"
      )
    if not _are_metrics(meta.get("pending", [])):
      raise UserError(
        f"{self._path / str(step)}: cannot be restored (the pending metrics are "
        "malformed); it may be damaged: delete it to resume from the one before"
      )
    return meta

  def restore(self, step: int, like: TrainState) -> TrainState:
    """Returns the state, with the shapes and device placement of `like`.

    Raises:
      UserError: the checkpoint is damaged, or belongs to another architecture.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    return self._restore(step, args)["state"]

  def _restore(self, step: int, args: ocp.args.Composite) -> Any:
    try:
      return self._manager.restore(step, args=args)
    except Exception as e:  # Orbax raises many types, including Exception itself
      reason = " ".join(str(e).split()).split(". ")[0][:300] or type(e).__name__
      raise UserError(
        f"{self._path / str(step)}: cannot be restored ({reason}); "
        "it may be damaged or of another architecture: try another --step"
      ) from e

  def close(self) -> None:
    """Waits for an unfinished save, and frees Orbax's resources.

    Raises:
      UserError: the checkpoint cannot be written.
    """
    with self._raise_as_user_error():
      self._manager.wait_until_finished()
      self._delete_old()
      self._manager.close()

  @contextlib.contextmanager
  def _raise_as_user_error(self) -> Iterator[None]:
    """Replaces the errors that Orbax and TensorStore raise, e.g. on a full disk."""
    try:
      yield
    except Exception as e:
      first_line = str(e).strip().partition("\n")[0] or type(e).__name__
      reason = next((known for known in _REASONS if known in str(e)), first_line)
      raise UserError(
        f"{self._path}: a checkpoint cannot be written ({reason}); the earlier ones "
        "are intact: make room, then run the same command to resume"
      ) from e


def _are_metrics(pending: Any) -> bool:
  """Returns whether this is a list with the metrics of steps: name -> number."""
  return isinstance(pending, list) and all(
    isinstance(step, dict) and all(type(v) in (int, float) for v in step.values())
    for step in pending
  )


def steps(path: pathlib.Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a folder, in order."""
  if not path.is_dir():
    return []
  return sorted(int(child.name) for child in path.iterdir() if child.name.isdecimal())


def set_aside_after(path: pathlib.Path, step: int, aside: pathlib.Path) -> None:
  """Moves the checkpoints after a step from `path` to the new folder `aside`.

  Raises:
    UserError: they cannot be moved.
  """
  later = [str(other) for other in steps(path) if other > step]
  try:
    for name in later:
      aside.mkdir(exist_ok=True)
      (path / name).rename(aside / name)
  except OSError as e:
    raise UserError(f"{aside}: cannot be written ({e.strerror or e})") from e


def latest(path: pathlib.Path) -> int | None:
  """Returns the step of the newest complete checkpoint in a folder, None if empty."""
  return max(steps(path), default=None)
