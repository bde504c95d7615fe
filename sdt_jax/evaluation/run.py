"""Scores a trained run: what eval.py does."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from sdt_jax import files, workdir
from sdt_jax.data.pipeline import Split
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics, references, scoring
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.evaluation.registry import Sounds
from sdt_jax.templates import sources
from sdt_jax.training import runs, setup
from sdt_jax.training.hooks import Sample
from sdt_jax.training.runs import Run

SampleWriter = Callable[[pathlib.Path, Sample], None]

# Number of training clips whose arm speed is averaged.
_MEAN_CHANGE_CLIPS = 512

_SOUNDS_AT_ONCE = 64

_WITHOUT_FTD = (
  "FTD is left out: it needs a pose VAE of the same data; train configs/pose2pose.py "
  "and give --pose_vae=<its workdir>"
)


@dataclasses.dataclass(frozen=True)
class Options:
  """What to score and how.

  Attributes:
    step: "latest", "best" or the number of a step.
    split: "dev" or "train".
    template: see `templates.sources`.
    num_samples: renderings of each clip; the first is the one that is scored.
    seed: for what is drawn at random.
    pose_vae: workdir of the pose VAE for FTD and the "encoder" templates; default: the
      one that the run's templates came from.
    save_videos: number of clips to show beside their truth.
    save_npz: whether to save the generated poses.
  """

  step: str = "latest"
  split: str = "dev"
  template: str = "random"
  num_samples: int = 1
  seed: int = 0
  pose_vae: str | None = None
  save_videos: int = 0
  save_npz: bool = False


def evaluate_run(
  path: pathlib.Path, options: Options, write_sample: SampleWriter | None = None
) -> pathlib.Path:
  """Scores a checkpoint, prints a table and writes `eval_<split>_<step>.json`.

  Args:
    path: the workdir.
    options: what to score.
    write_sample: makes the videos that `options.save_videos` asks for.

  Returns:
    The JSON file.

  Raises:
    UserError: the workdir, the checkpoint, an option or the data is unusable.
  """
  run = runs.load(path, options.step)
  pose_vae = _pose_vae(run, options)
  built = setup.build_data(run.config)
  if options.split not in built.sources:
    known = ", ".join(built.sources)
    raise UserError(f"--split={options.split}: expected one of {known}")
  train, split = (
    Split(built.sources[name], run.table) for name in ("train", options.split)
  )
  rows = np.arange(len(split))
  truth_px = split.poses_px(rows)
  poses_px = _generate(run, options, split, pose_vae, truth_px)
  clips = scoring.Clips(truth_px, _beat_data(train, split), run.table)
  scorer = scoring.Scorer(clips, pose_vae)
  scores = scorer.score(poses_px[0])
  others = {
    name: scorer.score(poses)
    for name, poses in _references(run, options.seed, train, split, truth_px).items()
  }

  name = f"eval_{options.split}_{run.step}"
  result = {
    "step": run.step,
    "epoch": run.epoch,
    "num_clips": len(split),
    **dataclasses.asdict(options),
    "metrics": _to_json(scores),
    "references": {row: _to_json(row_scores) for row, row_scores in others.items()},
  }
  if options.num_samples > 1:
    result["renderings"] = _renderings(scorer, poses_px)
  if options.save_npz:
    _save_poses(path / name, poses_px, truth_px)
  for i in rows[: options.save_videos]:
    assert write_sample is not None
    [sound] = split.read(rows[i : i + 1])["audio"]
    for s, poses in enumerate(poses_px):
      write_sample(
        path / name, Sample(f"clip{i:04d}_{s}", poses[i], truth_px[i], sound)
      )
  workdir.write_text(path / f"{name}.json", json.dumps(result, indent=2) + "\n")
  print(table({"model": scores, **others}))
  if pose_vae is None:
    print(_WITHOUT_FTD)
  return path / f"{name}.json"


def _pose_vae(run: Run, options: Options) -> Run | None:
  if run.method.has_encoder and options.pose_vae is None:
    return run
  path = options.pose_vae or run.config.template.pose_vae
  if not path:
    return None
  if options.pose_vae is None and not pathlib.Path(path).is_dir():
    print(f"the pose VAE that the templates came from is no longer in {path}")
    return None
  pose_vae = runs.load_encoder(path, "--pose_vae")
  if pose_vae.speaker.name != run.speaker.name:
    raise UserError(
      f"--pose_vae={path}: is of speaker {pose_vae.speaker.name}, but the run of "
      f"{run.speaker.name}; give one of the same speaker"
    )
  return pose_vae


def _generate(
  run: Run, options: Options, split: Split, pose_vae: Run | None, truth_px: np.ndarray
) -> list[np.ndarray]:
  """Final poses (N, T, dims, joints) of each rendering."""
  chosen = sources.choose(
    options.template,
    run.method.bank(run.state),
    num_samples=options.num_samples,
    num_clips=len(split),
    seed=options.seed,
    encode=lambda: _encoded(run, pose_vae, truth_px),
  )
  evaluator, rows = Evaluator(run.method, run.table, run.config), np.arange(len(split))
  return [
    evaluator.generate(run.state, split, templates and templates.codes, rows)
    for templates in chosen
  ]


def _encoded(run: Run, pose_vae: Run | None, truth_px: np.ndarray) -> np.ndarray:
  """(N, D) templates of the true clips."""
  size = run.config.template.size
  if pose_vae is None or pose_vae.config.template.size != size:
    raise UserError(
      "--template=encoder: needs --pose_vae=<workdir> of a pose VAE whose templates "
      f"have {size} dimensions"
    )
  mean, _ = scoring.encoder(pose_vae, run.table.scale_factor)(truth_px)
  return mean


def _sounds(split: Split) -> Iterator[np.ndarray]:
  """Audio (n, samples) of a few clips at a time: all of it may not fit in memory."""
  rows = np.arange(len(split))
  for start in range(0, len(rows), _SOUNDS_AT_ONCE):
    yield split.read(rows[start : start + _SOUNDS_AT_ONCE])["audio"]


def _beat_data(train: Split, split: Split) -> Sounds:
  some = np.arange(0, len(train), max(1, len(train) // _MEAN_CHANGE_CLIPS))
  onsets = [metrics.audio_onsets(s) for sounds in _sounds(split) for s in sounds]
  return Sounds(onsets, metrics.mean_angle_change(train.poses_px(some)))


def _references(
  run: Run, seed: int, train: Split, split: Split, truth_px: np.ndarray
) -> dict[str, np.ndarray]:
  """What the model is compared with: row -> final poses of the same clips."""
  num_clips, num_frames = truth_px.shape[:2]
  rows = {"truth": truth_px}
  try:
    rows["truth of another"] = references.truth_of_another(
      truth_px, seed, _places(split, num_frames)
    )
  except UserError as e:
    print(f"no row 'truth of another': {e}")
  rows["mean pose"] = references.mean_pose_held(run.table, num_clips, num_frames)
  if split.source is not train.source:  # else every clip would retrieve itself
    features, train_features = (
      np.concatenate([references.sound_features(sounds) for sounds in _sounds(clips)])
      for clips in (split, train)
    )
    nearest = references.nearest_features(features, train_features)
    rows["retrieval"] = train.poses_px(nearest)
  return rows


def _places(split: Split, num_frames: int) -> references.Places | None:
  """Where the clips were cut from; None if the data set does not say."""
  examples = [split.source[row] for row in range(len(split))]
  starts = [int(e["start"]) for e in examples]
  videos = [e["video"].decode() for e in examples]
  if min(starts) < 0:
    return None
  return references.Places(videos, starts, [s + num_frames for s in starts])


def _renderings(scorer: scoring.Scorer, poses_px: list[np.ndarray]) -> dict[str, Any]:
  """Minimum, mean and maximum of each metric over renderings, mean over clips."""
  values = [scorer.values(poses) for poses in poses_px]
  spread = {}
  for name in values[0]:
    per_clip = np.stack([v[name] for v in values])
    spread[name] = {
      "min": float(per_clip.min(0).mean()),
      "mean": float(per_clip.mean()),
      "max": float(per_clip.max(0).mean()),
    }
  diversity = metrics.diversity_samples(jnp.stack(poses_px))
  return spread | {"diversity_samples": {"mean": float(np.mean(diversity))}}


def _save_poses(
  folder: pathlib.Path, poses_px: list[np.ndarray], truth_px: np.ndarray
) -> None:
  with files.replacing(folder / "poses.npz") as temporary:
    np.savez_compressed(
      temporary,
      allow_pickle=False,
      poses_pred_batch=np.concatenate(poses_px),
      poses_gt_batch=truth_px,
    )


def _to_json(scores: scoring.Scores) -> dict[str, Any]:
  def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN

  keys = ("value", "low", "high")
  return {n: {k: finite(getattr(s, k)) for k in keys} for n, s in scores.items()}


def table(rows: dict[str, scoring.Scores]) -> str:
  """One line per metric, one column per entry of `rows`, the first with interval."""
  first, *others = rows
  widths = [max(len(name), 9) for name in others]
  head = "  ".join(f"{n:>{w}}" for n, w in zip(others, widths, strict=True))
  lines = [f"{'metric':<20}  {first:>9}  {'95 % over clips':>20}  {head}"]
  for metric, score in rows[first].items():
    interval = f"{_short(score.low)} to {_short(score.high)}"
    cells = "  ".join(
      f"{_short(rows[n][metric].value):>{w}}"
      for n, w in zip(others, widths, strict=True)
    )
    lines.append(f"{metric:<20}  {_short(score.value):>9}  {interval:>20}  {cells}")
  return "\n".join(lines)


def _short(value: float) -> str:
  return f"{value:.4g}" if math.isfinite(value) else "-"
