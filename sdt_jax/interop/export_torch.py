"""Writes a checkpoint of a run for the original PyTorch code.

    python -m sdt_jax.interop.export_torch --workdir=DIR --output=FILE.pth \
      [--step=latest|best|N] [--pose_vae=DIR]
"""

import pathlib

from absl import flags

from sdt_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The .pth file to write.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_POSE_VAE = flags.DEFINE_string(
  "pose_vae", None, "Folder of a pose2pose run, whose encoder computes the FTD."
)


def main() -> None:
  from sdt_jax.interop import convert

  notes = convert.export_checkpoint(
    pathlib.Path(_WORKDIR.value),
    pathlib.Path(_OUTPUT.value),
    _STEP.value,
    pathlib.Path(_POSE_VAE.value) if _POSE_VAE.value else None,
  )
  print("\n".join(notes))
  print(f"written: {_OUTPUT.value}")


if __name__ == "__main__":
  cli.run(main)
