"""What a run tells while it goes: a progress bar, metrics.jsonl, TensorBoard."""

import json
import pathlib
import time

import jax
import numpy as np
import tensorboardX
import tqdm

from sdt_jax import workdir


class RunLog:
  """Collects the metrics of training steps; writes their mean now and then.

  Args:
    path: the workdir.
    start_step: where the run begins; later lines of an earlier attempt are dropped.
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
    total_steps: int,
    steps_per_epoch: int,
    every_steps: int,
    batch_size: int,
  ):
    self._jsonl = path / workdir.METRICS
    self._steps_per_epoch = steps_per_epoch
    self._every_steps = every_steps
    self._batch_size = batch_size
    self._waiting: list[dict[str, jax.Array]] = []
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
    """Takes the metrics of one step without waiting for the devices."""
    self._waiting.append(metrics)
    self._bar.update()
    if step % self._every_steps == 0 or step == self._bar.total:
      values = jax.device_get(self._waiting)
      means = {k: float(np.mean([v[k] for v in values])) for k in metrics}
      seconds = time.perf_counter() - self._since
      speed = len(values) * self._batch_size / seconds
      self._bar.set_postfix(loss=f"{means['loss']:.4f}", clips_per_s=f"{speed:.0f}")
      self.write(step, "train", means | {"clips_per_s": round(speed, 2)})
      self._waiting.clear()
      self._since = time.perf_counter()

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
