"""Scores a trained run: what eval.py does."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm

from sdt_jax import audio, files, workdir
from sdt_jax.data import pipeline
from sdt_jax.data.pipeline import Split
from sdt_jax.errors import UserError
from sdt_jax.evaluation import long, metrics, references, registry, scoring
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.evaluation.registry import Motion, Sounds
from sdt_jax.synthesis import generate, overview, render, video
from sdt_jax.templates import abilities, sources
from sdt_jax.training import runs, setup
from sdt_jax.training.runs import Run

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
    split: "train", "dev", or another split of the data.
    template: see `templates.sources`.
    num_samples: renderings of each clip; all of them are scored.
    seed: for what is drawn at random.
    pose_vae: workdir of the pose VAE for FTD and the "encoder" templates; default: the
      one of the run's validations, see `workdir.pose_vae`.
    save_videos: number of clips to show beside their truth, spread over the split.
    save_npz: whether to save the arrays of all clips; otherwise those of the videos.
    long: length in seconds of the stretches of neighbouring clips that are scored in
      addition (see `long`); 0 for none.
  """

  step: str = "latest"
  split: str = "dev"
  template: str = "random"
  num_samples: int = 1
  seed: int = 0
  pose_vae: str | None = None
  save_videos: int = 0
  save_npz: bool = False
  long: float = 0


def evaluate_run(path: pathlib.Path, options: Options) -> pathlib.Path:
  """Scores a checkpoint, prints a table and writes `eval_<split>_<step>.json`.

  The folder `eval_<split>_<step>` gets the videos and `poses.npz` (see `_save_arrays`).

  Args:
    path: the workdir.
    options: what to score.

  Returns:
    The JSON file.

  Raises:
    UserError: the workdir, the checkpoint, an option or the data is unusable.
  """
  run = runs.load(path, options.step)
  if run.method.models_templates:
    raise UserError(
      f"{path}: is a {run.method.title}, which generates no poses; use python -m "
      "sdt_jax.evaluation.sequences"
    )
  pose_vae = _pose_vae(run, options)
  built = setup.build_data(run.config)
  _check_split(options.split, built.sources)
  train, split = (
    Split(built.sources[name], run.table) for name in ("train", options.split)
  )
  stretches = _stretches(run, split, options)
  truth_px = split.poses_px(np.arange(len(split)))
  chosen = _templates(
    run,
    options,
    len(split),
    lambda: _encoded(run, pose_vae, truth_px),
    lambda: (sound for sounds in _sounds(split) for sound in sounds),
  )
  clips = scoring.Clips(truth_px, _beat_data(train, split), run.table)
  scorer = scoring.Scorer(clips, pose_vae)
  model = scorer.score(_generate(run, split, chosen))
  others = {
    name: scorer.score([poses]).scores
    for name, poses in _references(run, options.seed, train, split, truth_px).items()
  }

  name = f"eval_{options.split}_{run.step}"
  result = {
    "step": run.step,
    "epoch": run.epoch,
    "num_clips": len(split),
    **dataclasses.asdict(options),
    "scored": _scored(len(split), options.num_samples),
    "metrics": _to_json(model.scores),
    "references": {row: _to_json(row_scores) for row, row_scores in others.items()},
  }
  if options.num_samples > 1:
    result["renderings"] = _renderings(model)
  print(f"{options.split} at step {run.step}: {result['scored']}")
  print(table({"model": model.scores, **others}))
  _write_json(path / f"{name}.json", result)
  if stretches:
    mean_change = clips.sounds.mean_change
    result["long_sounds"] = _score_long(run, options, pose_vae, stretches, mean_change)
    _write_json(path / f"{name}.json", result)
  if pose_vae is None:
    print(_WITHOUT_FTD)
  shown = pipeline.spread_rows(len(split), options.save_videos)
  saved = np.arange(len(split)) if options.save_npz else shown
  if saved.size:
    _save_arrays(path / name, split, saved, chosen, model.motion, scorer.truth)
  _save_videos(path / name, split, shown, chosen, model.motion.poses_px, truth_px)
  return path / f"{name}.json"


def _write_json(path: pathlib.Path, result: dict[str, Any]) -> None:
  workdir.write_text(path, json.dumps(result, indent=2) + "\n")


def _check_split(name: str, splits: Mapping[str, Sized]) -> None:
  known = [split for split, clips in splits.items() if len(clips)]
  if name not in known:
    raise UserError(
      f"--split={name}: the data has no clips of that split; it has {', '.join(known)}"
    )


def _scored(num_clips: int, num_samples: int) -> str:
  """What the metrics are over."""
  if num_samples == 1:
    return f"every metric is over {num_clips} clips, one rendering each"
  return (
    f"every metric is over {num_clips} clips x {num_samples} renderings = "
    f"{num_clips * num_samples}; the intervals resample clips, each with all its "
    "renderings"
  )


def _pose_vae(run: Run, options: Options) -> Run | None:
  if run.method.has_encoder and options.pose_vae is None:
    return run
  path = options.pose_vae or workdir.pose_vae_for_ftd(run.path, run.config)
  if not path:
    return None
  flag = "--pose_vae" if options.pose_vae else "pose VAE of the run"
  if options.pose_vae is None and not pathlib.Path(path).is_dir():
    print(f"the pose VAE of this run is no longer in {path}")
    return None
  pose_vae = runs.load_encoder(path, flag)
  if pose_vae.speaker.name != run.speaker.name:
    raise UserError(
      f"{flag}={path}: is of speaker {pose_vae.speaker.name}, but the run of "
      f"{run.speaker.name}; give one of the same speaker"
    )
  return pose_vae


def _templates(
  run: Run,
  options: Options,
  num_clips: int,
  encode: Callable[[], np.ndarray],
  sounds: Callable[[], Iterable[np.ndarray]],
) -> list[sources.Chosen | None]:
  """The templates of each rendering, with `codes`."""
  chosen = sources.choose(
    options.template,
    run.method.bank(run.state),
    num_samples=options.num_samples,
    num_clips=num_clips,
    seed=options.seed,
    abilities=abilities.of(run, encode),
  )
  return [templates and templates.heard(sounds()) for templates in chosen]


def _stretches(run: Run, split: Split, options: Options) -> long.Stretches | None:
  if not options.long:
    return None
  if "mel" not in run.method.inputs:
    raise UserError(
      f"--long={options.long:g}: {run.path} is a {run.method.title}, which takes no "
      "audio; leave out --long"
    )
  return long.join_clips(split, options.long, options.split)


def _score_long(
  run: Run,
  options: Options,
  pose_vae: Run | None,
  stretches: long.Stretches,
  mean_change: np.ndarray,
) -> dict[str, Any]:
  """Scores generation for stretches, prints tables and returns the JSON entry."""
  count, num_frames = stretches.truth_px.shape[:2]

  def encode() -> np.ndarray:
    codes = _encoded(run, pose_vae, stretches.windows_px)
    return codes.reshape(count, -1, codes.shape[-1]).mean(1)

  chosen = _templates(run, options, count, encode, lambda: stretches.sounds)
  scored = long.score(
    generate.GestureModel(run, run.speaker),
    stretches,
    [[t and t.code(s, i) for i, s in enumerate(stretches.sounds)] for t in chosen],
    run.table,
    mean_change,
    pose_vae,
    options.seed,
  )
  seconds, dropped = num_frames / audio.FPS, stretches.dropped / audio.FPS
  print(
    f"\nlong sounds: {count} x {seconds:.1f} s of neighbouring clips ({dropped:.1f} s "
    f"left out), each with its own template, scored by windows of {audio.CLIP_FRAMES} "
    "frames; clips: these windows generated one by one"
  )
  print(table(scored.scores))
  print(long.tables(scored))
  return {
    "num_stretches": count,
    "seconds": seconds,
    "dropped_seconds": dropped,
    "metrics": {name: _to_json(scores) for name, scores in scored.scores.items()},
    "seams": {
      name: {metric: _finite(ratio) for metric, ratio in ratios.items()}
      for name, ratios in scored.seams.items()
    },
    "minutes": scored.drift,
  }


def _generate(
  run: Run, split: Split, chosen: Sequence[sources.Chosen | None]
) -> list[np.ndarray]:
  """Final poses (N, T, dims, joints) of each rendering."""
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
  if run.method.needs_bank and not _is_bank_of(pose_vae, run):
    raise UserError(
      f"--template=encoder: {pose_vae.path} is not the pose VAE that the templates of "
      "this run come from; give that as --pose_vae"
    )
  mean, _ = scoring.encoder(pose_vae, run.table.scale_factor)(truth_px)
  return mean


def _is_bank_of(pose_vae: Run, run: Run) -> bool:
  """Whether the templates of the run are those that the pose VAE recorded."""
  recorded, used = (np.asarray(r.state.bank["mean"]) for r in (pose_vae, run))
  return np.array_equal(recorded, used)


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


def _renderings(model: scoring.Scored) -> dict[str, Any]:
  """Minimum, mean and maximum of each metric over renderings, mean over clips."""
  spread = {}
  for name, values in model.values.items():
    spread[name] = {
      "min": float(values.min(0).mean()),
      "mean": float(values.mean()),
      "max": float(values.max(0).mean()),
    }
  diversity = metrics.diversity_samples(jnp.stack(model.motion.poses_px))
  return spread | {"diversity_samples": {"mean": float(np.mean(diversity))}}


def _save_arrays(
  folder: pathlib.Path,
  split: Split,
  rows: np.ndarray,
  chosen: Sequence[sources.Chosen | None],
  motion: Motion,
  truth: Motion,
) -> None:
  """Writes `poses.npz`: arrays with the names of the authors' code, and `clip_ids`.

  All have one row per rendering: first the first rendering of every clip in `rows`,
  then the second. `condition_code` is left out for models without templates; `mu_` and
  `logvar_` (the pose VAE's mean and log variance), without a pose VAE.
  """
  copies = len(chosen)

  def repeated(per_clip: np.ndarray) -> np.ndarray:
    return np.concatenate([per_clip[rows]] * copies)

  arrays = {
    "poses_pred_batch": np.concatenate(
      [poses_px[rows] for poses_px in motion.poses_px]
    ),
    "poses_gt_batch": repeated(truth.poses_px[0]),
    "clip_ids": np.array([split.clip_id(row) for row in rows] * copies),
  }
  if templates := [t.codes[rows] for t in chosen if t and t.codes is not None]:
    arrays["condition_code"] = np.concatenate(templates)
  if motion.codes and truth.codes:
    for name, pred, true in zip(
      ("mu", "logvar"), motion.codes, truth.codes, strict=True
    ):
      arrays[f"{name}_pred"] = np.concatenate(pred[:, rows])
      arrays[f"{name}_gt"] = repeated(true[0])
  with files.replacing(folder / "poses.npz") as temporary:
    np.savez_compressed(temporary, allow_pickle=False, **arrays)


def _save_videos(
  folder: pathlib.Path,
  split: Split,
  rows: np.ndarray,
  chosen: Sequence[sources.Chosen | None],
  renderings: Sequence[np.ndarray],
  truth_px: np.ndarray,
) -> None:
  """Writes `clip<row>.mp4`: all renderings of a clip beside the truth, with sound."""
  titles = [f"{i}: {t.name if t else 'prediction'}" for i, t in enumerate(chosen)]
  for row in tqdm.tqdm(rows, desc="rendering", unit="video", disable=not rows.size):
    motions = [poses_px[row] for poses_px in (*renderings, truth_px)]
    if len(renderings) == 1:
      frames = render.side_by_side_frames(motions[0], motions[1])
    else:
      frames = overview.grid_frames(motions, [*titles, "truth"])
    [sound] = split.read(np.array([row]))["audio"]
    video.write_video(folder / f"clip{row:04d}.mp4", frames, audio=sound)


def _to_json(scores: scoring.Scores) -> dict[str, Any]:
  entries = {}
  for name, score in scores.items():
    entries[name] = {k: _finite(getattr(score, k)) for k in ("value", "low", "high")}
    if name in registry.ORIGINAL_NAMES:
      entries[name]["original"] = registry.ORIGINAL_NAMES[name]
  return entries


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None  # JSON has no NaN


def table(rows: dict[str, scoring.Scores]) -> str:
  """One line per metric, one column per entry of `rows`, the first with interval.

  The last column is the metric's name in the logs of the authors' code.
  """
  first, *others = rows
  widths = [max(len(name), 9) for name in others]
  head = "  ".join(f"{n:>{w}}" for n, w in zip(others, widths, strict=True))
  lines = [
    f"{'metric':<20}  {first:>9}  {'95 % over clips':>20}  {head}  original's name"
  ]
  for metric, score in rows[first].items():
    interval = f"{_short(score.low)} to {_short(score.high)}"
    cells = "  ".join(
      f"{_short(rows[n][metric].value):>{w}}"
      for n, w in zip(others, widths, strict=True)
    )
    original = registry.ORIGINAL_NAMES.get(metric, "")
    line = (
      f"{metric:<20}  {_short(score.value):>9}  {interval:>20}  {cells}  {original}"
    )
    lines.append(line.rstrip())
  return "\n".join(lines)


def _short(value: float) -> str:
  return f"{value:.4g}" if math.isfinite(value) else "-"
