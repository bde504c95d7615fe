"""Measures how the time of a whole program is divided into stages.

`timed` starts the program as a process of its own. There, this file, as a program,
times the imports and the functions in `_STAGES`.
"""

import atexit
import builtins
import collections
import contextlib
import functools
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from sdt_jax.errors import UserError

_STAGES = (
  ("data set", "sdt_jax.training.setup", "build_data"),
  ("load", "sdt_jax.synthesis.generate", "load"),
  ("load", "sdt_jax.training.runs", "load"),
  ("generate", "sdt_jax.synthesis.generate", "GestureModel.generate"),
  ("generate", "sdt_jax.synthesis.generate", "GestureModel.generate_many"),
  ("draw and encode", "sdt_jax.synthesis.video", "write_video"),
  ("generate", "sdt_jax.evaluation.evaluator", "Evaluator.generate"),
  ("score", "sdt_jax.evaluation.evaluator", "Evaluator.scores"),
  ("score", "sdt_jax.evaluation.scoring", "Scorer.score"),
  ("pictures", "sdt_jax.synthesis.samples", "Gallery.add_sample"),
  ("pictures", "sdt_jax.synthesis.samples", "Gallery.add_templates"),
  ("pictures", "sdt_jax.synthesis.samples", "Gallery.close"),
  ("save", "sdt_jax.training.checkpoints", "Checkpoints.save"),
  ("save", "sdt_jax.training.checkpoints", "Checkpoints.close"),
)
_REMOVED = {  # from the environment of the program
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  "XLA_PYTHON_CLIENT_PREALLOCATE",
}
_REST = "everything else"


class Times(NamedTuple):
  """What the main thread of a program spent its time on."""

  stages: dict[str, float]  # seconds in each stage; they add up to the total
  begins: dict[str, float]  # seconds from the start to the first entry of each stage


def timed(cache: pathlib.Path, program: str, *flags: str) -> Times:
  """Runs a program in the root folder of the repository.

  Args:
    cache: used as the cache folder of the user.
    program: path of the program.
    flags: its flags.

  Raises:
    UserError: the program fails; the message includes the last line that it wrote.
  """
  environment = {k: v for k, v in os.environ.items() if k not in _REMOVED}
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "times.json"
    start = time.time()
    done = subprocess.run(
      [sys.executable, "-m", "benchmarks.stages", report, str(start), program, *flags],
      cwd=pathlib.Path(__file__).parents[1],
      env=environment | {"XDG_CACHE_HOME": str(cache)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    whole = time.time() - start
    if done.returncode:
      last = (done.stderr.strip() or "no message").splitlines()[-1]
      raise UserError(f"{program} failed with code {done.returncode}: {last}")
    times = Times(*json.loads(report.read_text()))
  times.stages["exit"] = whole - sum(times.stages.values())
  return times


class _Stopwatch:
  """Adds the time of the main thread to the innermost current stage."""

  def __init__(self, start: float):
    self._start = self._last = start
    self._stack = [_REST]
    self.times = Times(collections.defaultdict(float), {})

  def is_in(self, stage: str) -> bool:
    return self._stack[-1] == stage

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    self.lap()
    self._stack.append(name)
    self.times.begins.setdefault(name, self._last - self._start)
    try:
      yield
    finally:
      self.lap()
      self._stack.pop()

  def lap(self) -> None:
    now = time.time()
    self.times.stages[self._stack[-1]] += now - self._last
    self._last = now


def _watch_imports(watch: _Stopwatch) -> None:
  """Times imports, and wraps the functions of `_STAGES` when they are imported."""
  original, waiting = builtins.__import__, list(_STAGES)

  def watched(*args, **kwargs):
    if watch.is_in("imports"):
      return original(*args, **kwargs)
    with watch.stage("imports"):
      module = original(*args, **kwargs)
      for name, module_name, path in [s for s in waiting if s[1] in sys.modules]:
        waiting.remove((name, module_name, path))
        *parents, last = path.split(".")
        owner = functools.reduce(getattr, parents, sys.modules[module_name])
        setattr(owner, last, watch.stage(name)(getattr(owner, last)))
    return module

  builtins.__import__ = watched


def _main(report: str, start: str, program: str, *flags: str) -> None:
  watch = _Stopwatch(float(start))
  sys.argv = [program, *flags]

  def write():
    watch.lap()
    pathlib.Path(report).write_text(json.dumps(watch.times))

  atexit.register(write)
  _watch_imports(watch)
  runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
  _main(*sys.argv[1:])
