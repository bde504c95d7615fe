"""Speed of a training step, for each experiment, batch size and precision.

    python -m benchmarks.training_step [--experiments=sdt_bp,s2g] [--batch_sizes=8] \
      [--precisions=float32,bf16] [--set=FIELD=VALUE ...] [--profile=DIR]

One batch stays on the devices, so only the step is measured. The FLOPs of the model are
XLA's count for the program before optimisation (SDT-BP: 21.5 GFLOP per clip and step).
The memory is that of the arguments, results and temporaries of the compiled step.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
from absl import flags

from benchmarks import measure, workloads
from sdt_jax import methods
from sdt_jax.errors import UserError
from sdt_jax.training import parallel, runs

_EXPERIMENTS = flags.DEFINE_list(
  "experiments", "sdt_bp,sdt_vae,s2g,pose2pose", "Names of files in configs/."
)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "Default: 8 on a CPU, else 256.")
_PRECISIONS = flags.DEFINE_list(
  "precisions",
  None,
  "Values of config.precision. Default: float32; also bf16 unless on a CPU.",
)

_NUM_CLIPS = 30_000  # as of a published speaker; each has a template
_DTYPES = {"float32": "float32", "bf16": "bfloat16"}


class _Case(NamedTuple):
  experiment: str
  batch_size: int
  precision: str


class _Step(NamedTuple):
  """A compiled step. FLOPs and memory are those of one device."""

  run: Callable[[], object]  # runs the step once
  flops: float
  memory: float  # bytes
  compile_s: float


def main() -> list[measure.Row]:
  cases = _cases()
  peaks = {
    precision: measure.matrix_peak(_DTYPES[precision])
    for precision in dict.fromkeys(case.precision for case in cases)
  }
  steps = {case: _prepare(case) for case in cases}
  seconds = measure.interleave({case: step.run for case, step in steps.items()})
  rows = [
    _row(case, steps[case], seconds[case], peaks[case.precision]) for case in cases
  ]
  return rows + [
    measure.Row(f"matrix product, {precision}", "TFLOP/s", [peak / 1e12])
    for precision, peak in peaks.items()
  ]


def _cases() -> list[_Case]:
  cpu = parallel.is_cpu()
  precisions = _PRECISIONS.value or (["float32"] if cpu else ["float32", "bf16"])
  if unknown := set(precisions) - set(_DTYPES):
    raise UserError(f"--precisions={unknown.pop()}: choose float32, bf16 or both")
  try:
    batch_sizes = [int(size) for size in _BATCH_SIZES.value or ["8" if cpu else "256"]]
  except ValueError as e:
    raise UserError(f"--batch_sizes={_BATCH_SIZES.value}: {e}") from e
  cases = itertools.product(_EXPERIMENTS.value, batch_sizes, precisions)
  return list(itertools.starmap(_Case, cases))


def _prepare(case: _Case) -> _Step:
  parallel.check_batch_size(case.batch_size)
  config = workloads.config(case.experiment)
  config.precision, config.batch_size = case.precision, case.batch_size
  method = methods.build(config, steps_per_epoch=1000)
  state = parallel.replicate(runs.init_state(method, 0, _NUM_CLIPS))
  batch = parallel.split(workloads.block(case.batch_size), axis=1)
  step = workloads.map_step(method)
  lowered = step.lower(state, (), batch, 1)
  start = time.perf_counter()
  compiled = lowered.compile()
  compile_s = time.perf_counter() - start
  memory = cast(Any, compiled.memory_analysis())

  def run():
    nonlocal state
    state, metrics = compiled(state, (), batch, 1)
    return metrics

  return _Step(
    run,
    cast(Any, lowered.cost_analysis())["flops"],
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    compile_s,
  )


def _row(
  case: _Case, step: _Step, seconds: list[float], matrix_peak: float
) -> measure.Row:
  clips_per_s = measure.rates(case.batch_size, seconds)
  flops_per_clip = step.flops * jax.device_count() / case.batch_size
  speed = statistics.median(clips_per_s) * flops_per_clip
  return measure.Row(
    f"{case.experiment}, batch {case.batch_size}, {case.precision}",
    "clips/s",
    clips_per_s,
    _goal(case),
    {
      "GFLOP/clip": flops_per_clip / 1e9,
      "TFLOP/s": speed / 1e12,
      "% of matrix peak": 100 * speed / (matrix_peak * jax.device_count()),
      "memory MB": step.memory / 1e6,
      "compile s": step.compile_s,
    },
  )


def _goal(case: _Case) -> float | None:
  """Clips/s of SDT-BP: on two CPU cores (1.3 times the original) and on an H200."""
  if (case.experiment, case.batch_size) == ("sdt_bp", 8) and parallel.is_cpu():
    return 12.4
  on_h200 = "H200" in jax.devices()[0].device_kind
  if (case.experiment, case.precision) == ("sdt_bp", "bf16") and on_h200:
    return 10_000
  return None


if __name__ == "__main__":
  measure.run(main)
