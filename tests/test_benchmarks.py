"""The benchmarks run and print the expected rows; speeds are not checked."""

import functools
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from absl import flags
from absl.testing import flagsaver

from benchmarks import measure, streaming

_TINY_MODEL = (
  "generator.channels=8",
  "generator.audio_channels=(4, 4, 8, 8)",
  "template.size=4",
  "batch_size=8",
)


def _flags(**values: str | list[str]):
  """Sets flags, given as text, until the context exits."""
  flags.FLAGS.mark_as_parsed()
  return flagsaver.as_parsed(**values)


def _report(capsys, program: str, **values) -> dict:
  """The JSON of a benchmark; asserts that its table has the same rows."""
  main = importlib.import_module(f"benchmarks.{program}").main
  with _flags(repeats="2", **values):
    measure.report(main)
  *table, last = capsys.readouterr().out.splitlines()
  result = json.loads(last)
  assert result["benchmark"] == program
  assert len(result["rows"]) == len(table) - 2
  for row, line in zip(result["rows"], table[2:], strict=True):
    assert line.startswith(row["name"])
    assert row["low"] <= row["median"] <= row["high"]
  return result


def _names(result: dict) -> list[str]:
  return [row["name"] for row in result["rows"]]


@pytest.mark.parametrize(
  "experiment", ["pose2pose", pytest.param("s2g", marks=pytest.mark.slow)]
)
def test_training_step(capsys, experiment):
  values = {"experiments": experiment, "batch_sizes": "8", "set": _TINY_MODEL}
  step, matrices = _report(capsys, "training_step", **values)["rows"]
  assert step["name"] == f"{experiment}, batch 8, float32"
  assert matrices["name"] == "matrix product, float32"
  speed = step["GFLOP/clip"] * step["median"] / 1000
  assert step["TFLOP/s"] == pytest.approx(speed, rel=0.01)
  assert step["memory MB"] > 0


@pytest.mark.slow
def test_input_pipeline_and_build(capsys):
  result = _report(
    capsys, "input_pipeline", num_clips="40", train_steps="2", set=_TINY_MODEL
  )
  assert len(result["rows"]) == 5
  result = _report(capsys, "build", num_clips="4")
  assert _names(result) == ["build, 4 compressed clips"]
  assert result["rows"][0]["goal"] == 500


@pytest.mark.slow
def test_generation(capsys):
  result = _report(capsys, "generation", lengths="3,5", set=_TINY_MODEL)
  assert _names(result)[:2] == ["3 s of speech, warm", "5 s of speech, warm"]
  assert len(result["rows"]) == 6


class _SlowStream:
  """Returns a frame for each 66 ms of sound; each takes some time."""

  def __init__(self, seconds_per_frame: float):
    self.seconds_per_frame, self.now = seconds_per_frame, 0.0
    self._samples = self._frames = 0

  def stream(self, template):
    return self

  def feed(self, samples):
    self._samples += len(samples)
    new = self._samples * 15 // 16_000 - self._frames
    self._frames += new
    self.now += new * self.seconds_per_frame
    return [None] * new

  def delays(self, seconds: int):
    sound = np.zeros(seconds * 16_000, np.float32)
    return streaming._delays(self, sound, clock=lambda: self.now)


def test_delays_count_from_the_sound_of_the_frame():
  delays = _SlowStream(0.03).delays(10)
  # The frame is returned for the piece of 20 ms that completes its sound.
  np.testing.assert_allclose(delays[:3], [30 + 40 / 3, 30 + 20 / 3, 30])
  assert len(delays) == 150


def test_pieces_wait_if_computing_is_slower_than_the_sound():
  delays = _SlowStream(0.1).delays(10)
  np.testing.assert_allclose(np.diff(delays), 100 - 1000 / 15, atol=0.1)


@pytest.mark.slow
def test_streaming(capsys):
  lengths = {"stream_seconds": "6", "minutes": "0.5"}
  result = _report(capsys, "streaming", configs="quick", set=_TINY_MODEL, **lengths)
  rows = {row["name"]: row for row in result["rows"]}
  latency = rows["quick, streamed: from sound to frame, median"]
  # hop=2, look_ahead=2, fade=1: 3 to 4 frames, and the computing time
  assert latency["median"] > 200
  assert rows["quick, offline: an hour of sound"]["median"] > 0
  assert rows["quick, streamed: peak memory"]["median"] > 50


@pytest.mark.slow
def test_windows_prints_tables_and_draws(tmp_path):
  config = tiny.config(tmp_path / "data", num_epochs=1)
  config.dataset.num_train_clips, config.log.video_every_epochs = 208, 0
  tiny.train(config, tmp_path / "run")
  done = _run(
    "benchmarks.windows",
    f"--workdir={tmp_path / 'run'}",
    "--lengths=4.3,5",
    "--seconds=5",
    f"--plot={tmp_path / 'plot.png'}",
    XLA_FLAGS="",  # one device
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0] == "| seconds | whole | windowed | live | clips |"
  whole, windowed, _, clips = lines[2].strip("|").split("|")[1:]
  assert whole == windowed == clips  # of the length of a clip
  assert sum(line.startswith("| live |") for line in lines) == 9
  assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_drawing_and_encoding(capsys):
  assert len(_names(_report(capsys, "drawing", frames="2"))) == 2
  result = _report(capsys, "encoding", seconds="0.4")
  assert _names(result) == ["poses to file", "drawn frames to file"]


@pytest.mark.slow
def test_demo_and_quickstart(capsys):
  rows = _report(capsys, "demo", set=_TINY_MODEL)["rows"]
  seconds = {row["name"]: row["median"] for row in rows}
  stages = [s for name, s in seconds.items() if name.startswith("stage: ")]
  assert {"stage: imports", "stage: generate", "stage: load"} <= set(seconds)
  assert sum(stages) == pytest.approx(seconds["later runs"], rel=0.2)
  run = ("num_epochs=1", "dataset.num_train_clips=16", "dataset.num_dev_clips=8")
  tiny_run = [f"--config.{field}" for field in (*_TINY_MODEL, *run)]
  names = _names(_report(capsys, "quickstart", train_flag=tiny_run))
  assert {"whole quickstart", "train.py", "eval.py", "demo.py"} <= set(names)
  assert "train.py: data set" in names


def test_goals_are_lower_limits_for_rates_and_upper_limits_otherwise():
  rate = measure.Row("", "clips/s", [1, 3, 2], goal=2).to_json()
  assert (rate["median"], rate["met"]) == (2, True)
  assert not measure.Row("", "clips/s", [1], goal=2).to_json()["met"]
  assert measure.Row("", "s", [1], goal=2).to_json()["met"]
  assert measure.Row("", "s", [1]).to_json()["met"] is None


def test_variants_take_turns(monkeypatch):
  monkeypatch.setattr(measure, "_SHORTEST_TIMING", 0)  # one call for each timing
  called = []
  variants = {name: functools.partial(called.append, name) for name in "ab"}
  with _flags(repeats="2", warmup="1"):
    seconds = measure.interleave(variants)
  assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
  assert "".join(called) == "aabbabab"


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", *command],
    cwd=measure.ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
  )


def test_a_wrong_flag_gets_one_line():
  done = _run("benchmarks.drawing", "--frames=none")
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert len(done.stderr.splitlines()) == 1


def test_all_writes_a_table(tmp_path):
  output = tmp_path / "table.md"
  done = _run("benchmarks.all", f"--output={output}", "--programs=drawing")
  assert done.returncode == 0, done.stderr
  lines = output.read_text().splitlines()
  assert "## drawing" in lines
  assert any(line.startswith("| drawing, 1280x720 | 800 |") for line in lines)
