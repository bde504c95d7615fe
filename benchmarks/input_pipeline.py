"""Speed of reading clips, and the share of training time spent waiting for them.

    python -m benchmarks.input_pipeline [--num_clips=600] [--train_steps=20]

The data set is built from a generated pack of overlapping clips. Its files are in the
page cache. The wait is that of `configs/quick.py`, which has the shortest step, with
the steps one after another: a loop in which the devices run ahead waits no longer.
"""

import concurrent.futures
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from benchmarks import measure, workloads
from sdt_jax import methods
from sdt_jax.data import pipeline, speech2gesture
from sdt_jax.training import parallel, runs

_TRAIN_STEPS = flags.DEFINE_integer(
  "train_steps", 20, "Number of steps over which waiting is measured.", lower_bound=1
)

_THREADS = (1, 2)
_BATCH_SIZE = 32
_BATCHES = 30  # per timing; a few of them may have been read before


def main() -> list[measure.Row]:
  with tempfile.TemporaryDirectory() as folder:
    pack = pathlib.Path(folder)
    workloads.write_pack(pack)
    built = speech2gesture.prepare(pack, workloads.SPEAKER, pack / "data")
    split = pipeline.Split(built.sources["train"], built.statistics.hierarchical)
    return [*_reads(split), *_batches(split), _wait(split)]


def _reads(split: pipeline.Split) -> list[measure.Row]:
  """Reads every clip once, in random order, with 1 and 2 threads."""
  order = np.random.default_rng(0).permutation(len(split))
  chunks = [order[i : i + _BATCH_SIZE] for i in range(0, len(order), _BATCH_SIZE)]
  pools = {n: concurrent.futures.ThreadPoolExecutor(n) for n in _THREADS}
  seconds = measure.interleave(
    {n: lambda n=n: list(pools[n].map(split.read, chunks)) for n in _THREADS}
  )
  return _rows("random reads", len(split), seconds, goals={2: 15_000})


def _rows(
  name: str, clips: int, seconds: dict[int, list[float]], goals: dict[int, float]
) -> list[measure.Row]:
  """`seconds` and `goals` by number of threads."""
  return [
    measure.Row(
      f"{name}, {n} thread(s)", "clips/s", measure.rates(clips, times), goals.get(n)
    )
    for n, times in seconds.items()
  ]


def _train_batches(split: pipeline.Split, size: int, threads: int) -> Iterator:
  return pipeline.train_batches(split, batch_size=size, seed=0, num_threads=threads)


def _batches(split: pipeline.Split) -> list[measure.Row]:
  """Takes batches without computing anything, from 1 and 2 threads."""
  size = min(_BATCH_SIZE, len(split))
  batches = {n: _train_batches(split, size, n) for n in _THREADS}
  seconds = measure.interleave(
    {n: lambda n=n: [next(batches[n]) for _ in range(_BATCHES)] for n in _THREADS}
  )
  return _rows("train_batches", _BATCHES * size, seconds, goals={})


def _wait(split: pipeline.Split) -> measure.Row:
  """Share of the training time spent waiting for the next batch."""
  config = workloads.config("quick")
  method = methods.build(config, steps_per_epoch=1000)
  state = parallel.replicate(runs.init_state(method, 0, len(split)))
  step = workloads.map_step(method)
  batches = _train_batches(split, config.batch_size, config.dataset.num_threads)

  def send(batch):
    return parallel.split({name: x[None] for name, x in batch.items()}, axis=1)

  state, _ = step(state, (), send(next(batches)), 1)  # compiles
  waits, totals = [], []
  for _ in range(_TRAIN_STEPS.value):
    start = time.perf_counter()
    batch = next(batches)
    waits.append(time.perf_counter() - start)
    state, metrics = step(state, (), send(batch), 1)
    jax.block_until_ready(metrics)
    totals.append(time.perf_counter() - start)
  share = 100 * sum(waits) / sum(totals)
  name = f"waiting for input, configs/quick.py, {len(totals)} steps"
  return measure.Row(name, "%", [share], 1)


if __name__ == "__main__":
  measure.run(main)
