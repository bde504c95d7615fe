"""Converts a checkpoint of the original PyTorch code to a workdir.

    python -m sdt_jax.interop.import_torch --checkpoint=FILE.pth --speaker=oliver \
      --workdir=DIR [--config=configs/sdt_bp.py] [--pose_vae=FILE.pth]

For a speaker whose statistics were not published, give those that the model was trained
with as --speaker=FILE.json, or the data as --speaker=NAME --root=DATA.

demo.py, eval.py and train.py take DIR like the folder of any other run. Nothing in the
file is executed.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from sdt_jax import cli

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The .pth file.", required=True)
_SPEAKER = flags.DEFINE_string(
  "speaker",
  None,
  "Speaker that the model was trained on: a published one, one with a pack in --root, "
  "or a speaker.json.",
  required=True,
)
_ROOT = flags.DEFINE_string(
  "root", "", "Folder of data packs; the statistics are those of the speaker's pack."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder to create.", required=True)
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment file; default: the one that matches the checkpoint."
)
_POSE_VAE = flags.DEFINE_string(
  "pose_vae", None, "For SDT-VAE: the .pth file of its pose VAE, with the templates."
)


def main() -> None:
  if flags.FLAGS["config"].present:
    cli.config_file()

  from sdt_jax.interop import convert

  notes = convert.import_checkpoint(
    pathlib.Path(_CHECKPOINT.value),
    _SPEAKER.value,
    pathlib.Path(_WORKDIR.value),
    _CONFIG.value,
    pathlib.Path(_POSE_VAE.value) if _POSE_VAE.value else None,
    _ROOT.value,
  )
  print("\n".join(notes))
  print(f"imported: {_WORKDIR.value}")


if __name__ == "__main__":
  cli.run(main)
