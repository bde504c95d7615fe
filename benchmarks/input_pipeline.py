"""How fast clips are read, and what share of a training waits for them.

    python -m benchmarks.input_pipeline [--num_clips=600] [--train_steps=20]

The data set is built from a made-up pack of overlapping clips; its files are in the
page cache, nothing is held in memory besides. The wait is that of `configs/quick.py`,
whose step is the shortest, with the steps one after the other: what a loop that lets
the devices run ahead waits is no more.
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
  "train_steps", 20, "Of the training whose waiting is measured.", lower_bound=1
)

_THREADS = (1, 2)
_BATCH_SIZE = 32
_BATCHES = 30  # in a timing; a few may wait from before


def main() -> list[measure.Row]:
  with tempfile.TemporaryDirectory() as folder:
    pack = pathlib.Path(folder)
    workloads.write_pack(pack)
    built = speech2gesture.prepare(pack, workloads.SPEAKER, pack / "data")
    split = pipeline.Split(built.sources["train"], built.statistics.hierarchical)
    return [*_reads(split), *_batches(split), _wait(split)]


def _reads(split: pipeline.Split) -> list[measure.Row]:
  """Every clip once, in random order, by 1 and 2 threads."""
  order = np.random.default_rng(0).permutation(len(split))
  chunks = [order[i : i + _BATCH_SIZE] for i in range(0, len(order), _BATCH_SIZE)]
  pools = {n: concurrent.futures.ThreadPoolExecutor(n) for n in _THREADS}
  seconds = measure.interleave(
    {n: lambda n=n: list(pools[n].map(split.read, chunks)) for n in _THREADS}
  )
  return [
    measure.Row(
      f"random reads, {n} thread(s)",
      "clips/s",
      measure.rates(len(split), seconds[n]),
      15_000 if n == 2 else None,
    )
    for n in _THREADS
  ]


def _train_batches(split: pipeline.Split, size: int, threads: int) -> Iterator:
  return pipeline.train_batches(split, batch_size=size, seed=0, num_threads=threads)


def _batches(split: pipeline.Split) -> list[measure.Row]:
  """Batches that nobody computes with, from 1 and 2 threads."""
  size = min(_BATCH_SIZE, len(split))
  batches = {n: _train_batches(split, size, n) for n in _THREADS}
  seconds = measure.interleave(
    {n: lambda n=n: [next(batches[n]) for _ in range(_BATCHES)] for n in _THREADS}
  )
  return [
    measure.Row(
      f"train_batches, {n} thread(s)",
      "clips/s",
      measure.rates(_BATCHES * size, seconds[n]),
    )
    for n in _THREADS
  ]


def _wait(split: pipeline.Split) -> measure.Row:
  """Share of the time in which a training waits for its next batch."""
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
