"""What a run tells while it goes: a progress bar, metrics.jsonl, TensorBoard."""

import json
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np
import tensorboardX
import tqdm

from sdt_jax import workdir


class NonFiniteError(Exception):
  """A metric of a training step is NaN or infinite."""

  def __init__(self, step: int, name: str, value: float):
    super().__init__(f"step {step}: {name} is {value}")
    self.step = step


class RunLog:
  """Collects the metrics of training steps; writes their mean now and then.

  Args:
    path: the workdir.
    start_step: where the run begins; later lines of an earlier attempt are dropped.
    pending: metrics of steps before that which no line tells yet (`pending`).
    total_steps: where it ends.
    steps_per_epoch: to count epochs with.
    every_steps: how often training metrics are written.
    batch_size: clips in a step.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    start_step: int,
    pending: list[dict[str, float]],
    total_steps: int,
    steps_per_epoch: int,
    every_steps: int,
    batch_size: int,
  ):
    self._jsonl = path / workdir.METRICS
    self._steps_per_epoch = steps_per_epoch
    self._every_steps = every_steps
    self._batch_size = batch_size
    self._step = start_step
    self._waiting: list[dict[str, Any]] = list(pending)
    self._timed = 0
    self._drop_lines_after(start_step)
    self.tensorboard = tensorboardX.SummaryWriter(str(path), purge_step=start_step + 1)
    self._bar = tqdm.tqdm(
      initial=start_step, total=total_steps, unit="step", desc="training", smoothing=0.1
    )
    self._since = time.perf_counter()

  def _drop_lines_after(self, step: int) -> None:
    if not self._jsonl.exists():
      return
    lines = self._jsonl.read_text().splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    workdir.write_text(self._jsonl, "".join(f"{line}\n" for line in kept))

  def train_step(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of one step; waits for the devices only to write a line.

    Raises:
      NonFiniteError: a metric of a step since the last line is NaN or infinite.
    """
    self._step = step
    self._waiting.append(metrics)
    self._timed += 1
    self._bar.update()
    if step % self._every_steps == 0 or step == self._bar.total:
      values = self.pending()
      means = {k: float(np.mean([v[k] for v in values])) for k in metrics}
      seconds = time.perf_counter() - self._since
      speed = self._timed * self._batch_size / seconds
      self._bar.set_postfix(loss=f"{means['loss']:.4f}", clips_per_s=f"{speed:.0f}")
      self.write(step, "train", means | {"clips_per_s": round(speed, 2)})
      self._waiting.clear()
      self._timed = 0
      self._since = time.perf_counter()

  def pending(self) -> list[dict[str, float]]:
    """Metrics of the steps that no line tells yet; a checkpoint keeps them.

    Raises:
      NonFiniteError: one of them is NaN or infinite.
    """
    values = [
      {name: float(v) for name, v in step.items()}
      for step in jax.device_get(self._waiting)
    ]
    first = self._step - len(values) + 1
    for step, metrics in enumerate(values, first):
      for name, value in metrics.items():
        if not math.isfinite(value):
          raise NonFiniteError(step, name, value)
    return values

  def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
    """One line of metrics.jsonl, and the scalars of TensorBoard."""
    epoch = -(-step // self._steps_per_epoch)
    line = {"step": step, "epoch": epoch, "split": split, **metrics}
    with self._jsonl.open("a") as f:
      f.write(json.dumps(line) + "\n")
    for name, value in metrics.items():
      self.tensorboard.add_scalar(f"{split}/{name}", value, step)

  def say(self, text: str) -> None:
    """A line above the progress bar."""
    self._bar.write(text)

  def close(self) -> None:
    self._bar.close()
    self.tensorboard.close()


def _step_of(line: str) -> float:
  """The step of a line; a line that was cut off by a crash is dropped."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return float("inf")
