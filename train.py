"""Trains an experiment.

    python train.py --config=configs/sdt_bp.py [--config.any.field=value ...] \
      [--workdir=DIR] [--tag=TEXT] [--pretrained=DIR]

A workdir that already holds checkpoints is resumed.
"""

import datetime
import pathlib

from absl import flags
from ml_collections import config_flags

from sdt_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the experiment.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; default: output/<date>_<config>_<tag>."
)
_TAG = flags.DEFINE_string("tag", "", "Added to the name of the default folder.")
_PRETRAINED = flags.DEFINE_string(
  "pretrained", None, "Workdir of a run whose weights to start from."
)
flags.mark_flag_as_required("config")  # DEFINE_config_file has no `required`


def main() -> None:
  config_file = cli.config_file()

  # Imported late: flags are checked before JAX starts.
  from sdt_jax.synthesis import samples
  from sdt_jax.training import loop

  workdir = pathlib.Path(_WORKDIR.value or _default_workdir(config_file.stem))
  if loop.train(_CONFIG.value, workdir, samples.Gallery, _PRETRAINED.value):
    print(f"trained: {workdir}")


def _default_workdir(name: str) -> str:
  date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  return "_".join(filter(None, (f"output/{date}", name, _TAG.value)))


if __name__ == "__main__":
  cli.run(main)
