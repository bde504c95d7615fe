"""Scores a trained run on a split of its data.

    python eval.py --workdir=DIR [--step=latest|best|N] [--split=dev]

Writes DIR/eval_<split>_<step>.json and prints a table.
"""

import pathlib

from absl import flags

from sdt_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_SPLIT = flags.DEFINE_string("split", "dev", "Split of the data: dev or train.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the templates that are drawn.")


def main() -> None:
  from sdt_jax.evaluation import run

  path = run.evaluate_run(
    pathlib.Path(_WORKDIR.value), _STEP.value, _SPLIT.value, _SEED.value
  )
  print(f"written: {path}")


if __name__ == "__main__":
  cli.run(main)
