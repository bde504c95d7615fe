"""Checkpoints of a run; the only file that knows Orbax.

A checkpoint holds the whole `TrainState` and a small JSON beside it (epoch, clips per
epoch). The latest ones and the best ones are kept.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from sdt_jax.errors import UserError
from sdt_jax.training.train_state import TrainState

_DELETED = "deleted"  # where Orbax moves what it is about to delete


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
    if not read_only:
      # A killed run may have left half-deleted steps here.
      shutil.rmtree(path / _DELETED, ignore_errors=True)

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
      ),
    )

  def latest_step(self) -> int | None:
    """Newest step that is complete, None without any."""
    return self._manager.latest_step()

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
      self._manager.save(step, args=args, metrics=metrics, force=True)

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
    if not which.isdecimal() or int(which) not in steps:
      raise UserError(
        f"--step={which}: no such checkpoint in {self._path}; "
        f"there are latest, best, {', '.join(map(str, steps))}"
      )
    return int(which)

  def meta(self, step: int) -> dict[str, Any]:
    """The JSON that was saved beside the state."""
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return self._restore(step, args)["meta"]

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
    except (ValueError, KeyError, TypeError, OSError) as e:
      reason = str(e).splitlines()[0] if str(e) else type(e).__name__
      raise UserError(
        f"{self._path / str(step)}: cannot be restored ({reason}); "
        "it may be damaged or of another architecture: try another --step"
      ) from e

  def close(self) -> None:
    """Waits for the save that is under way.

    Raises:
      UserError: it cannot be written.
    """
    with self._told():
      self._manager.wait_until_finished()
      self._manager.close()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Whatever Orbax and its storage raise when a disk is full or read-only."""
    try:
      yield
    except Exception as e:
      reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
      raise UserError(
        f"{self._path}: a checkpoint cannot be written ({reason}); the ones before it "
        "are intact: make room, then give the same command to go on"
      ) from e


def exists(path: pathlib.Path) -> bool:
  """Whether the folder holds at least one checkpoint."""
  return path.is_dir() and any(child.name.isdecimal() for child in path.iterdir())
