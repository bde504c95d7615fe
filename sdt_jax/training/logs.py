"""The logs of a run: progress bar, metrics.jsonl, TensorBoard.

Logging never stops a run: output that cannot be written is skipped, with one warning.
"""

import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from sdt_jax import workdir

T = TypeVar("T")

_log = logging.getLogger(__name__)
_proto: Any = event_pb2  # its names are created at run time


class NonFiniteError(Exception):
  """A metric of a training step is NaN or infinite."""

  def __init__(self, step: int, name: str, value: float):
    super().__init__(f"step {step}: {name} is {value}")
    self.step = step


class Guard:
  """Calls functions that must not stop a run; logs the first failure as a warning.

  Args:
    what: for the warning, for example "metrics.jsonl".
  """

  def __init__(self, what: str):
    self._what = what
    self.failed = False

  def __call__(self, function: Callable[..., Any], *args) -> None:
    try:
      function(*args)
    except Exception as e:  # no failure here is worth losing the run
      if not self.failed:
        reason = getattr(e, "strerror", None) or e
        _log.warning("%s: skipped (%s); training continues", self._what, reason)
      self.failed = True


class Board:
  """An event file of TensorBoard.

  Events are written synchronously: tensorboardX's own SummaryWriter writes in a thread,
  and when that fails on a full disk, the program hangs.

  Args:
    path: folder of the file.
    start_step: TensorBoard hides events of an earlier attempt after this step.
  """

  def __init__(self, path: pathlib.Path, start_step: int):
    self._file: EventsWriter | None = None
    self._guard = Guard("TensorBoard")
    self._guard(self._open, path, start_step)

  def _open(self, path: pathlib.Path, start_step: int) -> None:
    self._file = EventsWriter(str(path / "events"))
    start = _proto.SessionLog(status=_proto.SessionLog.START)
    self._write(_proto.Event(step=start_step + 1, session_log=start))

  def add(self, content, step: int) -> None:
    """Adds a summary made by `tensorboardX.summary`."""
    self._guard(self._write, _proto.Event(summary=content, step=step))

  def _write(self, event) -> None:
    if self._file:
      event.wall_time = time.time()
      self._file.write_event(event)
      self._file.flush()

  def close(self) -> None:
    if self._file:
      self._guard(self._file.close)


class RunLog:
  """Collects the metrics of training steps and writes their means.

  Args:
    path: the workdir; None for a process that only checks for non-finite metrics.
    start_step: step to start after; later lines of an earlier attempt are dropped.
    pending: metrics of earlier steps that are not yet part of a line, from `pending`.
    total_steps: last step of the run.
    steps_per_epoch: converts steps to epochs.
    every_steps: steps per line of training metrics.
    batch_size: clips per step.
  """

  def __init__(
    self,
    path: pathlib.Path | None,
    *,
    start_step: int,
    pending: list[dict[str, float]],
    total_steps: int,
    steps_per_epoch: int,
    every_steps: int,
    batch_size: int,
  ):
    self._jsonl = path and path / workdir.METRICS
    self._steps_per_epoch = steps_per_epoch
    self._every_steps = every_steps
    self._batch_size = batch_size
    self._step = start_step
    self._pending = list(pending)
    self._on_device: list[tuple[dict[str, jax.Array], int]] = []
    self._guard = Guard(workdir.METRICS)
    self._drop_lines_after(start_step)
    self.board = Board(path, start_step) if path else None
    self._bar = tqdm.tqdm(
      initial=start_step,
      total=total_steps,
      unit="step",
      desc="training",
      smoothing=0.1,
      disable=path is None,
    )
    self._total_steps = total_steps
    self._restart_clock()

  def _drop_lines_after(self, step: int) -> None:
    if self._jsonl is None or not self._jsonl.exists():
      return
    kept = [x for x in workdir.read_metrics(self._jsonl.parent) if _step_of(x) <= step]
    workdir.write_text(self._jsonl, "".join(json.dumps(x) + "\n" for x in kept))

  def _restart_clock(self) -> None:
    self._timed_steps, self._waited = 0, 0.0
    self._since = time.perf_counter()

  def waiting_for(self, items: Iterator[T]) -> Iterator[T]:
    """Passes the items on; counts the time until each arrives as waiting for input."""
    while True:
      start = time.perf_counter()
      item = next(items, None)
      self._waited += time.perf_counter() - start
      if item is None:
        return
      yield item

  def train_steps(self, last: int, metrics: dict[str, jax.Array], count: int) -> None:
    """Adds the metrics of some steps; waits for the devices only to write a line.

    Args:
      last: number of the last of these steps.
      metrics: name -> (K,); the first `count` entries are valid.
      count: number of these steps.

    Raises:
      NonFiniteError: a metric of a step since the last line is NaN or infinite.
    """
    self._step = last
    self._on_device.append((metrics, count))
    self._timed_steps += count
    self._bar.update(count)
    if last % self._every_steps == 0 or last == self._total_steps:
      self._write_line(self.pending())

  def pending(self) -> list[dict[str, float]]:
    """Metrics of the steps that are not yet part of a line; saved in checkpoints.

    Raises:
      NonFiniteError: one of them is NaN or infinite.
    """
    for metrics, count in jax.device_get(self._on_device):
      for i in range(count):
        self._pending.append({name: float(v[i]) for name, v in metrics.items()})
    self._on_device.clear()
    first = self._step - len(self._pending) + 1
    for step, values in enumerate(self._pending, first):
      for name, value in values.items():
        if not math.isfinite(value):
          raise NonFiniteError(step, name, value)
    return list(self._pending)

  def _write_line(self, values: list[dict[str, float]]) -> None:
    means = {name: float(np.mean([v[name] for v in values])) for name in values[-1]}
    seconds = time.perf_counter() - self._since
    speed = {
      "clips_per_s": round(self._timed_steps * self._batch_size / seconds, 2),
      "input_wait": round(self._waited / seconds, 4),
    }
    loss, clips = f"{means['loss']:.4f}", f"{speed['clips_per_s']:.0f}"
    self._bar.set_postfix(loss=loss, clips_per_s=clips)
    self.write(self._step, "train", means | speed)
    self._pending = []
    self._restart_clock()

  def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
    """Writes a line of metrics.jsonl and the scalars of TensorBoard."""
    if self._jsonl is None or self.board is None:
      return
    epoch = -(-step // self._steps_per_epoch)
    line = {"step": step, "epoch": epoch, "split": split, **metrics}
    self._guard(_append, self._jsonl, json.dumps(line))
    for name, value in metrics.items():
      self.board.add(summary.scalar(f"{split}/{name}", value), step)

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    if not self._bar.disable:
      self._bar.write(text)

  def close(self) -> None:
    self._bar.close()
    if self.board:
      self.board.close()


def _append(path: pathlib.Path, line: str) -> None:
  with path.open("a+b") as file:
    file.seek(max(0, file.tell() - 1))
    cut = file.read(1) not in (b"", b"\n")  # by a full disk: ends that line
    file.write((b"\n" if cut else b"") + line.encode() + b"\n")


def _step_of(entry: dict[str, Any]) -> float:
  """The step of a line; infinite if it has none, so that the line is dropped."""
  step = entry.get("step")
  return step if type(step) is int else math.inf
