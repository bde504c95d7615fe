"""Drills on the real programs: killed, stopped, with a full disk, without permissions.

    python -m pytest -m slow -s tests/test_drills.py

They produce the table "Drills" in docs/robustness.md.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import av
import golden
import jax
import numpy as np
import programs
import pytest

from sdt_jax import workdir
from sdt_jax.training import runs

pytestmark = pytest.mark.slow

TINY = programs.TINY | {
  "batch_size": 2,
  "dataset.num_train_clips": 12,  # 6 steps per epoch
  "dataset.num_dev_clips": 4,
  "log.every_steps": 2,
  "checkpoint.every_steps": 1,
}
VIDEOS = {"log.video_every_epochs": 1, "log.dev_videos": 1}
# Progress bars (an error must not follow one on its line), and the statistics' source.
USUAL_LINE = re.compile(
  r"\s*$|(gesture model|pose VAE|clips of \w+|rendering): .*\]\s*$|speaker ada: "
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """The folder of the data set and the compiled programs, which all drills share."""
  return tmp_path_factory.mktemp("drills")


@dataclasses.dataclass
class Program:
  """A program that runs in its own process group.

  Attributes:
    process: the started process.
    output, errors: files that receive its stdout and stderr.
  """

  process: subprocess.Popen
  output: pathlib.Path
  errors: pathlib.Path

  def wait(self) -> int:
    return self.process.wait(timeout=100)

  def kill(self) -> bool:
    """Sends SIGKILL to the group; returns False if the program had already ended."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    return self.wait() == -signal.SIGKILL

  def complaints(self) -> list[str]:
    """Returns the lines on stderr, except progress bars and what every run prints."""
    lines = re.split(r"[\r\n]+", self.errors.read_text())
    return [line for line in lines if not USUAL_LINE.match(line)]


_RUNS = itertools.count()


def _start(folder, program: str, *flags: str, prefix: tuple[str, ...] = ()) -> Program:
  env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  env.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
  env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  output, errors = (folder / f"{next(_RUNS)}.{name}" for name in ("out", "err"))
  command = [*prefix, sys.executable, program, *flags]
  options = {"cwd": programs.ROOT, "env": env, "start_new_session": True}
  with output.open("wb") as out, errors.open("wb") as err:
    process = subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options
    )
  return Program(process, output, errors)


def _train(folder, path, epochs: int = 4, prefix=(), **fields) -> Program:
  fields = TINY | {"num_epochs": epochs, "dataset.data_dir": folder / "data"} | fields
  flags = programs.config_flags(fields)
  command = ("train.py", "--config=configs/quick.py", *flags, f"--workdir={path}")
  return _start(folder, *command, prefix=prefix)


def _train_for_a_while(folder, path, seen=None, prefix=(), **fields) -> Program:
  """Starts a run of 24 steps and waits for the checkpoint of step 3."""
  program = _train(folder, path, prefix=prefix, **fields)
  _wait_for(lambda: _newest(seen or path) >= 3, program)
  return program


def _assert_finishes(folder, path, other: pathlib.Path, prefix=(), seen=None) -> None:
  """Asserts that the same command resumes and ends with the result of `other`."""
  program = _train(folder, path, prefix=prefix)
  assert program.wait() == 0, program.errors.read_text()
  _assert_same_run(seen or path, other)


@pytest.fixture(scope="module")
def undisturbed(folder) -> Callable[..., pathlib.Path]:
  """Returns the workdir of an uninterrupted run of a given number of epochs."""

  def run(epochs: int = 4) -> pathlib.Path:
    path = folder / f"undisturbed{epochs}"
    if not path.exists():
      program = _train(folder, path, epochs)
      assert program.wait() == 0, program.errors.read_text()
      assert program.complaints() == []
    return path

  return run


def _saved(path: pathlib.Path) -> set[int]:
  """Returns the steps of the complete checkpoints."""
  with contextlib.suppress(FileNotFoundError):
    names = os.listdir(path / workdir.CHECKPOINTS)
    return {int(name) for name in names if name.isdecimal()}
  return set()


def _newest(path: pathlib.Path) -> int:
  return max(_saved(path), default=0)


def _wait_for(condition: Callable[[], object], program: Program) -> None:
  """Waits until the condition is true or the program has ended."""
  deadline = time.monotonic() + 100
  while not condition() and program.process.poll() is None:
    assert time.monotonic() < deadline, program.errors.read_text()
    time.sleep(1e-4)


def _metrics(path: pathlib.Path) -> list[dict]:
  times = {"clips_per_s", "input_wait", "seconds", "seconds_left"}
  lines = workdir.read_metrics(path)
  return [{k: v for k, v in line.items() if k not in times} for line in lines]


def _assert_same_run(path: pathlib.Path, other: pathlib.Path) -> None:
  """Asserts equal states, metrics and files, and no temporary files."""
  ours, theirs = (jax.tree.leaves(runs.load(p).state) for p in (path, other))
  for a, b in zip(ours, theirs, strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
  assert _metrics(path) == _metrics(other)
  assert _files(path) == _files(other)


def _files(path: pathlib.Path) -> set[str]:
  """Returns the contents of a workdir and its checkpoints, without TensorBoard's."""
  found = [*path.iterdir(), *(path / workdir.CHECKPOINTS).iterdir()]
  names = {str(p.relative_to(path)) for p in found}
  return {name for name in names if not name.startswith("events.")}


# Kill -9.


def _half_written(path: pathlib.Path) -> bool:
  names = os.listdir(path / workdir.CHECKPOINTS)
  return any(name.endswith("tmp") for name in names)


def _half_deleted(path: pathlib.Path) -> bool:
  """Returns whether a checkpoint being deleted lacks a file that all have."""
  deleted = path / workdir.CHECKPOINTS / "deleted"
  with contextlib.suppress(FileNotFoundError):
    every = ("_CHECKPOINT_METADATA", "metrics/metrics", "meta/metadata")
    every += ("state/_METADATA", "state/manifest.ocdbt", "state/d")
    for name in os.listdir(deleted):
      if not all(os.path.exists(deleted / name / file) for file in every):
        return True
  return False


def _moment(path: pathlib.Path, before: int) -> str:
  """Returns what a killed run was doing, judging by its files."""
  if not (path / workdir.CHECKPOINTS).exists():
    return "start"
  if _half_written(path):
    return "save"
  if _half_deleted(path):
    return "retention"
  return "step" if _newest(path) > before else "start"


def _aim(kind: str, path: pathlib.Path, program: Program, rng: random.Random) -> None:
  """Waits for a random moment of this kind."""
  before = _newest(path)
  if kind == "start":
    time.sleep(rng.uniform(0.1, 4))
    return
  _wait_for(lambda: _newest(path) > before, program)
  if kind == "step":
    time.sleep(rng.uniform(0, 0.3))
  elif kind == "save":
    _wait_for(lambda: _half_written(path), program)
    time.sleep(rng.uniform(0, 0.05))
  else:
    _wait_for(lambda: _half_deleted(path), program)


def test_killed_at_random_moments(folder, undisturbed):
  rng = random.Random(6)
  kinds = ["start", "step", "save", "retention"] * 6
  rng.shuffle(kinds)
  path, rows = folder / "killed", []
  for number, kind in enumerate(kinds, 1):
    before = _newest(path)
    program = _train(folder, path, 10)
    _aim(kind, path, program, rng)
    assert program.kill(), "the run ended before the kill: give it more epochs"
    began = re.search(r"(\d+)/60 ", program.errors.read_text())
    if began:
      assert int(began[1]) == before
    rows.append((number, kind, _moment(path, before), before, _newest(path)))
  program = _train(folder, path, 10)
  assert program.wait() == 0
  print("\nkill  aimed at   hit        resumed from  newest checkpoint when killed")
  for number, kind, hit, before, newest in rows:
    print(f"{number:4}  {kind:9}  {hit:9}  {before:12}  {newest:29}")
  assert len(rows) >= 20
  hits = {hit for _, _, hit, _, _ in rows}
  assert "save" in hits
  assert len(hits) >= 3  # the exact moments are random, especially on a busy machine
  _assert_same_run(path, undisturbed(10))


def test_killed_while_the_data_set_is_built(folder, undisturbed):
  fields = {"dataset.data_dir": folder / "killed_data"}
  program = _train(folder, folder / "run", **fields)
  _wait_for(lambda: list((folder / "killed_data").rglob("*array_record*")), program)
  assert program.kill()
  program = _train(folder, folder / "run", **fields)
  assert program.wait() == 0, program.errors.read_text()
  _assert_same_run(folder / "run", undisturbed())


def test_sdt_vae_killed_in_both_phases(folder):
  fields = {"template.kind": "vae", "epochs": 2}
  whole, path = folder / "whole_vae", folder / "killed_vae"
  assert _train(folder, whole, **fields).wait() == 0
  for phase in (path / workdir.POSE_VAE, path):
    program = _train(folder, path, **fields)
    _wait_for(lambda phase=phase: _newest(phase) >= 3, program)
    assert program.kill()
    assert 3 <= _newest(phase) < 12
  program = _train(folder, path, **fields)
  assert program.wait() == 0, program.errors.read_text()
  for phase in (".", workdir.POSE_VAE):
    _assert_same_run(path / phase, whole / phase)


# Asked to stop.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(folder, undisturbed, tmp_path, number):
  path = tmp_path / "run"
  program = _train_for_a_while(folder, path)
  program.process.send_signal(number)
  assert program.wait() == 0
  last = _newest(path)
  assert 3 <= last < 24
  said = program.output.read_text()
  assert f"stopped after step {last}, which is saved" in said
  assert program.complaints() == []
  command = shlex.split(re.search(r"^to resume: python (.*)$", said, re.M)[1])
  assert _start(folder, *command).wait() == 0
  _assert_same_run(path, undisturbed())


def test_asked_to_stop_twice(folder, undisturbed, tmp_path):
  path = tmp_path / "run"
  program = _train_for_a_while(folder, path)
  program.process.send_signal(signal.SIGINT)
  time.sleep(0.03)
  program.process.send_signal(signal.SIGINT)
  assert program.wait() == 130
  assert program.complaints() == []
  _assert_finishes(folder, path, undisturbed())


# A full disk, missing permissions.


class Disks(contextlib.AbstractContextManager):
  """Small file systems, visible only to programs in this namespace.

  Args:
    mounts: folder -> size in megabytes; mounted in this order.
  """

  def __init__(self, mounts: dict[pathlib.Path, float]):
    self._mounts = mounts
    commands = [
      f"mkdir -p '{path}' && mount -t tmpfs -o size={int(size * 1024)}k tmpfs '{path}'"
      for path, size in mounts.items()
    ]
    script = " && ".join([*commands, "echo ready", "exec sleep 600"])
    self._process = subprocess.Popen(
      ["unshare", "-Urm", "sh", "-c", script],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    assert self._process.stdout
    assert self._process.stderr
    if self._process.stdout.readline().strip() != "ready":
      pytest.skip(f"no user namespaces here: {self._process.stderr.read().strip()}")
    pid = self._process.pid
    self.prefix = ("nsenter", f"--target={pid}", "-U", "-m", "--preserve-credentials")
    self.prefix += (f"--wd={programs.ROOT}",)

  def seen(self, path: pathlib.Path) -> pathlib.Path:
    """Returns the path by which this process reaches a path of the namespace."""
    return pathlib.Path(f"/proc/{self._process.pid}/root{path}")

  def fill(self, path: pathlib.Path) -> None:
    with contextlib.suppress(OSError), self._ballast(path).open("ab", 0) as file:
      while True:
        file.write(bytes(4096))

  def make_room(self, path: pathlib.Path) -> None:
    self._ballast(path).unlink()

  def remount(self, path: pathlib.Path, options: str) -> bool:
    command = [*self.prefix, "mount", "-o", f"remount,{options}", str(path)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

  def __exit__(self, *_) -> None:
    self._process.kill()
    self._process.communicate()

  def _ballast(self, path: pathlib.Path) -> pathlib.Path:
    return self.seen(path) / "ballast"


def _assert_one_error(program: Program, *complaints: str) -> None:
  """Asserts exit code 2 and the error as the only line."""
  assert program.wait() == 2
  lines = program.complaints()
  assert len(lines) == 1, "\n".join(lines)
  assert lines[0].startswith("error: ")
  for complaint in complaints:
    assert complaint in lines[0]


def _assert_goes_on(folder, path, disks, other) -> None:
  """Asserts that the last checkpoint is intact and the same command can finish it."""
  seen = disks.seen(path)
  assert runs.load(seen).step == _newest(seen) >= 3
  _assert_finishes(folder, path, other, disks.prefix, seen)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_trouble_on_the_disk_of_the_checkpoints(folder, undisturbed, tmp_path, trouble):
  path = tmp_path / "run"
  small = path / workdir.CHECKPOINTS
  with Disks({small: 16}) as disks:
    program = _train_for_a_while(folder, path, disks.seen(path), disks.prefix)
    if trouble == "full":
      disks.fill(small)
      _assert_one_error(program, str(small), "No space left", "make room")
      disks.make_room(small)
    else:
      _wait_for(lambda: disks.remount(small, "ro"), program)  # not while a file is open
      _assert_one_error(program, str(small), "Read-only file system")
      assert disks.remount(small, "rw")
    _assert_goes_on(folder, path, disks, undisturbed())


def test_disk_of_the_workdir_full(folder, undisturbed, tmp_path):
  """Each side output may warn once before the failed checkpoint ends the run."""
  path = tmp_path / "run"
  with Disks({path: 16}) as disks:
    program = _train_for_a_while(folder, path, disks.seen(path), disks.prefix)
    disks.fill(path)
    assert program.wait() == 2
    *warnings, error = program.complaints()
    assert error.startswith(f"error: {path}")
    assert "No space left" in error
    assert len(warnings) <= 2, warnings
    disks.make_room(path)
    _assert_goes_on(folder, path, disks, undisturbed())


def test_workdir_without_the_right_to_write(folder, undisturbed, tmp_path):
  path = tmp_path / "run"
  prefix = ()
  if os.geteuid() == 0:  # root ignores the mode of a folder
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
  program = _train_for_a_while(folder, path, prefix=prefix)
  (path / workdir.CHECKPOINTS).chmod(0o555)
  _assert_one_error(program, str(path / workdir.CHECKPOINTS), "ermission denied")
  (path / workdir.CHECKPOINTS).chmod(0o755)
  _assert_finishes(folder, path, undisturbed())


def test_demo_on_a_full_disk(folder, undisturbed, tmp_path):
  out = tmp_path / "out"
  flags = (f"--workdir={undisturbed()}", f"--audio={golden.SPEECH}", "--num_samples=3")
  with Disks({out: 1}) as disks:
    program = _start(
      folder, "demo.py", *flags, f"--output_dir={out}", prefix=disks.prefix
    )
    _assert_one_error(program, "No space left")
    for file in disks.seen(out).iterdir():
      _assert_whole(file)


def _assert_whole(file: pathlib.Path) -> None:
  assert not file.name.startswith("."), file
  if file.suffix == ".npz":
    with np.load(file, allow_pickle=False) as arrays:
      assert np.isfinite(arrays["poses_pred_batch"]).all()
  elif file.suffix == ".mp4":
    with av.open(file) as video:
      assert sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames
  else:
    assert file.suffix == ".png"


def test_eval_on_a_full_disk(folder, undisturbed, tmp_path):
  path = tmp_path / "run"
  with Disks({path: 16}) as disks:
    shutil.copytree(undisturbed(), disks.seen(path), dirs_exist_ok=True)
    before = _files(disks.seen(path)) | {"ballast"}
    disks.fill(path)
    program = _start(folder, "eval.py", f"--workdir={path}", prefix=disks.prefix)
    _assert_one_error(program, "eval_dev_24.json", "No space left")
    assert _files(disks.seen(path)) == before


def test_data_set_on_a_full_disk(folder, undisturbed, tmp_path):
  data, path = tmp_path / "data", tmp_path / "run"
  fields = {"dataset.data_dir": data}
  with Disks({data: 2}) as disks:
    program = _train(folder, path, prefix=disks.prefix, **fields)
    _assert_one_error(program, str(data), "No space left")
    assert not path.exists()
    assert not [p for p in disks.seen(data).rglob("*") if p.is_file()]
    assert disks.remount(data, "size=64m")
    program = _train(folder, path, prefix=disks.prefix, **fields)
    assert program.wait() == 0, program.errors.read_text()
  _assert_same_run(path, undisturbed())


# Side outputs: one warning, and training continues.


def _assert_one_warning(program: Program, about: str) -> None:
  assert program.wait() == 0, program.errors.read_text()
  lines = program.complaints()
  assert len(lines) == 1, "\n".join(lines)
  assert about in lines[0]


def test_videos_that_cannot_be_written(folder, undisturbed, tmp_path):
  path = tmp_path / "run"
  path.mkdir()
  (path / workdir.VIDEOS).write_text("in the way")
  _assert_one_warning(_train(folder, path, **VIDEOS), workdir.VIDEOS)
  assert (path / workdir.VIDEOS).read_text() == "in the way"
  (path / workdir.VIDEOS).unlink()
  _assert_same_run(path, undisturbed())


def test_metrics_that_cannot_be_written(folder, undisturbed, tmp_path):
  path = tmp_path / "run"
  program = _train_for_a_while(folder, path)
  (path / workdir.METRICS).rename(tmp_path / "moved")
  (path / workdir.METRICS).mkdir()
  _assert_one_warning(program, workdir.METRICS)
  assert _saved(path) == _saved(undisturbed())


def test_side_outputs_on_a_full_disk(folder, undisturbed, tmp_path):
  """The workdir is full, but the checkpoints have their own disk."""
  path = tmp_path / "run"
  with Disks({path: 16, path / workdir.CHECKPOINTS: 16}) as disks:
    program = _train_for_a_while(folder, path, disks.seen(path), disks.prefix, **VIDEOS)
    disks.fill(path)
    assert program.wait() == 0, program.errors.read_text()
    warnings = program.complaints()
    for about in (workdir.METRICS, "TensorBoard", workdir.VIDEOS):
      assert sum(about in line for line in warnings) == 1, warnings
    assert len(warnings) == 3, warnings
    assert _saved(disks.seen(path)) == _saved(undisturbed())
