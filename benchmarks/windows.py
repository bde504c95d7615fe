"""How good motion is by the length of the sound, and how windows should overlap.

    python -m benchmarks.windows --workdir=output/quickstart [--lengths=4.3,60] \
      [--plot=FILE.png]

The run must be of a synthetic speaker, whose true motion is known for any sound. Prints
the tables of docs/generation.md: the lip-sync error of each generation by length, and
the quality of each schedule for a minute of sound. All numbers are means over three
performances with two templates each. `--plot` draws the error by length and by
look-ahead.
"""

import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

import sdt_jax
from sdt_jax import audio, cli, pose, workdir
from sdt_jax.data import synthetic_speaker
from sdt_jax.errors import UserError
from sdt_jax.evaluation import long, plots
from sdt_jax.synthesis import windows
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.synthesis.windows import Schedule

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Run of a synthetic speaker.", required=True
)
_LENGTHS = flags.DEFINE_list(
  "lengths", "4.3,8,12,24,60,120,600", "Lengths of the sounds in seconds."
)
_SECONDS = flags.DEFINE_float(
  "seconds", 60, "Length of the sounds for schedules; 0 leaves them out."
)
_PLOT = flags.DEFINE_string("plot", None, "PNG file to draw.")

_SEEDS = (11, 13, 17)
_TEMPLATES = (3, 200)
_FOR_SOUNDS = (
  *(
    (48, 8, 8),
    (43, 8, 13),
    (40, 8, 16),
    (40, 16, 8),
    (32, 8, 8),
    (32, 8, 16),
    (32, 16, 16),
  ),
  *((24, 8, 8), (16, 8, 8), (16, 4, 4), (8, 4, 4)),
)
"""Schedules for whole sounds: hop, look-ahead, fade."""
_LOOK_AHEAD = (0, 1, 2, 3, 4, 6, 8, 12, 16)


class _Test(NamedTuple):
  """A performance of the speaker, and the template to generate it with."""

  sound: np.ndarray
  truth_px: np.ndarray  # final poses
  template: int


def main() -> None:
  path = pathlib.Path(_WORKDIR.value)
  config = workdir.read_config(path)
  if config.dataset.name != "synthetic":
    raise UserError(f"--workdir={_WORKDIR.value}: not a run of a synthetic speaker")
  model = sdt_jax.load(_WORKDIR.value)
  scale = workdir.read_speaker(path).table(True).scale_factor

  def tests(seconds: float) -> Iterator[_Test]:
    return _tests(config.dataset.speaker, scale, round(seconds * audio.FPS))

  lengths = [float(length) for length in _LENGTHS.value]
  panels = [_by_length(model, tests, lengths)]
  if _SECONDS.value:
    panels.append(_by_schedule(model, list(tests(_SECONDS.value))))
  if _PLOT.value:
    plots.write_panels(pathlib.Path(_PLOT.value), panels)


def _tests(speaker: str, scale: float, num_frames: int) -> Iterator[_Test]:
  for seed, template in itertools.product(_SEEDS, _TEMPLATES):
    video = synthetic_speaker.perform(
      synthetic_speaker.make_speaker(speaker), seed, num_frames
    )
    sound = audio.fit_to_frames(video.audio.astype(np.float32), num_frames)
    yield _Test(sound, scale * pose.from_openpose(video.keypoints), template)


def _by_length(model: GestureModel, tests: Any, lengths: list[float]) -> plots.Panel:
  """Prints the error of each generation by length."""
  names = ("whole", "windowed", "live", "clips")
  print(_line("seconds", *names) + "\n" + "|---" * (1 + len(names)) + "|")
  rows = []
  for seconds in lengths:
    errors = [
      [long.lip_error(m, test.truth_px) for m in _motions(model, test)]
      for test in tests(seconds)
    ]
    rows.append(np.mean(errors, axis=0))
    print(_line(f"{seconds:g}", *(f"{x:.4f}" for x in rows[-1])), flush=True)
  curves = {
    n: plots.Curve(lengths, y) for n, y in zip(names, np.transpose(rows), strict=True)
  }
  return plots.Panel("length of the sound (s)", "lip-sync error", curves, lengths)


def _motions(model: GestureModel, test: _Test) -> list[np.ndarray]:
  """The motion of a sound: whole, windowed, live, and as clips of their own."""

  def generate(sound: np.ndarray, generation: Any) -> np.ndarray:
    return model.generate(sound, audio.SAMPLE_RATE, test.template, 0, generation)

  stream = model.stream(test.template)
  return [
    generate(test.sound, "whole"),
    generate(test.sound, "windowed"),
    np.concatenate([stream.feed(test.sound), stream.finish()]),
    _as_clips(model, test),
  ]


def _as_clips(model: GestureModel, test: _Test) -> np.ndarray:
  """The motion of a sound whose clips are generated one by one."""
  sounds = long.sounds_of_windows(test.sound, len(test.truth_px))
  codes = [model.choose_template(test.template)] * len(sounds)
  return np.concatenate(model.generate_many(list(sounds), codes, generation="whole"))


def _by_schedule(model: GestureModel, tests: list[_Test]) -> plots.Panel:
  """Prints what the motion is like with each schedule."""
  clips = [_as_clips(model, test) for test in tests]
  head = ("", "hop", "look-ahead", "fade", "lip-sync error", "speed at seams")
  head = (*head, "acceleration at seams", "speed", "acceleration", "seconds")
  print("\n" + _line(*head) + "\n" + "|---" * len(head) + "|")
  schedules = {Schedule(*numbers): "windowed" for numbers in _FOR_SOUNDS}
  schedules |= {windows.live(n): "live" for n in _LOOK_AHEAD}
  errors = {}
  for schedule, kind in schedules.items():
    rows = [_measure(model, t, c, schedule) for t, c in zip(tests, clips, strict=True)]
    row = np.mean(rows, axis=0)
    cells = [f"{x:.3f}" if np.isfinite(x) else "-" for x in row]
    errors[schedule] = row[0]
    print(_line(kind, *map(str, schedule[:3]), *cells), flush=True)
  error = statistics.mean(
    long.lip_error(c, t.truth_px) for c, t in zip(clips, tests, strict=True)
  )
  print(f"\nlip-sync error of clips: {error:.3f}")
  live = [errors[windows.live(n)] for n in _LOOK_AHEAD]
  ends = (_LOOK_AHEAD[0], _LOOK_AHEAD[-1])
  curves = {
    "live": plots.Curve(_LOOK_AHEAD, live, "C2o-"),
    "clips": plots.Curve(ends, (error, error), "C3--"),
  }
  return plots.Panel("look-ahead (frames)", "lip-sync error", curves)


def _measure(
  model: GestureModel, test: _Test, clips: np.ndarray, schedule: Schedule
) -> list[float]:
  """Lip-sync error; speed and acceleration at seams; those of all over clips; time."""
  start = time.perf_counter()
  stream = model._stream(schedule, model.choose_template(test.template), 0, 0)
  poses_px = np.concatenate([stream.feed(test.sound), stream.finish()])
  seconds = time.perf_counter() - start
  # Not the changes from one clip to the next.
  pair = poses_px[None], long.in_windows(clips)
  changes = [[long.changes(p, order).mean() for p in pair] for order in (1, 2)]
  seams = long.seam_ratios(poses_px[None], schedule)
  error = long.lip_error(poses_px, test.truth_px)
  return [error, *seams.values(), *(ours / clip for ours, clip in changes), seconds]


def _line(*cells: str) -> str:
  return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
  cli.run(main)
