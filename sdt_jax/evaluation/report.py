"""Trains and scores the ladder of experiments, and writes one report.

    python -m sdt_jax.evaluation.report --config=configs/quick.py \
      [--output_dir=output/report] [--seeds=N]

The config sets the data set, the sizes and the budget; each row of the ladder applies
the changes of its own experiment file. Rows that are already trained and scored in the
folder are not repeated.
"""

import contextlib
import copy
import json
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import config_flags

from sdt_jax import audio, audio_file, cli, files, methods, workdir
from sdt_jax import config as config_lib
from sdt_jax.config import Config
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation import long, plots, probe
from sdt_jax.evaluation import run as evaluation
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.evaluation.registry import METRICS
from sdt_jax.synthesis import generate, render, samples
from sdt_jax.training import loop, parallel, runs, setup

_CONFIG = config_flags.DEFINE_config_file("config", None, "Data set, sizes, budget.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "output/report", "Folder to write to.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs per row.", lower_bound=1)


_LENGTHS = (1, 2, 4, 8, 14)  # of long sounds, in clips


class Row(NamedTuple):
  """A row of the ladder.

  Attributes:
    name: in the report.
    experiment: its file in `configs`.
    changes: additional fields to set.
    needs_pose_vae: whether its templates come from the pose VAE of the same seed.
  """

  name: str
  experiment: str
  changes: dict[str, Any]
  needs_pose_vae: bool = False


POSE_VAE = Row("pose vae", "pose2pose", {})
LADDER = (
  Row("s2g", "s2g", {}),
  Row("no template", "sdt_bp", {"template.kind": "none"}),
  Row("sdt_bp", "sdt_bp", {}),
  Row("sdt_vae", "sdt_vae", {}, needs_pose_vae=True),
)

_COLORS = dict(zip((row.name for row in LADDER), ("C3", "C7", "C0", "C2"), strict=True))


def row_config(base: Config, row: Row, seed: int) -> Config:
  """`base` with what the row's experiment file changes in the default config."""
  config = copy.deepcopy(base)  # ConfigDict(base) would share the inner dicts
  default = config_lib.flatten(config_lib.default())
  own = config_lib.flatten(config_lib.experiment(row.experiment))
  changed = {name: value for name, value in own.items() if value != default[name]}
  config.update_from_flattened_dict(changed | row.changes | {"seed": seed})
  return config


class Result(NamedTuple):
  """A trained and scored run: row, seed, workdir, eval JSON, seconds of training."""

  row: Row
  seed: int
  path: pathlib.Path
  scores: dict[str, Any]
  seconds: float


def train_ladder(base: Config, folder: pathlib.Path, seeds: int) -> Iterator[Result]:
  """Trains and scores every row for every seed, the pose VAE first."""
  for seed in range(seeds):
    for row in (POSE_VAE, *LADDER):
      config = row_config(base, row, seed)
      if row.needs_pose_vae:
        config.template.pose_vae = str(_path(folder, POSE_VAE, seed))
      # All rows are scored by one VAE.
      options = evaluation.Options(pose_vae=str(_path(folder, POSE_VAE, 0)))
      scores, seconds = _train_and_score(config, _path(folder, row, seed), options)
      yield Result(row, seed, _path(folder, row, seed), scores, seconds)


def _path(folder: pathlib.Path, row: Row, seed: int) -> pathlib.Path:
  return folder / f"{row.name.replace(' ', '_')}_{seed}"


def _train_and_score(
  config: Config, path: pathlib.Path, options: evaluation.Options
) -> tuple[dict[str, Any], float]:
  """Eval JSON and seconds of training; a completed row is read from its file."""
  done = path / "report_row.json"
  # If a run was resumed for more epochs, its scores are not those of the row.
  if done.exists() and workdir.read_config(path).num_epochs == config.num_epochs:
    workdir.check_same(path, config)
    return read_row(done)
  print(f"\n== {path.name}", flush=True)
  start = time.perf_counter()
  if not loop.train(config, path, Evaluator, samples.Gallery):
    raise UserError("stopped; the same command resumes from there")
  seconds = time.perf_counter() - start
  scores = json.loads(evaluation.evaluate_run(path, options).read_text())
  workdir.write_text(done, json.dumps({"scores": scores, "seconds": seconds}))
  return scores, seconds


def read_row(done: pathlib.Path) -> tuple[dict[str, Any], float]:
  try:
    stored = json.loads(done.read_text())
    return dict(stored["scores"]), float(stored["seconds"])
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    raise UserError(f"{done}: not a result of this report ({e}); remove it") from e


def write_report(base: Config, folder: pathlib.Path, results: list[Result]) -> None:
  """Writes report.md and its figures."""
  ladder = [r for r in results if r.row in LADDER]
  _plot_curves(ladder, folder / "curves.png")
  maps = _plot_template_maps(ladder, folder)
  _draw_strips(ladder, folder / "strips.png")
  parts = [
    "# The ladder of experiments",
    f"Data set `{base.dataset.name}`, speaker `{base.dataset.speaker}`, "
    f"{ladder[0].scores['num_clips']} dev clips. {base.num_epochs} epochs, batches of "
    f"{base.batch_size}, {1 + max(r.seed for r in results)} seed(s).",
    "```\npython -m sdt_jax.evaluation.report " + _command_line() + "\n```",
    "## Scores on dev\n\nMean over seeds; in brackets the 95 % interval over clips of "
    "seed 0. Templates are drawn at random from the bank. FTD uses the pose VAE of "
    "seed 0. `truth` and the rows below it are not models.",
    _score_table(ladder),
    _length_text(ladder, folder),
    "## Training\n\n![L1 on training clips by epoch](curves.png)",
    "## Templates\n\n" + maps + _probe_text(base, ladder),
    "## One sound, rendered by each row\n\n![film strips](strips.png)",
    "## Settings and timings",
    _timing_table(results),
    f"Python {platform.python_version()}, {parallel.describe()}.",
    "```json\n" + base.to_json_best_effort(indent=1) + "\n```",
  ]
  workdir.write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def _command_line() -> str:
  return " ".join(sys.argv[1:])


def _score_table(ladder: list[Result]) -> str:
  references = ladder[0].scores["references"]
  lines = [
    "| row | " + " | ".join(metric.title() for metric in METRICS) + " |",
    "|---" * (1 + len(METRICS)) + "|",
  ]
  for row in LADDER:
    runs_of_row = [r.scores["metrics"] for r in ladder if r.row == row]
    cells = [_cell([scores.get(m.name) for scores in runs_of_row]) for m in METRICS]
    lines.append(f"| **{row.name}** | " + " | ".join(cells) + " |")
  for name, scores in references.items():
    cells = [_number((scores.get(m.name) or {}).get("value")) for m in METRICS]
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _cell(seeds: list[dict[str, float] | None]) -> str:
  found = [s for s in seeds if s and s["value"] is not None]
  if not found:
    return "-"
  mean = float(np.mean([s["value"] for s in found]))
  return f"{_number(mean)} ({_number(found[0]['low'])}-{_number(found[0]['high'])})"


def _number(value: float | None) -> str:
  if value is None:
    return "-"
  return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _timing_table(results: list[Result]) -> str:
  lines = ["| run | training, s |", "|---|---|"]
  return "\n".join(lines + [f"| {r.path.name} | {r.seconds:.0f} |" for r in results])


def _plot_curves(ladder: list[Result], path: pathlib.Path) -> None:
  """L1 on training clips by epoch (the paper's Fig. 2b)."""
  curves = {}
  for result in ladder:
    label = result.row.name if result.seed == 0 else f"_{result.path.name}"
    curves[label] = plots.Curve(*_training_l1(result.path), _COLORS[result.row.name])
  panel = plots.Panel("epoch", "L1 on training clips (normalised)", curves)
  plots.write_panels(path, [panel])


def _training_l1(path: pathlib.Path) -> tuple[list[int], list[float]]:
  """Mean training L1 of each epoch."""
  by_epoch: dict[int, list[float]] = {}
  for entry in workdir.read_metrics(path):
    if entry.get("split") == "train":
      by_epoch.setdefault(entry["epoch"], []).append(entry["l1"])
  return list(by_epoch), [float(np.mean(v)) for v in by_epoch.values()]


def _length_text(ladder: list[Result], folder: pathlib.Path) -> str:
  """Lip-sync error by length of the sound; draws it, too. Empty for short videos."""
  by_length = {
    name: _lip_errors_by_length(result.path)
    for name, result in _first_runs(ladder).items()
  }
  lengths = list(next(iter(by_length.values())))
  if len(lengths) < 2:
    return ""
  curves, lines = {}, []
  for name, errors in by_length.items():
    for generation, style in (("windowed", "-"), ("whole", "--")):
      values = [errors[length][generation] for length in lengths]
      label = f"{name}, {generation}"
      curves[label] = plots.Curve(lengths, values, _COLORS[name] + style)
      lines.append(f"| {label} | " + " | ".join(map(_number, values)) + " |")
  panel = plots.Panel("length of the sound (s)", "lip-sync error", curves, lengths)
  plots.write_panels(folder / "lengths.png", [panel])
  head = "| | " + " | ".join(f"{length:.1f} s" for length in lengths) + " |"
  return "\n".join(
    [
      "## Long sounds",
      "",
      "Lip-sync error by length of the sound, generated in windows or in one pass; "
      "neighbouring dev clips are joined, see docs/generation.md.",
      "",
      *(head, "|---" * (1 + len(lengths)) + "|", *lines, ""),
      "![lip-sync error by length](lengths.png)",
    ]
  )


def _lip_errors_by_length(path: pathlib.Path) -> dict[float, dict[str, float]]:
  """Length in seconds -> generation -> lip-sync error, for lengths that dev has."""
  run = runs.load(path)
  split = pipeline.Split(setup.build_data(run.config).sources["dev"], run.table)
  model = generate.GestureModel(run, run.speaker)
  errors = {}
  with contextlib.suppress(UserError):  # raised for the first length that dev lacks
    for num_clips in _LENGTHS:
      seconds = num_clips * audio.CLIP_FRAMES / audio.FPS
      stretches = long.join_clips(split, seconds, "dev")
      sounds = list(stretches.sounds)
      codes = [model.choose_template("random", seed) for seed in range(len(sounds))]
      errors[seconds] = {
        generation: statistics.mean(
          map(
            long.lip_error,
            model.generate_many(sounds, codes, generation=generation),
            stretches.truth_px,
          )
        )
        for generation in long.GENERATIONS
      }
  return errors


def _first_runs(ladder: list[Result]) -> dict[str, Result]:
  """Seed 0 of each row."""
  return {r.row.name: r for r in reversed(ladder)}


def _banks(ladder: list[Result]) -> dict[str, np.ndarray]:
  """Row -> template bank of its first run, for rows that have one."""
  opened = {name: runs.load(r.path) for name, r in _first_runs(ladder).items()}
  banks = {name: run.method.bank(run.state) for name, run in opened.items()}
  return {name: bank for name, bank in banks.items() if bank is not None}


def _plot_template_maps(ladder: list[Result], folder: pathlib.Path) -> str:
  """Draws a map of each bank; returns the links to them."""
  links = []
  for name, bank in _banks(ladder).items():
    file, title = f"templates_{name}.png", f"templates of {name}"
    samples.write_template_map(folder / file, bank, title)
    links.append(f"![{title}]({file})")
  return " ".join(links)


def _probe_text(base: Config, ladder: list[Result]) -> str:
  """How well templates predict the hidden ones; for the synthetic speaker only."""
  if base.dataset.name != "synthetic":
    return ""
  from sdt_jax.data.synthetic_speaker import TEMPLATE_NAMES

  source = setup.build_data(base).sources["train"]
  examples = [source[i] for i in range(len(source))]
  hidden = np.stack([e["template"].mean(0) for e in examples])
  videos = np.array([e["video"].decode() for e in examples])
  lines = [
    "",
    "R² of a linear probe (ridge regression, held-out performances) that predicts the "
    "hidden template of a clip from its learnt one; `chance` is the same with the "
    "templates shuffled among the clips.",
    "",
    "| row | mean | chance | " + " | ".join(TEMPLATE_NAMES) + " |",
    "|---" * (3 + len(TEMPLATE_NAMES)) + "|",
  ]
  for name, bank in _banks(ladder).items():
    found = probe.linear_probe(bank, hidden, videos)
    values = [found.r2.mean(), found.chance, *found.r2]
    lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
  return "\n" + "\n".join(lines)


def _draw_strips(ladder: list[Result], path: pathlib.Path) -> None:
  """The bundled speech sample, rendered by each row, with two templates if it can."""
  sound, rate = audio_file.read_audio(audio_file.SAMPLE_SPEECH)
  poses, labels = [], []
  for row in LADDER:
    model = generate.load(_first_runs(ladder)[row.name].path)
    for seed in range(1 if model.bank is None else 2):
      poses.append(model.generate(sound, rate, seed=seed))
      labels.append(row.name if model.bank is None else f"{row.name}, template {seed}")
  render.write_png(path, render.motion_overview(poses, labels))


def main() -> None:
  cli.config_file()
  folder = pathlib.Path(_OUTPUT_DIR.value)
  _CONFIG.value.dataset.update(pipeline.resolve(_CONFIG.value.dataset))
  for row in (POSE_VAE, *LADDER):
    methods.check(row_config(_CONFIG.value, row, seed=0))
  setup.build_data(_CONFIG.value)  # fails early if the data is unusable
  files.check_writable(folder, "--output_dir")
  results = list(train_ladder(_CONFIG.value, folder, _SEEDS.value))
  write_report(_CONFIG.value, folder, results)
  print(f"written: {folder / 'report.md'}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  cli.run(main)
