"""How good motion is by the length of the sound, and how windows should overlap.

    python -m benchmarks.windows --workdir=output/quickstart [--lengths=4.3,60]

The run must be of a synthetic speaker, whose true motion is known for any sound. Prints
the tables of docs/generation.md: the lip-sync error of each generation by length, and
of each schedule for a minute of sound with the speed and acceleration at its seams.
"""

import itertools
import pathlib
import time
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from absl import flags

import sdt_jax
from sdt_jax import audio, cli, pose, workdir
from sdt_jax.data import synthetic_speaker
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics
from sdt_jax.synthesis.windows import FRAMES, Schedule

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Run of a synthetic speaker.", required=True
)

_LENGTHS = flags.DEFINE_list(
  "lengths", "4.3,8,12,24,60,120", "Lengths of the sounds in seconds."
)
_SEEDS = (11, 13, 17)
_TEMPLATES = (3, 200)
_SCHEDULES = {
  "windows": [
    (48, 8, 8),
    (40, 8, 16),
    (40, 16, 8),
    (32, 8, 8),
    (32, 8, 16),
    (32, 16, 16),
    (24, 8, 8),
    (16, 8, 8),
    (16, 4, 4),
    (8, 4, 4),
  ],
  "live": [(2, look_ahead, 1) for look_ahead in (0, 1, 2, 3, 4, 8, 16)] + [(4, 2, 2)],
}


def main() -> None:
  path = pathlib.Path(_WORKDIR.value)
  config = workdir.read_config(path)
  if config.dataset.name != "synthetic":
    raise UserError(f"--workdir={_WORKDIR.value}: not a run of a synthetic speaker")
  model = sdt_jax.load(_WORKDIR.value)
  scale = workdir.read_speaker(path).table(True).scale_factor
  speaker = config.dataset.speaker
  print("| seconds | whole | windowed | live |\n|---|---|---|---|")
  for seconds in _LENGTHS.value:
    row = _by_length(model, speaker, scale, round(float(seconds) * audio.FPS))
    print(f"| {seconds} | " + " | ".join(f"{x:.4f}" for x in row) + " |", flush=True)
  print(
    "\n| kind | hop | look-ahead | fade | lip-sync error | speed at seams | "
    "acceleration at seams | seconds |\n" + "|---" * 8 + "|"
  )
  for kind, schedules in _SCHEDULES.items():
    for numbers in schedules:
      first = FRAMES if kind == "windows" else sum(numbers)
      row = _by_schedule(model, speaker, scale, Schedule(*numbers, first))
      cells = [kind, *map(str, numbers), *(f"{x:.3f}" for x in row)]
      print(f"| {' | '.join(cells)} |", flush=True)


def _performances(speaker: str, num_frames: int) -> Iterator[tuple]:
  """Sound, true global poses and template of each test."""
  for seed, template in itertools.product(_SEEDS, _TEMPLATES):
    video = synthetic_speaker.perform(
      synthetic_speaker.make_speaker(speaker), seed, num_frames
    )
    sound = audio.fit_to_frames(video.audio.astype(np.float32), num_frames)
    yield sound, pose.from_openpose(video.keypoints), template


def _by_length(model, speaker: str, scale: float, num_frames: int) -> np.ndarray:
  errors = []
  for sound, truth, template in _performances(speaker, num_frames):
    stream = model.stream(template)
    motions = [
      model.generate(sound, audio.SAMPLE_RATE, template, generation="whole"),
      model.generate(sound, audio.SAMPLE_RATE, template),
      np.concatenate([stream.feed(sound), stream.finish()]),
    ]
    errors.append([_lip_error(motion, truth * scale) for motion in motions])
  return np.mean(errors, axis=0)


def _lip_error(motion: np.ndarray, truth: np.ndarray) -> float:
  """Lip-sync error as for clips: over successive clips of the motion."""
  count = len(motion) // FRAMES
  clips = [
    x[: count * FRAMES].reshape(count, FRAMES, *x.shape[1:]) for x in (motion, truth)
  ]
  return float(jnp.mean(metrics.lip_sync(*map(jnp.asarray, clips))))


def _by_schedule(model, speaker: str, scale: float, schedule: Schedule) -> np.ndarray:
  """Lip-sync error, speed and acceleration at seams over elsewhere, seconds."""
  num_frames, rows = 60 * audio.FPS, []
  ends = np.arange(schedule.first, num_frames, schedule.hop) - schedule.look_ahead
  is_seam = np.zeros(num_frames, bool)
  for end in ends:
    is_seam[max(0, end - schedule.fade - 1) : end + 1] = True
  for sound, truth, template in _performances(speaker, num_frames):
    start = time.perf_counter()
    stream = model._stream(schedule, model.bank[template], 0, 0)
    motion = np.concatenate([stream.feed(sound), stream.finish()])
    seconds = time.perf_counter() - start
    ratios = []
    for order in (1, 2):
      size = np.linalg.norm(np.diff(motion, order, axis=0), axis=1).mean(-1)
      seam = is_seam[order:]
      ratios.append(size[seam].mean() / size[~seam].mean() if (~seam).any() else np.nan)
    rows.append([_lip_error(motion, truth * scale), *ratios, seconds])
  return np.mean(rows, axis=0)


if __name__ == "__main__":
  cli.run(main)
