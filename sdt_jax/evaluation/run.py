"""Scores a trained run: what eval.py does."""

import json
import math
import pathlib
from typing import Any

from sdt_jax import workdir
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics
from sdt_jax.evaluation.loop import Evaluator, draw_templates
from sdt_jax.training import experiments, runs


def evaluate_run(
  path: pathlib.Path, step: str, split_name: str, seed: int
) -> pathlib.Path:
  """Scores a checkpoint and prints a table.

  Args:
    path: the workdir.
    step: "latest", "best" or the number of a step.
    split_name: "train" or "dev".
    seed: of the templates that are drawn from the bank.

  Returns:
    The JSON file `eval_<split>_<step>.json` in the workdir.

  Raises:
    UserError: the workdir, the checkpoint, the split or the data does not fit.
  """
  run = runs.load(path, step)
  config = run.config
  built = experiments.build_data(config)
  if split_name not in built.sources:
    raise UserError(f"--split={split_name}: expected one of {', '.join(built.sources)}")
  hierarchical = config.pose.hierarchical
  split = pipeline.open_split(
    built.sources[split_name], run.speaker, hierarchical=hierarchical
  )
  evaluator = Evaluator(
    run.experiment,
    run.speaker.table(hierarchical),
    hierarchical=hierarchical,
    batch_size=config.batch_size,
  )
  templates = draw_templates(run.state, len(split), seed)
  scores = metrics.summarize(evaluator.scores(run.state, split, templates))
  result = {
    "step": run.step,
    "epoch": run.epoch,
    "split": split_name,
    "num_clips": len(split),
    "seed": seed,
    "metrics": {name: _to_json(score) for name, score in scores.items()},
  }
  print(_table(scores))
  file = path / f"eval_{split_name}_{run.step}.json"
  workdir.write_text(file, json.dumps(result, indent=2) + "\n")
  return file


def _to_json(score: metrics.Estimate) -> dict[str, Any]:
  numbers = {"value": score.value, "low": score.low, "high": score.high}
  # JSON has no NaN.
  return {k: v if math.isfinite(v) else None for k, v in numbers.items()}


def _table(scores: dict[str, metrics.Estimate]) -> str:
  lines = [f"{'metric':<22}{'value':>12}   95 % interval over clips"]
  for name, score in scores.items():
    lines.append(
      f"{name:<22}{score.value:>12.4f}   {score.low:.4f} to {score.high:.4f}"
    )
  return "\n".join(lines)
