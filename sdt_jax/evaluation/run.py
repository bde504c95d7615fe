"""Scores a trained run: what eval.py does."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sdt_jax import files, pose, workdir
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics, references, scoring, template_source
from sdt_jax.evaluation.loop import Evaluator
from sdt_jax.training import experiments, parallel, runs
from sdt_jax.training.loop import Sample
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.runs import Run

SampleWriter = Callable[[pathlib.Path, Sample], None]

# Training clips that tell how fast arms usually move: enough for a mean.
_MEAN_CHANGE_CLIPS = 512

_WITHOUT_FTD = (
  "ftd is missing: it needs a pose VAE of the same data; train configs/pose2pose.py "
  "and give --pose_vae=<its workdir>"
)


@dataclasses.dataclass(frozen=True)
class Options:
  """What to score and how.

  Attributes:
    step: "latest", "best" or the number of a step.
    split: "dev" or "train".
    template: "random" rows of the bank, "normal" for standard normal, "encoder" for
      the pose VAE's mean of the true poses, or an index into the bank.
    num_samples: renderings of each clip; the first is the one that is scored.
    seed: of what is drawn.
    pose_vae: workdir of the pose VAE for FTD (and "encoder"); default: the one that
      the run's templates came from.
    save_videos: how many clips to show beside their truth.
    save_npz: whether to keep the predicted poses.
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
    UserError: the workdir, the checkpoint, an option or the data does not fit.
  """
  run = runs.load(path, options.step)
  pose_vae = _pose_vae(run, options)
  built = experiments.build_data(run.config)
  if options.split not in built.sources:
    known = ", ".join(built.sources)
    raise UserError(f"--split={options.split}: expected one of {known}")
  train, split = (_open(run, built.sources[name]) for name in ("train", options.split))
  hierarchical = run.config.pose.hierarchical
  evaluator = Evaluator(
    run.experiment,
    run.speaker.table(hierarchical),
    hierarchical=hierarchical,
    batch_size=parallel.round_up(run.config.batch_size),
    mode=run.config.parallel,
  )
  truth_px = clips_px(run, split, np.arange(len(split)))
  chosen = template_source.choose(
    run, options.template, options.num_samples, options.seed, truth_px, pose_vae
  )
  poses_px = [evaluator.predict(run.state, split, codes) for codes in chosen]
  clips = _clips(run, train, split, truth_px)
  scorer = scoring.Scorer(clips, pose_vae)
  scores = scorer.score(poses_px[0])
  rows = {
    name: scorer.score(poses)
    for name, poses in _references(run, options, train, split, clips).items()
  }

  name = f"eval_{options.split}_{run.step}"
  result = {
    "step": run.step,
    "epoch": run.epoch,
    "num_clips": len(split),
    **dataclasses.asdict(options),
    "metrics": _to_json(scores),
    "references": {row: _to_json(row_scores) for row, row_scores in rows.items()},
  }
  if options.num_samples > 1:
    result["renderings"] = _renderings(scorer, poses_px)
  _save(path / name, options, poses_px, clips, write_sample)
  workdir.write_text(path / f"{name}.json", json.dumps(result, indent=2) + "\n")
  print(table({"model": scores, **rows}))
  if pose_vae is None:
    print(_WITHOUT_FTD)
  return path / f"{name}.json"


def _open(run: Run, source) -> pipeline.Split:
  return pipeline.open_split(
    source, run.speaker, hierarchical=run.config.pose.hierarchical
  )


def _pose_vae(run: Run, options: Options) -> Run | None:
  if isinstance(run.experiment, Pose2Pose) and options.pose_vae is None:
    return run
  path = options.pose_vae or run.config.template.pose_vae
  if not path:
    return None
  if options.pose_vae is None and not pathlib.Path(path).is_dir():
    print(f"the pose VAE that the templates came from is not in {path} any more")
    return None
  pose_vae = runs.load(path)
  if not isinstance(pose_vae.experiment, Pose2Pose):
    raise UserError(f"--pose_vae={path}: not a pose VAE; give a pose2pose workdir")
  if pose_vae.speaker.name != run.speaker.name:
    raise UserError(
      f"--pose_vae={path}: of speaker {pose_vae.speaker.name}, the run is of "
      f"{run.speaker.name}; give one of the same speaker"
    )
  return pose_vae


def clips_px(run: Run, split: pipeline.Split, rows: np.ndarray) -> np.ndarray:
  """True final poses (n, T, 2, 121) of clips, in the size of the run's speaker."""
  hierarchical = run.config.pose.hierarchical
  poses = np.concatenate([split.read(part)["poses"] for part in _chunks(rows)])
  return pose.to_final(poses, run.speaker.table(hierarchical), hierarchical)


def _clips(
  run: Run, train: pipeline.Split, split: pipeline.Split, truth_px: np.ndarray
) -> scoring.Clips:
  rows = np.arange(0, len(train), max(1, len(train) // _MEAN_CHANGE_CLIPS))
  return scoring.Clips(
    truth_px=truth_px,
    audio=split.read(np.arange(len(split)))["audio"],
    mean_change=metrics.mean_angle_change(clips_px(run, train, rows)),
    table=run.speaker.table(run.config.pose.hierarchical),
    hierarchical=run.config.pose.hierarchical,
  )


def _references(
  run: Run,
  options: Options,
  train: pipeline.Split,
  split: pipeline.Split,
  clips: scoring.Clips,
) -> dict[str, np.ndarray]:
  """Rows to compare with: name -> final poses of the same clips."""
  truth_px = clips.truth_px
  num_clips, num_frames = truth_px.shape[:2]
  rows = {"truth": truth_px}
  try:
    rows["truth of another"] = references.truth_of_another(
      truth_px, options.seed, _places(split, num_frames)
    )
  except UserError as e:
    print(f"no row 'truth of another': {e}")
  rows["mean pose"] = references.mean_pose_held(
    clips.table, clips.hierarchical, num_clips, num_frames
  )
  if options.split != "train":  # there, every clip would find itself
    nearest = references.nearest_features(
      references.sound_features(clips.audio), _sound_features(train)
    )
    rows["retrieval"] = clips_px(run, train, nearest)
  return rows


def _places(split: pipeline.Split, num_frames: int) -> references.Places | None:
  """Where the clips come from, if the data set knows."""
  examples = [split.source[row] for row in range(len(split))]
  starts = [int(e["start"]) for e in examples]
  videos = [e["video"].decode() for e in examples]
  if min(starts) < 0:
    return None
  return references.Places(videos, starts, [s + num_frames for s in starts])


def _sound_features(split: pipeline.Split) -> np.ndarray:
  parts = _chunks(np.arange(len(split)))
  return np.concatenate(
    [references.sound_features(split.read(part)["audio"]) for part in parts]
  )


def _chunks(rows: np.ndarray, size: int = 64) -> list[np.ndarray]:
  """The rows in parts: a clip's sound takes four times the memory of its poses."""
  return [rows[i : i + size] for i in range(0, len(rows), size)]


def _renderings(scorer: scoring.Scorer, poses_px: list[np.ndarray]) -> dict[str, Any]:
  """Of several renderings: each metric's worst, mean and best, mean over clips."""
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


def _save(
  stem: pathlib.Path,
  options: Options,
  poses_px: list[np.ndarray],
  clips: scoring.Clips,
  write_sample: SampleWriter | None,
) -> None:
  """The predicted poses and the videos that were asked for, in the folder `stem`."""
  if options.save_npz:
    with files.replacing(stem / "poses.npz") as temporary:
      np.savez_compressed(
        temporary,
        allow_pickle=False,
        poses_pred_batch=np.concatenate(poses_px),
        poses_gt_batch=clips.truth_px,
      )
  for i in range(min(options.save_videos, len(clips.truth_px))):
    assert write_sample is not None
    for s, poses in enumerate(poses_px):
      name = f"clip{i:04d}_{s}"
      write_sample(stem, Sample(name, poses[i], clips.truth_px[i], clips.audio[i]))


def _to_json(scores: scoring.Scores) -> dict[str, Any]:
  return {
    name: {
      # JSON has no NaN.
      key: value if math.isfinite(value) else None
      for key, value in (("value", s.value), ("low", s.low), ("high", s.high))
    }
    for name, s in scores.items()
  }


def table(rows: dict[str, scoring.Scores]) -> str:
  """Metrics down, rows across; the first row with its 95 % interval over clips."""
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
