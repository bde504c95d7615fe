"""What the benchmarks share: repeats, the table, the JSON line, the profile.

A program passes `run` a function that returns its rows. The unit determines which
values are better: high ones for rates ("clips/s"), low ones otherwise ("s", "%").
"""

import dataclasses
import json
import math
import os
import pathlib
import platform
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError
from sdt_jax.training import parallel

REPEATS = flags.DEFINE_integer("repeats", 5, "Timings per variant.", lower_bound=1)
_WARMUP = flags.DEFINE_integer("warmup", 1, "Number of untimed calls.", lower_bound=0)
_PROFILE = flags.DEFINE_string(
  "profile", None, "Folder for a jax.profiler trace of one warm call of each variant."
)

_SHORTEST_TIMING = 0.2  # seconds; shorter calls are timed in groups

_Key = TypeVar("_Key")

ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table."""

  name: str  # what was measured
  unit: str
  values: Sequence[float]  # one per repeat; the table shows their median and quartiles
  goal: float | None = None  # lower limit for rates, upper limit for other units
  details: dict[str, float] = dataclasses.field(default_factory=dict)  # more columns

  def to_json(self) -> dict[str, Any]:
    low, median, high = np.percentile(self.values, [25, 50, 75])
    met = None
    if self.goal is not None:
      is_rate = self.unit.endswith("/s")
      met = bool(median >= self.goal if is_rate else median <= self.goal)
    numbers = {"median": median, "low": low, "high": high, **self.details}
    return {
      "name": self.name,
      "unit": self.unit,
      **{key: float(f"{value:.5g}") for key, value in numbers.items()},
      "repeats": len(self.values),
      "goal": self.goal,
      "met": met,
    }


def run(main: Callable[[], list[Row]]) -> None:
  """Parses the flags, measures and prints; exits on errors like other programs."""
  # Compilation is measured too; the user's cache would hide it.
  jax.config.update("jax_enable_compilation_cache", False)
  cli.run(lambda: report(main))


def report(main: Callable[[], list[Row]]) -> None:
  """Prints the rows that `main` returns as a table, then as one line of JSON."""
  rows = [row.to_json() for row in main()]
  benchmark = pathlib.Path(main.__code__.co_filename).stem
  peak_mb = round(_peak_memory() / 1e6)
  print(f"{benchmark}: {describe(machine())}; peak memory {peak_mb:,} MB")
  print(text_table(cells(rows)))
  result = {"benchmark": benchmark, **machine(), "peak_memory_mb": peak_mb}
  print(json.dumps(result | {"rows": rows}))


def machine() -> dict[str, Any]:
  """Versions and hardware."""
  devices = jax.devices()
  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": devices[0].device_kind,
    "devices": len(devices),
    "cores": len(os.sched_getaffinity(0)),
  }


def describe(machine: dict[str, Any]) -> str:
  """`machine()` as one line of text."""
  text = "{devices} x {device}, {cores} CPU cores, Python {python}, JAX {jax}"
  return text.format(**machine)


def _peak_memory() -> float:
  """Bytes used on the first device, or by this process if that is the CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats:
    return stats["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def interleave(
  variants: dict[_Key, Callable[[], Any]],
  clock: Callable[[], float] = time.perf_counter,
) -> dict[_Key, list[float]]:
  """Times `--repeats` calls of each variant, taking turns: A B A B ...

  Args:
    variants: functions to time. A timing ends when what they return is computed.
    clock: returns the time in seconds.

  Returns:
    The seconds of each call.
  """

  def seconds_per_call(function, calls: int) -> float:
    start, result = clock(), None
    for _ in range(calls):
      result = function()
    jax.block_until_ready(result)
    return (clock() - start) / calls

  calls = {}  # enough calls for a timing to be long enough
  for name, function in variants.items():
    for _ in range(_WARMUP.value):
      seconds_per_call(function, 1)
    once = seconds_per_call(function, 1)
    calls[name] = max(1, math.ceil(_SHORTEST_TIMING / max(once, 1e-9)))
  seconds: dict[_Key, list[float]] = {name: [] for name in variants}
  for _ in range(REPEATS.value):
    for name, function in variants.items():
      seconds[name].append(seconds_per_call(function, calls[name]))
  if _PROFILE.value:
    with jax.profiler.trace(_PROFILE.value):
      for function in variants.values():
        seconds_per_call(function, 1)
  return seconds


def time_programs() -> None:
  """Prepares a benchmark that times other processes; must be called first.

  Raises:
    UserError: a profile was requested, which would not cover those processes.
  """
  if _PROFILE.value:
    raise UserError(
      "--profile: this benchmark times whole programs; profile training_step, "
      "generation or encoding"
    )
  # Leaves the memory of an accelerator to those processes.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def rates(count: float, seconds: list[float]) -> list[float]:
  """The rate, per second, of `count` things in each of these times."""
  return [count / s for s in seconds]


def matrix_peak(dtype: str) -> float:
  """Highest FLOP/s over the repeats for the product of two large square matrices."""
  size = 2048 if parallel.is_cpu() else 8192
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
  multiply = jax.jit(jnp.matmul)
  return 2 * size**3 / min(interleave({"": lambda: multiply(a, b)})[""])


def cells(rows: list[dict[str, Any]]) -> list[list[str]]:
  """The table of rows from `Row.to_json`: the header and the lines, as text."""
  fixed = {"name", "unit", "median", "low", "high", "repeats", "goal", "met"}
  extra = list(dict.fromkeys(key for row in rows for key in row if key not in fixed))
  table = [["what", "goal", "measured", "", "quartiles", "unit", *extra]]
  for row in rows:
    spread = f"{number(row['low'])} to {number(row['high'])}"
    table.append(
      [
        row["name"],
        number(row["goal"]),
        number(row["median"]),
        {True: "met", False: "missed", None: ""}[row["met"]],
        spread if row["repeats"] > 1 else "once",
        row["unit"],
        *(number(row.get(key)) for key in extra),
      ]
    )
  return table


def number(value: float | None) -> str:
  """Three significant digits, or all digits before the point from 1,000 on."""
  if value is None:
    return ""
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def text_table(table: list[list[str]]) -> str:
  """Aligns the first column to the left and the others to the right."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in table
  )
