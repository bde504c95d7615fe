"""Trains an experiment.

    python train.py --config=configs/sdt_bp.py [--config.any.field=value ...] \
      [--workdir=DIR] [--tag=TEXT] [--pretrained=DIR] \
      [--coordinator=HOST:PORT --num_processes=N --process_id=I | --coordinator=auto]
    python train.py --resume=DIR[:STEP] [--config.any.field=value ...]

A workdir that already contains checkpoints is resumed; --resume does so with the config
of the run, and from any of its checkpoints. With several processes, on one machine or
on many, run the same command once for each.
"""

import datetime
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from sdt_jax import cli
from sdt_jax.errors import UserError
from sdt_jax.programs import resuming

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the experiment.")
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run; default: output/<date>_<config>_<tag>, and for template "
  "sequences <config.template.of>/template_sequence.",
)
_TAG = flags.DEFINE_string("tag", "", "Appended to the name of the default folder.")
_PRETRAINED = flags.DEFINE_string(
  "pretrained", None, "Workdir of the run to take initial weights from."
)
_RESUME = flags.DEFINE_string(
  "resume",
  None,
  "Workdir of the run to resume, DIR or DIR:STEP; checkpoints after STEP are moved "
  "aside.",
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
  if _RESUME.value and (_WORKDIR.value or _PRETRAINED.value):
    raise UserError(
      f"--resume={_RESUME.value}: names the workdir, and the run has its own weights; "
      "leave out --workdir and --pretrained"
    )

  # Imported late: flags are checked before JAX starts.
  from sdt_jax import workdir as folders
  from sdt_jax.evaluation.evaluator import Evaluator
  from sdt_jax.synthesis.samples import Gallery
  from sdt_jax.training import loop, processes

  resumed, step = resuming.split_resume(_RESUME.value or "")
  given = resumed or _WORKDIR.value
  if not given and (of := _CONFIG.value.template.of):
    given = pathlib.Path(of) / folders.TEMPLATE_SEQUENCE
  if _COORDINATOR.value and not given:
    raise UserError("--coordinator: several processes need a common --workdir")
  processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  workdir = pathlib.Path(given or _default_workdir(config_file.stem))
  how_to_resume = f"to resume: {resuming.command(sys.argv, workdir)}"
  if processes.is_main():
    print(f"workdir: {workdir}", flush=True)
  try:
    finished = loop.train(
      _CONFIG.value,
      workdir,
      Evaluator,
      Gallery,
      pretrained=_PRETRAINED.value,
      must_resume=bool(resumed),
      from_step=step,
    )
  except KeyboardInterrupt:  # before the first step
    print(how_to_resume)
    raise
  if processes.is_main():
    print(f"trained: {workdir}" if finished else how_to_resume)


def _default_workdir(name: str) -> str:
  date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  return "_".join(filter(None, (f"output/{date}", name, _TAG.value)))


def run() -> None:
  """Parses the flags and runs the program."""
  sys.argv = resuming.with_saved_config(sys.argv)
  cli.run(main)


if __name__ == "__main__":
  run()
