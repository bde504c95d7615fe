"""Trains an experiment.

    python train.py --config=configs/sdt_bp.py [--config.any.field=value ...] \
      [--workdir=DIR] [--tag=TEXT] [--pretrained=DIR] \
      [--coordinator=HOST:PORT --num_processes=N --process_id=I | --coordinator=auto]

A workdir that already contains checkpoints is resumed. With several processes, on one
machine or on many, run the same command once for each.
"""

import datetime
import pathlib

from absl import flags
from ml_collections import config_flags

from sdt_jax import cli
from sdt_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the experiment.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; default: output/<date>_<config>_<tag>."
)
_TAG = flags.DEFINE_string("tag", "", "Appended to the name of the default folder.")
_PRETRAINED = flags.DEFINE_string(
  "pretrained", None, "Workdir of the run to take initial weights from."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "With several processes: HOST:PORT of process 0, or auto on Slurm, TPU pods, Open "
  "MPI and Kubernetes.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Number of this process, from 0."
)
flags.mark_flag_as_required("config")  # DEFINE_config_file has no `required`


def main() -> None:
  config_file = cli.config_file()

  # Imported late: flags are checked before JAX starts.
  from sdt_jax.evaluation.evaluator import Evaluator
  from sdt_jax.synthesis.samples import Gallery
  from sdt_jax.training import loop, processes

  if _COORDINATOR.value and not _WORKDIR.value:
    raise UserError("--coordinator: several processes need a common --workdir")
  processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  workdir = pathlib.Path(_WORKDIR.value or _default_workdir(config_file.stem))
  finished = loop.train(_CONFIG.value, workdir, Evaluator, Gallery, _PRETRAINED.value)
  if finished and processes.is_main():
    print(f"trained: {workdir}")


def _default_workdir(name: str) -> str:
  date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  return "_".join(filter(None, (f"output/{date}", name, _TAG.value)))


def run() -> None:
  """Parses the flags and runs the program."""
  cli.run(main)


if __name__ == "__main__":
  run()
