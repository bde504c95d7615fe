"""The logs of a run: progress bar, metrics.jsonl, TensorBoard.

Logging never stops a run: output that cannot be written is skipped, with one warning.
"""

import collections
import contextlib
import json
import logging
import math
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, TypeVar

import jax
import numpy as np
import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from sdt_jax import workdir
from sdt_jax.config import Config, flatten

T = TypeVar("T")

_log = logging.getLogger(__name__)
_package_log = logging.getLogger("sdt_jax")
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
      is_first, self.failed = not self.failed, True
      if is_first:
        reason = getattr(e, "strerror", None) or e
        _log.warning("%s: skipped (%s); training continues", self._what, reason)


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


class TextLog(logging.FileHandler):
  """The package's messages, with the time, for `train.log`.

  As a context, it collects them; `open` writes those so far, and then each as it comes.
  An error that ends the context is also written.
  """

  def __init__(self):
    super().__init__(os.devnull, delay=True, encoding="utf-8")
    self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    self._early: list[logging.LogRecord] | None = []
    self._guard = Guard(workdir.LOG)

  def __enter__(self) -> "TextLog":
    _package_log.addHandler(self)
    return self

  def __exit__(self, kind, error, trace) -> None:
    _package_log.removeHandler(self)
    if error:
      self.write(f"{kind.__name__}: {error}")
    self.close()

  def open(self, path: pathlib.Path) -> None:
    """Begins to write to a file."""
    self.baseFilename = os.path.abspath(path)
    early, self._early = self._early or [], None
    for record in early:
      self.handle(record)

  def write(self, text: str) -> None:
    """Adds a message that is not shown elsewhere."""
    self.handle(logging.makeLogRecord({"msg": text}))

  def emit(self, record: logging.LogRecord) -> None:
    if self._early is None:
      self._guard(super().emit, record)
    else:
      self._early.append(record)

  def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
    raise  # the exception that is being handled, for the guard


def _describe_start(config: Config) -> str:
  """Command, versions, devices and fields of a run."""
  packages = ("sdt_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  versions = {"python": platform.python_version()}
  for package in packages:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[package] = metadata.version(package)
  devices = collections.Counter(device.device_kind for device in jax.devices())
  lines = [
    f"command: {shlex.join(sys.argv)}",
    "versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()),
    "devices: " + ", ".join(f"{count} x {kind}" for kind, count in devices.items()),
    *(f"config.{name} = {value!r}" for name, value in flatten(config).items()),
  ]
  return "\n".join(lines)


class RunLog:
  """Collects the metrics of training steps and writes their means.

  Args:
    path: the workdir; None for a process that only checks for non-finite metrics.
    text_log: is opened in the workdir.
    start_step: step to start after; later lines of an earlier attempt are dropped.
    pending: metrics of earlier steps that are not yet part of a line, from `pending`.
    total_steps: last step of the run.
    steps_per_epoch: converts steps to epochs.
    every_steps: steps per line of training metrics.
    batch_size: clips per step.
    learning_rate: function from the number of earlier steps to the rate.
    title: what is trained, for the progress bar.
    config: the fields of the run, for `train.log`.
  """

  def __init__(
    self,
    path: pathlib.Path | None,
    text_log: TextLog,
    *,
    start_step: int,
    pending: list[dict[str, float]],
    total_steps: int,
    steps_per_epoch: int,
    every_steps: int,
    batch_size: int,
    learning_rate: Callable[[int], Any],
    title: str,
    config: Config,
  ):
    self._jsonl = path and path / workdir.METRICS
    self._steps_per_epoch = steps_per_epoch
    self._every_steps = every_steps
    self._batch_size = batch_size
    self._learning_rate = learning_rate
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
      desc=title,
      smoothing=0.1,
      disable=path is None,
    )
    self._total_steps = total_steps
    self._restart_clock()
    self.note = text_log.write
    if path:
      text_log.open(path / workdir.LOG)
    self.note(f"{title}, from step {start_step}\n{_describe_start(config)}")
    self._epoch_start = time.perf_counter()
    self._epoch_seconds: collections.deque[float] = collections.deque(maxlen=10)
    self._latest: dict[str, float] = {}

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
    names = set.intersection(*(set(v) for v in values))  # older versions had fewer
    means = {
      n: float(np.mean([v[n] for v in values])) for n in values[-1] if n in names
    }
    seconds = time.perf_counter() - self._since
    speed = {
      "clips_per_s": round(self._timed_steps * self._batch_size / seconds, 2),
      "input_wait": round(self._waited / seconds, 4),
    }
    loss, clips = f"{means['loss']:.4f}", f"{speed['clips_per_s']:.0f}"
    self._bar.set_postfix(loss=loss, clips_per_s=clips)
    rate = {"learning_rate": float(f"{self._learning_rate(self._step - 1):.6g}")}
    self._latest = means
    self.write(self._step, "train", means | rate | speed)
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

  def end_epoch(self, step: int, scores: dict[str, float]) -> None:
    """Writes how long the epoch took, and the time left at the pace of the last ten.

    Validation, checkpoints and samples are included.
    """
    now = time.perf_counter()
    self._epoch_seconds.append(now - self._epoch_start)
    self._epoch_start = now
    epoch, total = (s // self._steps_per_epoch for s in (step, self._total_steps))
    left = float(np.mean(self._epoch_seconds)) * (total - epoch)
    times = {"seconds": round(self._epoch_seconds[-1], 3), "seconds_left": round(left)}
    self.write(step, "epoch", times)
    shown = {"loss": self._latest.get("loss", math.nan)} | scores
    values = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
    self.note(
      f"epoch {epoch} of {total}: {values}; {times['seconds']:.0f} s, "
      f"{left / 3600:.1f} h left"
    )

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    self.note(text)
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
