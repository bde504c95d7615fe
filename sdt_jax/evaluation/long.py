"""Scores generation for long sounds.

Neighbouring clips of a split are joined into stretches of one length, whose motion is
generated windowed and whole (see `synthesis.generate`) with one template for each
stretch. It is scored over successive windows of 64 frames, so that the numbers compare
with those of clips.

Conventions: final poses (T, dims, joints) in pixels, 15 frames/s. A seam is where the
windows of the generation meet (`synthesis.windows`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sdt_jax import audio
from sdt_jax.data.pipeline import Split
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics, scoring
from sdt_jax.evaluation.registry import Sounds
from sdt_jax.pose import PoseTable
from sdt_jax.synthesis.generate import Generation, GestureModel
from sdt_jax.synthesis.windows import FRAMES, WHOLE_SOUND, Schedule
from sdt_jax.training.runs import Run

GENERATIONS: tuple[Generation, ...] = ("windowed", "whole")

_MINUTE = 60 * audio.FPS
_SMALLEST_SHARE = 0.02  # of the frames, for a mean over them


class Stretches(NamedTuple):
  """N sounds of T frames from neighbouring clips, and their true motion.

  Attributes:
    sounds: (N, samples) 16 kHz.
    truth_px: (N, T, dims, joints) final poses.
    dropped: number of frames of the split that are in no stretch.
  """

  sounds: np.ndarray
  truth_px: np.ndarray
  dropped: int

  @property
  def windows_px(self) -> np.ndarray:
    """(M, 64, dims, joints), the true motion of all windows."""
    return all_windows(self.truth_px)

  @property
  def windows_sound(self) -> np.ndarray:
    """(M, samples), the sounds of all windows."""
    num_frames = self.truth_px.shape[1]
    return np.concatenate([sounds_of_windows(s, num_frames) for s in self.sounds])


class Result(NamedTuple):
  """Scores of long generation.

  Attributes:
    scores: "windowed", "whole", and "clips" for the same windows generated one by one.
    seams: `seam_ratios` of "windowed", and of the "truth", which has no seams and shows
      what is chance.
    drift: see `drift_by_minute`.
  """

  scores: dict[str, scoring.Scores]
  seams: dict[str, dict[str, float]]
  drift: list[dict[str, Any]]


# --- Stretches


def join_clips(split: Split, seconds: float, name: str) -> Stretches:
  """Joins neighbouring clips; every frame of a video is used once.

  Args:
    split: the clips.
    seconds: length of the stretches.
    name: of the split, for errors.

  Raises:
    UserError: the length is less than that of a clip, the data set does not say where
      its clips come from, or there is no stretch of this length.
  """
  num_frames = round(seconds * audio.FPS) if np.isfinite(seconds) else 0
  if num_frames < FRAMES:
    raise UserError(
      f"--long={seconds:g}: give at least {FRAMES / audio.FPS:.1f}, or 0 for none"
    )
  clips = split.source.clips
  if (clips["start"] < 0).any() or (clips["video"] == b"").any():
    raise UserError(
      f"--long={seconds:g}: the data set does not say which video its clips are from "
      "and where they start; leave out --long"
    )
  sections = _neighbours(clips["video"], clips["start"])
  frames = [int(np.ptp(clips["start"][rows])) + FRAMES for rows in sections]
  if max(frames) < num_frames:
    longest = np.floor(10 * max(frames) / audio.FPS) / 10
    raise UserError(
      f"--long={seconds:g}: the longest stretch of neighbouring clips in the split "
      f"{name} is {longest:.1f} s; give at most --long={longest:.1f}"
    )
  sounds, truth_px = [], []
  for rows in sections:
    for sound, poses_px in _cut(*_join(split, rows), num_frames):
      sounds.append(sound)
      truth_px.append(poses_px)
  dropped = sum(frames) - num_frames * len(sounds)
  return Stretches(np.stack(sounds), np.stack(truth_px), dropped)


def _neighbours(videos: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
  """Groups the rows of clips that follow one another without a gap in a video."""
  order = np.lexsort((starts, videos))
  same_video = videos[order][1:] == videos[order][:-1]
  is_near = np.diff(starts[order]) <= FRAMES
  return np.split(order, np.flatnonzero(~(same_video & is_near)) + 1)


def _join(split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Sound (samples,) and final poses (T, dims, joints) of clips without a gap."""
  starts = split.source.clips["start"][rows]
  num_frames = int(np.ptp(starts)) + FRAMES
  origin = audio.num_samples(int(starts[0]))
  sound = np.zeros(audio.num_samples(int(starts[0]) + num_frames) - origin, np.float32)
  truth_px = split.poses_px(rows)
  joined_px = np.empty((num_frames, *truth_px.shape[2:]), truth_px.dtype)
  for row, start, poses_px in zip(rows, starts, truth_px, strict=True):
    [samples] = split.read(np.array([row]))["audio"]
    at = audio.num_samples(int(start)) - origin
    # 64 frames are 68266.7 samples: there may be one between two clips that touch.
    padded = np.pad(samples, (0, 1), mode="edge")
    sound[at : at + len(padded)] = padded[: len(sound) - at]
    joined_px[start - starts[0] :][:FRAMES] = poses_px
  return sound, joined_px


def _cut(
  sound: np.ndarray, poses_px: np.ndarray, num_frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Successive pieces of `num_frames` frames; a shorter rest is left out."""
  for first in range(0, len(poses_px) - num_frames + 1, num_frames):
    samples = sound[audio.num_samples(first) :]
    piece = audio.fit_to_frames(samples, num_frames)
    yield piece, poses_px[first : first + num_frames]


def in_windows(frames: np.ndarray) -> np.ndarray:
  """(T, ...) -> (T // 64, 64, ...): successive windows; a shorter rest is left out."""
  count = len(frames) // FRAMES
  return frames[: count * FRAMES].reshape(count, FRAMES, *frames.shape[1:])


def sounds_of_windows(sound: np.ndarray, num_frames: int) -> np.ndarray:
  """The sounds (T // 64, samples) of `in_windows`; each is that of a clip."""
  starts = range(0, num_frames - FRAMES + 1, FRAMES)
  return np.stack(
    [audio.fit_to_frames(sound[audio.num_samples(start) :], FRAMES) for start in starts]
  )


def all_windows(motions_px: np.ndarray) -> np.ndarray:
  """`in_windows` of N motions (N, T, ...), joined: (N * (T // 64), 64, ...)."""
  return np.concatenate([in_windows(poses_px) for poses_px in motions_px])


# --- Scores


def score(
  model: GestureModel,
  stretches: Stretches,
  renderings: Sequence[Sequence[np.ndarray | None]],
  table: PoseTable,
  mean_change: np.ndarray,
  pose_vae: Run | None = None,
  seed: int = 0,
) -> Result:
  """Generates the motion of stretches and scores it.

  Args:
    model: what generates.
    stretches: the N sounds and their truth.
    renderings: the templates of each rendering, one for each stretch; None for a model
      without templates.
    table: statistics of the poses in the form of the model.
    mean_change: see `registry.Sounds`.
    pose_vae: for FTD, which is left out for a single window.
    seed: for a method that draws random numbers.
  """
  sounds, windows_sound = list(stretches.sounds), list(stretches.windows_sound)
  onsets = [metrics.audio_onsets(sound) for sound in windows_sound]
  clips = scoring.Clips(stretches.windows_px, Sounds(onsets, mean_change), table)
  scorer = scoring.Scorer(clips, pose_vae if len(windows_sound) > 1 else None)
  motions = {
    generation: [
      np.stack(model.generate_many(sounds, codes, seed, generation))
      for codes in renderings
    ]
    for generation in GENERATIONS
  }
  scored = {
    generation: scorer.score([all_windows(poses_px) for poses_px in generated])
    for generation, generated in motions.items()
  }
  copies = len(windows_sound) // len(sounds)
  alone = [
    np.stack(
      model.generate_many(
        windows_sound,
        [_part(c, i) for c in codes for i in range(copies)],
        seed,
        "whole",
      )
    )
    for codes in renderings
  ]
  scores = {name: s.scores for name, s in scored.items()}
  lip_sync = {
    name: s.values["lip_sync"].reshape(-1, copies) for name, s in scored.items()
  }
  joined = {name: np.concatenate(poses_px) for name, poses_px in motions.items()}
  joined["truth"] = stretches.truth_px
  return Result(
    scores | {"clips": scorer.score(alone).scores},
    {name: seam_ratios(joined[name], WHOLE_SOUND) for name in ("windowed", "truth")},
    drift_by_minute(lip_sync, joined),
  )


def _part(code: np.ndarray | None, window: int) -> np.ndarray | None:
  """The template of a window: for templates (T, D) of the whole stretch, its frames."""
  if code is None or code.ndim == 1:
    return code
  return code[window * FRAMES :][:FRAMES]


def lip_error(poses_px: np.ndarray, truth_px: np.ndarray) -> float:
  """Mean lip-sync error over the windows of a motion (T, dims, joints)."""
  pair = (jnp.asarray(in_windows(motion)) for motion in (poses_px, truth_px))
  return float(metrics.lip_sync(*pair).mean())


def seam_ratios(motions_px: np.ndarray, schedule: Schedule) -> dict[str, float]:
  """Mean speed and acceleration at seams, divided by those elsewhere.

  Args:
    motions_px: (N, T, dims, joints), generated with this schedule.
    schedule: where the windows lie.

  Returns:
    "speed" and "acceleration"; NaN if nearly all or nearly no frames are at seams.
  """
  ratios = {}
  for name, order in (("speed", 1), ("acceleration", 2)):
    size = changes(motions_px, order)
    seam = _at_seams(motions_px.shape[1], schedule, order)
    defined = _SMALLEST_SHARE < seam.mean() < 1 - _SMALLEST_SHARE
    ratios[name] = size[:, seam].mean() / size[:, ~seam].mean() if defined else np.nan
  return {name: float(ratio) for name, ratio in ratios.items()}


def _at_seams(num_frames: int, schedule: Schedule, order: int) -> np.ndarray:
  """(T - order,) bool: differences over frames that come from several windows."""
  ends = np.arange(schedule.first, num_frames, schedule.hop) - schedule.look_ahead
  first = np.arange(num_frames - order)
  # The last `fade` frames of a window are blended with the next one.
  last = first + order + schedule.fade
  return np.searchsorted(ends, first, "right") < np.searchsorted(ends, last, "right")


def drift_by_minute(
  lip_sync: Mapping[str, np.ndarray], motions_px: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
  """Lip-sync error and speed in each minute of the stretches.

  Args:
    lip_sync: name -> (N, T // 64) errors of the windows of N stretches; a window counts
      for the minute in which it begins.
    motions_px: name -> (N, T, dims, joints).

  Returns:
    For each minute, "lip_sync" and "speed" (px/s) by name.
  """
  num_frames = next(iter(motions_px.values())).shape[1]
  speeds = {name: audio.FPS * changes(p, 1).mean(0) for name, p in motions_px.items()}
  minutes = []
  last_window = (num_frames // FRAMES - 1) * FRAMES
  for first in range(0, last_window + 1, _MINUTE):
    frames = slice(first, first + _MINUTE)
    windows = slice(*(-(-frame // FRAMES) for frame in (frames.start, frames.stop)))
    minutes.append(
      {
        "lip_sync": {
          name: float(errors[:, windows].mean()) for name, errors in lip_sync.items()
        },
        "speed": {name: float(speed[frames].mean()) for name, speed in speeds.items()},
      }
    )
  return minutes


def changes(motions_px: np.ndarray, order: int) -> np.ndarray:
  """Mean over joints of the size of a difference: (N, T, ...) -> (N, T - order)."""
  difference = np.diff(motions_px, order, axis=1)
  return np.sqrt(np.square(difference).sum(2)).mean(-1)


# --- Tables


def tables(result: Result) -> str:
  """The seams, and if there are several minutes, each of them, as text."""
  lines = [f"{'seams over elsewhere':<20}  {'speed':>9}  {'acceleration':>12}"]
  for name, ratios in result.seams.items():
    lines.append(
      f"{name:<20}  {ratios['speed']:>9.3f}  {ratios['acceleration']:>12.3f}"
    )
  if len(result.drift) > 1:
    heads = [f"{m}, {n}" for m, v in result.drift[0].items() for n in v]
    lines.append("  ".join(["minute", *heads]))
    for number, minute in enumerate(result.drift, start=1):
      values = [v for by_name in minute.values() for v in by_name.values()]
      cells = [f"{v:>{len(h)}.4g}" for v, h in zip(values, heads, strict=True)]
      lines.append("  ".join([f"{number:>6}", *cells]))
  return "\n".join(lines)
