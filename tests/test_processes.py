"""Runs of several processes."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import programs
import pytest

from sdt_jax import workdir
from sdt_jax.errors import UserError
from sdt_jax.training import processes, runs

_TINY = programs.TINY | {
  "dataset.num_train_clips": 20,
  "dataset.num_dev_clips": 5,  # which two devices cannot share evenly
  "log.every_steps": 1,
}
# Together these cover both ways of mapping steps, feeding data and storing templates.
_CASES = {
  "sdt_bp, jit, streamed": {"parallel": "jit", "dataset.cache_gb": 0.0},
  "pose VAE, pmap, resident": {"parallel": "pmap", "experiment": "pose2pose"},
}


def _free_address() -> str:
  with socket.create_server(("localhost", 0)) as server:
    return f"localhost:{server.getsockname()[1]}"


class Runner:
  """Starts train.py in subprocesses."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._env = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(folder / "jax_cache"),
    }

  def start(self, path, fields, *flags: str, devices: int = 1) -> subprocess.Popen:
    fields = {**_TINY, "dataset.data_dir": self.folder / "data", **fields}
    return subprocess.Popen(
      [
        *(sys.executable, "train.py", "--config=configs/quick.py"),
        *(*programs.config_flags(fields), f"--workdir={path}", *flags),
      ],
      cwd=programs.ROOT,
      env=self._env
      | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def start_two(self, path, fields, only_second=None) -> list[subprocess.Popen]:
    flags = f"--coordinator={_free_address()}", "--num_processes=2"
    return [
      self.start(path, fields, *flags, "--process_id=0"),
      self.start(path, fields | (only_second or {}), *flags, "--process_id=1"),
    ]

  def finish(self, started: list[subprocess.Popen]) -> None:
    """Waits until all have succeeded."""
    for process in started:
      _, stderr = process.communicate(timeout=300)
      assert process.returncode == 0, stderr


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
  return Runner(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module", params=_CASES)
def case(request, runner):
  """Config fields; workdirs of a run of two processes and of one with two devices."""
  fields, name = _CASES[request.param], request.param.replace(" ", "")
  two, one = runner.folder / f"{name}-two", runner.folder / f"{name}-one"
  runner.finish(runner.start_two(two, fields))
  runner.finish([runner.start(one, fields, devices=2)])
  return fields, two, one


def _lines(path):
  times = {"clips_per_s", "input_wait", "seconds", "seconds_left"}
  lines = workdir.read_metrics(path)
  return [{k: v for k, v in line.items() if k not in times} for line in lines]


def _difference(ours, theirs) -> float:
  """Largest difference of two states, relative to the largest value of the array."""
  differences = jax.tree.map(
    lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), 1e-6),
    *(jax.device_get((s.params, s.batch_stats, s.bank)) for s in (ours, theirs)),
  )
  return max(jax.tree.leaves(differences))


@pytest.mark.slow
def test_two_processes_train_like_one(case):
  _, two, one = case
  ours, theirs = runs.load(two).state, runs.load(one).state
  assert int(ours.step) == 4
  difference = _difference(ours, theirs)
  print(f"{two.name}: largest relative difference of the states {difference:.1e}")
  assert difference < 1e-5
  assert len(_lines(two)) == len(_lines(one)) == 8
  for line, expected in zip(_lines(two), _lines(one), strict=True):
    assert line.pop("split") == expected.pop("split")
    assert line == pytest.approx(expected, rel=1e-4)
  # Files are written once, and the templates of all processes are kept.
  assert len(list(two.glob("events.*"))) == 1
  assert len((two / workdir.CLIPS).read_text().splitlines()) == 20
  trained = np.any(np.asarray(ours.templates()) != 0, axis=1)
  assert trained.shape == (20,)
  assert trained.sum() >= 16  # two epochs, each of 16 of the 20 clips


@pytest.mark.slow
def test_a_run_moves_between_processes_devices_and_maps(case, runner):
  fields, two, one = case
  more = fields | {"num_epochs": 3}
  other = "pmap" if fields["parallel"] == "jit" else "jit"
  # The VAE draws its noise per device, so the number of devices must not change.
  devices = 2 if "experiment" in fields else 1
  runner.finish([runner.start(two, more | {"parallel": other}, devices=devices)])
  runner.finish(runner.start_two(one, more))
  assert _difference(runs.load(two).state, runs.load(one).state) < 1e-4


@pytest.mark.slow
def test_a_signal_to_one_stops_all(runner, tmp_path):
  started = runner.start_two(tmp_path / "w", {"num_epochs": 500})
  deadline = time.monotonic() + 120
  while not (tmp_path / "w" / workdir.METRICS).exists():
    assert time.monotonic() < deadline
    time.sleep(0.1)
  started[1].send_signal(signal.SIGTERM)
  runner.finish(started)
  step = runs.load(tmp_path / "w").step
  assert 0 < step < 1000
  assert _lines(tmp_path / "w")[-1]["step"] == step


@pytest.mark.slow
def test_all_report_a_user_error_of_one(runner, tmp_path):
  started = runner.start_two(
    tmp_path / "w", {}, only_second={"dataset.data_dir": "Makefile"}
  )
  for process in started:
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    errors = [x for x in stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert "Makefile" in errors[0]
  assert not (tmp_path / "w").exists()


_FAILING = """
import sys
from sdt_jax.errors import UserError
from sdt_jax.training import processes

processes.start(sys.argv[1], 2, int(sys.argv[2]))
try:
  with processes.errors_shared(), processes.errors_shared():
    if not processes.is_main():
      raise KeyError("lost")
except UserError as e:
  sys.exit(f"error: {e}")
"""


@pytest.mark.slow
def test_any_other_error_of_one_ends_all():
  address = _free_address()
  started = [
    subprocess.Popen(
      [sys.executable, "-c", _FAILING, address, process],
      cwd=programs.ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in "01"
  ]
  try:
    first, second = (process.communicate(timeout=120)[1] for process in started)
  finally:
    for process in started:
      process.kill()
  assert "error: process 1 failed with KeyError: 'lost'; see the traceback" in first
  assert "Traceback" not in first
  assert "KeyError: 'lost'" in second
  assert "Traceback" in second


_HANGING = """
import atexit, time
from sdt_jax.training import processes

atexit.register(time.sleep, 60)  # JAX waits for a process that is lost
processes.jax.process_count = lambda: 2
processes._EXIT_S = 1
processes.multihost_utils.process_allgather = lambda text: [text, text]
with processes.errors_shared():
  raise KeyError("lost")
"""


def test_a_process_with_an_error_ends_though_another_hangs():
  started = time.monotonic()
  ended = subprocess.run(
    [sys.executable, "-c", _HANGING], cwd=programs.ROOT, capture_output=True, text=True
  )
  assert ended.returncode == -signal.SIGALRM
  assert "KeyError: 'lost'" in ended.stderr
  assert time.monotonic() - started < 40


def _share_with(monkeypatch, message: str) -> list[bytes]:
  """Pretends that there is another process; returns what this one sends to it."""
  sent = []

  def gather(text: np.ndarray) -> np.ndarray:
    sent.append(text.tobytes().rstrip(b"\0"))
    other = message.encode().ljust(len(text), b"\0")
    return np.stack([text, np.frombuffer(other, np.uint8)])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
  return sent


@pytest.mark.parametrize(
  ("error", "expected"),
  [
    (UserError("lost"), b"lost"),
    (
      KeyError("lost"),
      b"process 0 failed with KeyError: 'lost'; see the traceback of that process",
    ),
  ],
)
def test_an_error_is_sent_once_and_raised_again(monkeypatch, error, expected):
  sent = _share_with(monkeypatch, "")
  with (
    pytest.raises(type(error)) as e,
    processes.errors_shared(),
    processes.errors_shared(),
  ):
    raise error
  assert e.value is error
  assert sent == [expected]


def test_an_error_of_another_process_is_raised_once(monkeypatch):
  sent = _share_with(monkeypatch, "theirs")
  with (
    pytest.raises(UserError, match="theirs"),
    processes.errors_shared(),
    processes.errors_shared(),
  ):
    pass
  assert sent == [b""]


@pytest.mark.parametrize(
  ("flags", "complaint"),
  [
    ((None, 2, None), "need --coordinator"),
    (("localhost", 2, 0), "expected HOST:PORT"),
    (("localhost:http", 2, 0), "expected HOST:PORT"),
    (("localhost:99999", 2, 0), "expected HOST:PORT"),
    (("localhost:1234", 2, None), "--num_processes and --process_id"),
    (("localhost:1234", 2, 2), "--process_id=2: expected 0 to 1"),
    (("localhost:1234", 2, -1), "--process_id=-1"),
    (("nowhere.invalid:1234", 2, 1), "process 1 cannot reach"),
  ],
)
def test_bad_flags_are_named(flags, complaint):
  with pytest.raises(UserError, match=complaint):
    processes.start(*flags)


def test_a_port_that_is_taken_is_named():
  with socket.create_server(("", 0)) as server:
    address = f"localhost:{server.getsockname()[1]}"
    with pytest.raises(UserError, match="process 0 cannot listen on"):
      processes.start(address, 2, 0)


def test_the_others_wait_for_process_0(monkeypatch):
  monkeypatch.setattr(processes, "_WAIT_S", 0)
  with pytest.raises(UserError, match="process 1 cannot reach"):
    processes.start(_free_address(), 2, 1)


def test_alone_nothing_is_shared():
  processes.start(None, None, None)
  assert processes.is_main()
  assert processes.share() == {"process_index": 0, "process_count": 1}
  assert processes.any_process(True, False) == (True, False)
  assert processes.in_turn(lambda: 7) == 7
  with pytest.raises(UserError, match="mine"), processes.errors_shared():
    raise UserError("mine")
  with pytest.raises(KeyError), processes.errors_shared():
    raise KeyError
