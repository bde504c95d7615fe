"""Scores a trained run on a split of its data.

    python eval.py --workdir=DIR [--step=latest|best|N] [--split=dev] \
      [--pose_vae=DIR] [--template=TEMPLATE] [--num_samples=N] \
      [--seed=N] [--save_videos=N] [--save_npz] [--long=SECONDS]

Prints a table that compares the model with reference motions, and writes
DIR/eval_<split>_<step>.json. The folder of the same name gets videos of clips beside
their truth, and poses.npz with their poses, templates and codes of the pose VAE.
With --long, neighbouring clips are joined into sounds of that length, and generation
for them, windowed and whole, is scored too.
"""

import pathlib

from absl import flags

from sdt_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_SPLIT = flags.DEFINE_string("split", "dev", "Split of the data: train, dev or test.")
_POSE_VAE = flags.DEFINE_string("pose_vae", None, "Workdir of a pose VAE for FTD.")
_TEMPLATE = flags.DEFINE_string(
  "template",
  "random",
  "As for demo.py (docs/templates.md); encoder: the pose VAE's codes of the truth.",
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 1, "Renderings of each clip; all are scored."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed for drawing templates.", lower_bound=0)
_SAVE_VIDEOS = flags.DEFINE_integer(
  "save_videos",
  8,
  "Number of clips, spread over the split, to render next to the truth.",
  lower_bound=0,
)
_SAVE_NPZ = flags.DEFINE_bool(
  "save_npz", False, "Save poses.npz of all clips, not only of those with a video."
)
_LONG = flags.DEFINE_float(
  "long", 0, "Also score long sounds: their length in seconds; 0 for none."
)


def main() -> None:
  from sdt_jax.evaluation import run

  options = run.Options(
    step=_STEP.value,
    split=_SPLIT.value,
    template=_TEMPLATE.value,
    num_samples=_NUM_SAMPLES.value,
    seed=_SEED.value,
    pose_vae=_POSE_VAE.value,
    save_videos=_SAVE_VIDEOS.value,
    save_npz=_SAVE_NPZ.value,
    long=_LONG.value,
  )
  path = run.evaluate_run(pathlib.Path(_WORKDIR.value), options)
  print(f"written: {path}")


def run() -> None:
  """Parses the flags and runs the program."""
  cli.run(main)


if __name__ == "__main__":
  run()
