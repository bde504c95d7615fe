"""Checkpoints of a run; the only file that knows Orbax.

A checkpoint holds the whole `TrainState` and a small JSON beside it (epoch, clips per
epoch). The latest ones and the best ones are kept.
"""

import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sdt_jax.errors import UserError
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import processes

_DELETED = "deleted"  # where Orbax moves what it would delete, and leaves it

_REASONS = [
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
]

# What Orbax and its tasks log with a traceback is raised as well, and told in one line.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class Checkpoints:
  """The checkpoints in one folder.

  Args:
    path: the folder; made on the first save.
    metric: name of the validation metric whose lowest value marks the best checkpoint.
    keep_latest: how many of the newest to keep.
    keep_best: how many of the best to keep.
  """

  def __init__(
    self,
    path: pathlib.Path,
    metric: str,
    keep_latest: int = 1,
    keep_best: int = 1,
    read_only: bool = False,
  ):
    self._path = path
    self._event_loops = contextlib.ExitStack()
    self._event_loops.enter_context(_patient_event_loops())
    if not read_only:
      self._delete()

    def best(metrics: dict[str, float]) -> float:
      return metrics.get(metric, float("inf"))

    policies = [
      checkpoint_managers.LatestN(keep_latest),
      checkpoint_managers.BestN(get_metric_fn=best, reverse=True, n=keep_best),
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
        # Else a folder that cannot be made keeps the process waiting for 20 minutes.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
      ),
    )

  def save(
    self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float]
  ) -> None:
    """Saves in the background; a save that is under way is waited for first.

    Raises:
      UserError: this checkpoint, or the one before, cannot be written.
    """
    step = int(state.step)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    with self._told():
      self._manager.wait_until_finished()
      self._delete()
      self._manager.save(step, args=args, metrics=metrics, force=True)

  def _delete(self) -> None:
    """Deletes what Orbax moved aside: a deletion that is killed harms no checkpoint."""
    if processes.is_main():
      shutil.rmtree(self._path / _DELETED, ignore_errors=True)

  def find(self, which: str) -> int:
    """The step that "latest", "best" or a number stands for.

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
        f"there are latest, best, {', '.join(map(str, steps))}"
      )
    return int(which)

  def meta(self, step: int) -> dict[str, Any]:
    """The JSON that was saved beside the state.

    Raises:
      UserError: it is broken, or lacks "epoch" or "num_clips".
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
        f"{self._path / str(step)}: cannot be restored (its pending metrics are none); "
        "it may be damaged: delete it to go on from the one before"
      )
    return meta

  def restore(self, step: int, like: TrainState) -> TrainState:
    """A state with the shapes and the placement on devices of `like`.

    Raises:
      UserError: the checkpoint is broken, or of another architecture.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    return self._restore(step, args)["state"]

  def _restore(self, step: int, args: ocp.args.Composite) -> Any:
    try:
      return self._manager.restore(step, args=args)
    except Exception as e:  # Orbax raises many kinds, `Exception` itself, too
      reason = " ".join(str(e).split()).split(". ")[0][:300] or type(e).__name__
      raise UserError(
        f"{self._path / str(step)}: cannot be restored ({reason}); "
        "it may be damaged or of another architecture: try another --step"
      ) from e

  def close(self) -> None:
    """Waits for the save that is under way.

    Raises:
      UserError: it cannot be written.
    """
    with self._told(), self._event_loops:
      self._manager.wait_until_finished()
      self._delete()
      self._manager.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Whatever Orbax and its storage raise when a disk is full or read-only."""
    try:
      yield
    except Exception as e:
      first_line = str(e).strip().partition("\n")[0] or type(e).__name__
      reason = next((known for known in _REASONS if known in str(e)), first_line)
      raise UserError(
        f"{self._path}: a checkpoint cannot be written ({reason}); the ones before it "
        "are intact: make room, then give the same command to go on"
      ) from e


def _are_metrics(pending: Any) -> bool:
  """Whether this is a list of what steps told: name -> number."""
  return isinstance(pending, list) and all(
    isinstance(step, dict) and all(type(v) in (int, float) for v in step.values())
    for step in pending
  )


class _PatientEventLoop(asyncio.SelectorEventLoop):
  """Waits for its tasks before it closes.

  Orbax reads or writes all arrays at once, and closes its loop at the first that fails;
  the others would then complain on stderr, each with a traceback.
  """

  def close(self) -> None:
    async def wait_for(tasks: set[asyncio.Task]) -> None:
      await asyncio.gather(*tasks, return_exceptions=True)

    if not self.is_closed():
      self.run_until_complete(wait_for(asyncio.all_tasks(self)))
    super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
  def new_event_loop(self) -> asyncio.AbstractEventLoop:
    return _PatientEventLoop()


@contextlib.contextmanager
def _patient_event_loops() -> Iterator[None]:
  before = asyncio.get_event_loop_policy()
  asyncio.set_event_loop_policy(_PatientPolicy())
  try:
    yield
  finally:
    asyncio.set_event_loop_policy(before)


def latest(path: pathlib.Path) -> int | None:
  """Step of the newest complete checkpoint in a folder, None without any."""
  if not path.is_dir():
    return None
  steps = [int(child.name) for child in path.iterdir() if child.name.isdecimal()]
  return max(steps, default=None)
