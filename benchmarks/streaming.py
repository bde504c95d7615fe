"""Latency, load and memory of streams, and speed for long sounds, of untrained models.

    python -m benchmarks.streaming [--configs=sdt_bp,quick] [--hour]

Each model is measured streamed and offline, in a process of its own. A stream is fed
with pieces of 20 ms, as by a microphone. Their times of arrival are computed, so that
nothing waits for the sound; the computing time is measured. A piece that arrives while
the previous ones are still computed waits for them.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import flags

import sdt_jax
from benchmarks import measure, workloads
from sdt_jax import audio, cli
from sdt_jax.errors import UserError
from sdt_jax.synthesis.generate import GestureModel

_CONFIGS = flags.DEFINE_list(
  "configs", "sdt_bp,sdt_live,quick", "Names of files in configs/."
)
_SECONDS = flags.DEFINE_float(
  "stream_seconds", 30, "Length of the streamed sound.", lower_bound=5
)
_MINUTES = flags.DEFINE_float(
  "minutes", 3, "Length of the sound offline.", lower_bound=0.5
)
_HOUR = flags.DEFINE_bool("hour", False, "Generate a whole hour offline.")
_CASE = flags.DEFINE_list(
  "case", [], "For the processes of this program: kind, config and workdir."
)

_PIECE = audio.SAMPLE_RATE // 50
_SHORT_SECONDS = 24


class _Goals(NamedTuple):
  """Upper limits: milliseconds from sound to frame, share of one core in percent."""

  latency: float | None = None
  share: float | None = None
  hour_s: float | None = None
  hour_mb: float | None = None


_GOALS = {"sdt_bp": _Goals(400, 100, 240, 1500), "sdt_live": _Goals(150, 33)}


def main() -> list[measure.Row]:
  measure.time_programs()
  rows = []
  for name in _CONFIGS.value:
    config = workloads.config(name)
    with tempfile.TemporaryDirectory() as folder:
      workloads.untrained_run(pathlib.Path(folder), config)
      rows += [row for kind in _KINDS for row in _in_own_process(kind, name, folder)]
  return rows


def _in_own_process(kind: str, name: str, folder: str) -> list[measure.Row]:
  values = (_SECONDS, _MINUTES, _HOUR, measure.REPEATS)
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.streaming", f"--case={kind},{name},{folder}"),
      *(flags.FLAGS[value.name].serialize() for value in values),
    ],
    cwd=measure.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    raise UserError(f"{name}, {kind}: failed with code {done.returncode}")
  return [measure.Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _print_case() -> None:
  """Measures one case, and prints its rows as a line of JSON."""
  kind, name, folder = _CASE.value
  rows = _KINDS[kind](sdt_jax.load(folder), _GOALS.get(name, _Goals()))
  title = f"{name}, {kind}: "
  rows = [dataclasses.replace(row, name=title + row.name) for row in rows]
  print(json.dumps([dataclasses.asdict(row) for row in rows]))


def _streamed(model: GestureModel, goals: _Goals) -> list[measure.Row]:
  sound = workloads.speech(_SECONDS.value)
  _delays(model, sound[: 5 * audio.SAMPLE_RATE])  # compiles
  firsts, medians, high, shares = [], [], [], []
  for _ in range(measure.REPEATS.value):
    start = time.process_time()
    delays = _delays(model, sound)
    share = (time.process_time() - start) / _SECONDS.value
    firsts.append(delays[0] + 1000 / audio.FPS)
    medians.append(float(np.median(delays)))
    high.append(float(np.percentile(delays, 99)))
    shares.append(100 * share)
  return [
    measure.Row("from the start to the first frame", "ms", firsts),
    measure.Row("from sound to frame, median", "ms", medians),
    measure.Row("from sound to frame, 99 %", "ms", high, goals.latency),
    measure.Row("share of one core", "%", shares, goals.share),
    measure.Row("peak memory", "MB", [_peak_mb()]),
  ]


def _delays(
  model: GestureModel, sound: np.ndarray, clock: Callable[[], float] = time.perf_counter
) -> np.ndarray:
  """Milliseconds (T,) from the end of each frame's sound until the stream returns it.

  Frames that are returned only at the end of the sound are left out.
  """
  stream = model.stream(template=0)
  done_at, returned_at = 0.0, []
  for end in range(_PIECE, len(sound) + 1, _PIECE):
    start = clock()
    frames = stream.feed(sound[end - _PIECE : end])
    seconds = clock() - start
    done_at = max(done_at, end / audio.SAMPLE_RATE) + seconds
    returned_at += [done_at] * len(frames)
  heard_at = np.arange(1, len(returned_at) + 1) / audio.FPS
  return 1000 * (np.array(returned_at) - heard_at)


def _offline(model: GestureModel, goals: _Goals) -> list[measure.Row]:
  minute = workloads.speech(60)
  seconds = 3600 if _HOUR.value else round(60 * _MINUTES.value)
  sound = np.resize(minute, seconds * audio.SAMPLE_RATE)

  def generate(sound: np.ndarray, generation: Any = "windowed") -> np.ndarray:
    return model.generate(sound, audio.SAMPLE_RATE, 0, generation=generation)

  generate(minute)  # compiles
  times = []
  for _ in range(1 if _HOUR.value else measure.REPEATS.value):
    start = time.perf_counter()
    generate(sound)
    times.append((time.perf_counter() - start) * 3600 / seconds)
  memory = _peak_mb()
  short = minute[: _SHORT_SECONDS * audio.SAMPLE_RATE]
  pair = measure.interleave(
    {kind: lambda kind=kind: generate(short, kind) for kind in ("windowed", "whole")}
  )
  ratios = np.divide(pair["windowed"], pair["whole"]).tolist()
  of = "an hour" if _HOUR.value else f"{seconds} s"
  return [
    measure.Row("an hour of sound", "s", times, goals.hour_s),
    measure.Row(
      f"peak memory for {of}", "MB", [memory], goals.hour_mb if _HOUR.value else None
    ),
    measure.Row(f"{_SHORT_SECONDS} s of sound", "s", pair["windowed"]),
    measure.Row(
      f"{_SHORT_SECONDS} s of sound, over whole",
      "x",
      ratios,
      1.5 if goals.hour_s else None,
    ),
  ]


def _peak_mb() -> float:
  """Peak memory of this process in MB.

  `getrusage` would include the process that started it.
  """
  status = pathlib.Path("/proc/self/status").read_text()
  [peak_kib] = re.findall(r"VmHWM:\s*(\d+) kB", status)
  return int(peak_kib) * 1024 / 1e6


_KINDS: dict[str, Callable[[GestureModel, _Goals], list[measure.Row]]] = {
  "streamed": _streamed,
  "offline": _offline,
}

if __name__ == "__main__":
  if any(argument.startswith("--case") for argument in sys.argv):
    cli.run(_print_case)
  else:
    measure.run(main)
