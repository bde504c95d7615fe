"""Runs the project's programs in forked processes, which saves the import time.

`python tests/programs.py` imports the libraries once; for each request it forks a child
that becomes the program, so exit code, stderr and interpreter shutdown are the same as
when a user runs the program. JAX is initialised only in the child.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]

# Fields of configs/quick.py for a run of seconds.
TINY = {
  "batch_size": 8,
  "num_epochs": 2,
  "dataset.num_train_clips": 16,
  "dataset.num_dev_clips": 8,
  "generator.channels": 8,
  "generator.audio_channels": "(4, 4, 8, 8)",
  "template.size": 4,
  "log.video_every_epochs": 0,
}

_SLOW_TO_IMPORT = (
  *("sdt_jax.synthesis.demo", "sdt_jax.synthesis.samples", "sdt_jax.training.loop"),
  *("sdt_jax.evaluation.run", "sdt_jax.interop.convert", "sdt_jax.interop.portable"),
  *("data_prep.media", "data_prep.overlay", "librosa", "soundfile", "torch"),
)
_TIMEOUT_SECONDS = 120


def config_flags(fields: dict) -> list[str]:
  """Flags of train.py that set these fields."""
  return [f"--config.{name}={value}" for name, value in fields.items()]


def python(*arguments, cwd=ROOT, **environment: str) -> subprocess.CompletedProcess:
  """Runs `python ARGUMENTS` from the start, which takes seconds."""
  command = [sys.executable, *map(str, arguments)]
  env = os.environ | environment
  return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def run(*arguments) -> str:
  """The output of `python ARGUMENTS`, which must succeed."""
  done = python(*arguments)
  assert done.returncode == 0, done.stderr
  return done.stdout


class Done(NamedTuple):
  """How a program ended: exit code (negative: killed by a signal) and its output."""

  returncode: int
  stdout: str
  stderr: str


class Programs:
  """Runs programs of the project; see `started`."""

  def __init__(self, server: subprocess.Popen):
    self._server = server

  def run(self, program: str, flags: list[str], folder: pathlib.Path) -> Done:
    """Runs `python PROGRAM FLAGS` with `folder` as the working directory.

    Args:
      program: "train.py", or "-m data_prep.split".
      flags: of the program.
      folder: the output is written to temporary files beside it.
    """
    output = [f"{folder}.stdout", f"{folder}.stderr"]
    request = [program, flags, str(folder), *output]
    print(json.dumps(request), file=self._server.stdin, flush=True)
    returncode = int(self._server.stdout.readline())
    said = [pathlib.Path(path).read_text() for path in output]
    for path in output:
      os.unlink(path)
    return Done(returncode, *said)


@contextlib.contextmanager
def started() -> Iterator[Programs]:
  """Starts the server that forks the programs; stops it when the context exits."""
  environment = os.environ | {
    "XLA_FLAGS": "",  # one device
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": str(ROOT),
  }
  pipe = subprocess.PIPE
  command = [sys.executable, __file__]
  with subprocess.Popen(
    command, env=environment, stdin=pipe, stdout=pipe, text=True
  ) as server:
    yield Programs(server)
    server.stdin.close()


def _serve() -> None:
  for name in _SLOW_TO_IMPORT:
    with contextlib.suppress(ImportError):  # torch is optional
      importlib.import_module(name)
  gc.freeze()  # spares the children from scanning it when they exit
  for line in sys.stdin:
    child = os.fork()
    if not child:
      _become(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(
  program: str, flags: list[str], folder: str, stdout: str, stderr: str
) -> None:
  """Runs the program in this process, which exits when the program does."""
  signal.alarm(_TIMEOUT_SECONDS)
  os.chdir(folder)
  files = (os.devnull, os.O_RDONLY), (stdout, _NEW), (stderr, _NEW)
  for number, (path, mode) in enumerate(files):
    os.dup2(os.open(path, mode), number)
  if program.startswith("-m "):
    name = program.removeprefix("-m ")
    sys.modules.pop(name, None)  # otherwise runpy warns
    sys.argv = [name, *flags]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
  else:
    path = str(ROOT / program)
    sys.argv = [path, *flags]
    runpy.run_path(path, run_name="__main__")
  sys.exit()


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

if __name__ == "__main__":
  _serve()
