"""Where the time of a whole program goes, stage by stage.

`timed` starts the program in a process of its own, in which this file, as a program,
puts a stopwatch around imports and around the functions in `_STAGES`.
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

_ROOT = pathlib.Path(__file__).parents[1]

_STAGES = (
  ("data set", "sdt_jax.training.setup", "build_data"),
  ("load", "sdt_jax.synthesis.generate", "load"),
  ("generate", "sdt_jax.synthesis.generate", "GestureModel.generate"),
  ("generate", "sdt_jax.synthesis.generate", "GestureModel.generate_many"),
  ("draw and encode", "sdt_jax.synthesis.video", "write_video"),
  ("score", "sdt_jax.evaluation.evaluator", "Evaluator.scores"),
  ("pictures", "sdt_jax.synthesis.samples", "Gallery.add_sample"),
  ("pictures", "sdt_jax.synthesis.samples", "Gallery.close"),
  ("save", "sdt_jax.training.checkpoints", "Checkpoints.save"),
  ("save", "sdt_jax.training.checkpoints", "Checkpoints.close"),
)
_NOT_PASSED_ON = {
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  "XLA_PYTHON_CLIENT_PREALLOCATE",
}
_REST = "everything else"


class Times(NamedTuple):
  """Seconds in each stage (of the main thread; they sum up to the whole), and from the
  start of the process to the first entry into each."""

  stages: dict[str, float]
  begins: dict[str, float]


def timed(cache: pathlib.Path, program: str, *flags: str) -> Times:
  """Runs a program of the root folder, with `cache` as the user's cache.

  Raises:
    UserError: it fails; with the last line that it wrote.
  """
  environment = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED_ON}
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "times.json"
    start = time.time()
    done = subprocess.run(
      [sys.executable, "-m", "benchmarks.stages", report, str(start), program, *flags],
      cwd=_ROOT,
      env=environment | {"XDG_CACHE_HOME": str(cache)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    whole = time.time() - start
    if done.returncode:
      last = (done.stderr.strip() or "it wrote nothing").splitlines()[-1]
      raise UserError(f"{program} failed with code {done.returncode}: {last}")
    times = Times(*json.loads(report.read_text()))
  times.stages["exit"] = whole - sum(times.stages.values())
  return times


class _Stopwatch:
  """Counts the time of the main thread for the innermost stage that it is in."""

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
  """Counts imports, and puts the watch around functions once their module is there."""
  original, waiting = builtins.__import__, list(_STAGES)

  def watched(*args, **kwargs):
    if watch.is_in("imports"):
      return original(*args, **kwargs)
    with watch.stage("imports"):
      module = original(*args, **kwargs)
      for stage in [stage for stage in waiting if stage[1] in sys.modules]:
        waiting.remove(stage)
        _watch_function(watch, *stage)
    return module

  builtins.__import__ = watched


def _watch_function(watch: _Stopwatch, name: str, module: str, path: str) -> None:
  *parents, last = path.split(".")
  owner = functools.reduce(getattr, parents, sys.modules[module])
  if hasattr(owner, last):
    setattr(owner, last, watch.stage(name)(getattr(owner, last)))


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
