"""Trains and scores the ladder of experiments, and writes one report of it.

    python -m sdt_jax.evaluation.report --config=configs/quick.py \
      [--output_dir=output/report] [--seeds=N]

The config gives the data set, the sizes and the budget; each row of the ladder changes
in it what its own experiment file changes. What is already trained and scored in the
folder is not done again.
"""

import copy
import importlib
import json
import pathlib
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from absl import flags
from ml_collections import config_flags

import sdt_jax
from configs import common
from sdt_jax import audio_file, cli, files, workdir
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.evaluation import probe
from sdt_jax.evaluation import run as evaluation
from sdt_jax.synthesis import render, samples
from sdt_jax.training import experiments, loop, parallel, runs

matplotlib.use("agg")

from matplotlib import pyplot as plt

_CONFIG = config_flags.DEFINE_config_file("config", None, "Data set, sizes, budget.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "output/report", "Of the report.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each row.", lower_bound=1)

_SPEECH = pathlib.Path(sdt_jax.__file__).parent / "assets" / "sample_speech.flac"

# Lower is better, but for those marked; what describes motion alone is not judged.
_METRICS = {
  "l2": "L2 (px)",
  "l1_regression": "L1 (norm.)",
  "lip_sync": "lip-sync error",
  "ftd": "FTD",
  "ftd_mu_logvar": "FTD (mean, log var)",
  "pck@0.2": "PCK@0.2, higher is better",
  "lvd": "LVD (px/s)",
  "bc_ha2g": "beat consistency, higher is better",
  "hellinger_speed": "Hellinger (hand speed)",
  "diversity_l1": "diversity (px)",
  "acceleration": "acceleration (px/s²)",
  "jerk": "jerk (px/s³)",
  "bone_length_cv": "bone length variation",
}


class Row(NamedTuple):
  """A row of the ladder.

  Attributes:
    name: in the report.
    experiment: its file in `configs`.
    changes: fields that it sets besides.
  """

  name: str
  experiment: str
  changes: dict[str, Any]


POSE_VAE = Row("pose vae", "pose2pose", {})
LADDER = (
  Row("s2g", "s2g", {}),
  Row("no template", "sdt_bp", {"template.kind": "none"}),
  Row("sdt_bp", "sdt_bp", {}),
  Row("sdt_vae", "sdt_vae", {}),
)


def row_config(base: Config, row: Row, seed: int) -> Config:
  """`base` with what the row's experiment file changes in the common config."""
  config = copy.deepcopy(base)  # ConfigDict(base) would share the inner dicts
  default = workdir.flatten(common.get_config())
  own = workdir.flatten(
    importlib.import_module(f"configs.{row.experiment}").get_config()
  )
  changed = {name: value for name, value in own.items() if value != default[name]}
  config.update_from_flattened_dict(changed | row.changes | {"seed": seed})
  return config


class Result(NamedTuple):
  """A trained and scored run: row and seed, workdir, eval JSON, training seconds."""

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
      if row.experiment == "sdt_vae":
        config.template.pose_vae = str(_path(folder, POSE_VAE, seed))
      # One VAE judges all rows.
      options = evaluation.Options(pose_vae=str(_path(folder, POSE_VAE, 0)))
      scores, seconds = _train_and_score(config, _path(folder, row, seed), options)
      yield Result(row, seed, _path(folder, row, seed), scores, seconds)


def _path(folder: pathlib.Path, row: Row, seed: int) -> pathlib.Path:
  return folder / f"{row.name.replace(' ', '_')}_{seed}"


def _train_and_score(
  config: Config, path: pathlib.Path, options: evaluation.Options
) -> tuple[dict[str, Any], float]:
  """Eval JSON and training seconds, from last time if that was complete."""
  done = path / "report_row.json"
  # A run may be resumed for more epochs; then its scores are not those of the row.
  if done.exists() and workdir.read_config(path).num_epochs == config.num_epochs:
    workdir.check_same(path, config)
    return read_row(done)
  print(f"\n== {path.name}", flush=True)
  start = time.perf_counter()
  if not loop.train(config, path, samples.Gallery):
    raise UserError("stopped; the same command goes on from there")
  seconds = time.perf_counter() - start
  scores = json.loads(evaluation.evaluate_run(path, options).read_text())
  workdir.write_text(done, json.dumps({"scores": scores, "seconds": seconds}))
  return scores, seconds


def read_row(done: pathlib.Path) -> tuple[dict[str, Any], float]:
  try:
    stored = json.loads(done.read_text())
    return dict(stored["scores"]), float(stored["seconds"])
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
    raise UserError(f"{done}: not what a report wrote ({e}); remove it") from e


def write_report(base: Config, folder: pathlib.Path, results: list[Result]) -> None:
  """Writes report.md and its pictures."""
  ladder = [r for r in results if r.row in LADDER]
  _plot_curves(ladder, folder / "curves.png")
  _plot_template_maps(ladder, folder)
  _draw_strips(ladder, folder / "strips.png")
  parts = [
    "# The ladder of experiments",
    f"Data set `{base.dataset.name}`, speaker `{base.dataset.speaker}`, "
    f"{ladder[0].scores['num_clips']} dev clips. {base.num_epochs} epochs, batches of "
    f"{base.batch_size}, {1 + max(r.seed for r in results)} seed(s).",
    "```\npython -m sdt_jax.evaluation.report " + _command_line() + "\n```",
    "## Scores on dev\n\nMean over seeds; in brackets the 95 % interval over clips of "
    "seed 0. Templates are drawn at random from the bank. FTD by the pose VAE of seed "
    "0. `truth` and the rows below it are no models.",
    _score_table(ladder),
    "## Training\n\n![L1 on training clips by epoch](curves.png)",
    "## Templates\n\n" + _map_links(ladder) + _probe_text(base, ladder),
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
    "| row | " + " | ".join(_METRICS.values()) + " |",
    "|---" * (1 + len(_METRICS)) + "|",
  ]
  for row in LADDER:
    runs_of_row = [r.scores["metrics"] for r in ladder if r.row == row]
    cells = [_cell([scores.get(m) for scores in runs_of_row]) for m in _METRICS]
    lines.append(f"| **{row.name}** | " + " | ".join(cells) + " |")
  for name, scores in references.items():
    cells = [_number((scores.get(m) or {}).get("value")) for m in _METRICS]
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _cell(seeds: list[dict[str, float] | None]) -> str:
  found = [s for s in seeds if s and s["value"] is not None]
  if not found:
    return "-"
  mean = float(np.mean([s["value"] for s in found]))
  return f"{_number(mean)} ({_number(found[0]['low'])}-{_number(found[0]['high'])})"


def _number(value: float | None) -> str:
  return (
    "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
  )


def _timing_table(results: list[Result]) -> str:
  lines = ["| run | training, s |", "|---|---|"]
  return "\n".join(lines + [f"| {r.path.name} | {r.seconds:.0f} |" for r in results])


def _plot_curves(ladder: list[Result], path: pathlib.Path) -> None:
  """L1 on training clips by epoch (the paper's Fig. 2b)."""
  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  for row, color in zip(LADDER, ("C3", "C7", "C0", "C2"), strict=True):
    for i, result in enumerate(r for r in ladder if r.row == row):
      epochs, values = _training_l1(result.path)
      label = row.name if i == 0 else None
      axes.plot(epochs, values, color=color, label=label, linewidth=1.5)
  axes.set_xlabel("epoch")
  axes.set_ylabel("L1 on training clips (normalised)")
  axes.legend()
  axes.grid(alpha=0.3)
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=110)
  plt.close(figure)


def _training_l1(path: pathlib.Path) -> tuple[list[int], list[float]]:
  """Mean training L1 of each epoch."""
  by_epoch: dict[int, list[float]] = {}
  for entry in workdir.read_metrics(path):
    if entry.get("split") == "train":
      by_epoch.setdefault(entry["epoch"], []).append(entry["l1"])
  return list(by_epoch), [float(np.mean(v)) for v in by_epoch.values()]


def _first_runs(ladder: list[Result]) -> dict[str, Result]:
  """Seed 0 of each row."""
  return {r.row.name: r for r in reversed(ladder)}


def _plot_template_maps(ladder: list[Result], folder: pathlib.Path) -> None:
  for name, result in _first_runs(ladder).items():
    bank = runs.load(result.path).state.templates()
    if bank is not None:
      path = folder / f"templates_{name}.png"
      samples.write_template_map(path, np.asarray(bank), f"templates of {name}")


def _map_links(ladder: list[Result]) -> str:
  names = [r.row.name for r in ladder if r.row.name in ("sdt_bp", "sdt_vae")]
  return " ".join(
    f"![templates of {name}](templates_{name}.png)" for name in dict.fromkeys(names)
  )


def _probe_text(base: Config, ladder: list[Result]) -> str:
  """On the synthetic speaker: how well templates predict the hidden true ones."""
  if base.dataset.name != "synthetic":
    return ""
  from sdt_jax.data.synthetic_speaker import TEMPLATE_NAMES

  source = experiments.build_data(base).sources["train"]
  examples = [source[i] for i in range(len(source))]
  hidden = np.stack([e["template"].mean(0) for e in examples])
  videos = np.array([e["video"].decode() for e in examples])
  lines = [
    "",
    "How well a linear probe (ridge regression, held-out performances) predicts the "
    "hidden true template of a clip from its learnt one, R²; `chance` is the same with "
    "the templates shuffled among the clips.",
    "",
    "| row | mean | chance | " + " | ".join(TEMPLATE_NAMES) + " |",
    "|---" * (3 + len(TEMPLATE_NAMES)) + "|",
  ]
  for name, result in _first_runs(ladder).items():
    bank = runs.load(result.path).state.templates()
    if bank is not None:
      found = probe.linear_probe(np.asarray(bank), hidden, videos)
      values = [found.r2.mean(), found.chance, *found.r2]
      lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
  return "\n" + "\n".join(lines)


def _draw_strips(ladder: list[Result], path: pathlib.Path) -> None:
  """The bundled speech sample, by each row; two templates where there are some."""
  sound, rate = audio_file.read_audio(_SPEECH)
  poses, labels = [], []
  for row in LADDER:
    model = sdt_jax.load(_first_runs(ladder)[row.name].path)
    for seed in range(1 if model.bank is None else 2):
      poses.append(model.generate(sound, rate, seed=seed))
      labels.append(row.name if model.bank is None else f"{row.name}, template {seed}")
  render.write_png(path, render.motion_overview(poses, labels))


def main() -> None:
  cli.config_file()
  folder = pathlib.Path(_OUTPUT_DIR.value)
  for row in (POSE_VAE, *LADDER):
    experiments.check(row_config(_CONFIG.value, row, seed=0))
  experiments.build_data(_CONFIG.value)  # what is wrong there is told before all else
  files.check_writable(folder, "--output_dir")
  results = list(train_ladder(_CONFIG.value, folder, _SEEDS.value))
  write_report(_CONFIG.value, folder, results)
  print(f"written: {folder / 'report.md'}")


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  cli.run(main)
