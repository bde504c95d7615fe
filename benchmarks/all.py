"""Runs all benchmarks and writes a table of goals and measured values.

python -m benchmarks.all --output=FILE.md [--programs=drawing,encoding]
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from benchmarks import measure
from sdt_jax import cli, workdir
from sdt_jax.errors import UserError

_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write.", required=True)
_PROGRAMS = flags.DEFINE_list(
  "programs",
  "training_step,training_loop,input_pipeline,build,generation,streaming,drawing,encoding,demo,quickstart",
  "Benchmarks to run.",
)


def main() -> None:
  results = [_run(program) for program in _PROGRAMS.value]
  parts = [f"Measured on {measure.describe(results[0])}; written by `make bench`.\n"]
  for result in results:
    table = _markdown(measure.cells(result["rows"]))
    peak = f"Peak memory {result['peak_memory_mb']:,} MB."
    parts.append(f"## {result['benchmark']}\n\n{table}\n\n{peak}\n")
  workdir.write_text(pathlib.Path(_OUTPUT.value), "\n".join(parts))
  print(f"written: {_OUTPUT.value}")


def _run(program: str) -> dict:
  """Runs a benchmark; prints its table and returns its line of JSON."""
  done = subprocess.run(
    [sys.executable, "-m", f"benchmarks.{program}"],
    cwd=measure.ROOT,
    env=os.environ | {"TQDM_DISABLE": "1"},
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    raise UserError(f"--programs={program}: failed with code {done.returncode}")
  table, _, result = done.stdout.rstrip().rpartition("\n")
  print(f"{table}\n", flush=True)
  return json.loads(result)


def _markdown(table: list[list[str]]) -> str:
  header, *body = table
  rule = ["---", *["---:"] * (len(header) - 1)]
  return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *body])


if __name__ == "__main__":
  cli.run(main)
