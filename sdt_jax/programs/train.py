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
import re
import shlex
import sys

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
_RESUME = flags.DEFINE_string(
  "resume",
  None,
  "Workdir of the run to go on with, and optionally the step of a checkpoint: "
  "DIR[:STEP]. Later checkpoints are moved aside.",
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
_RESUMED_CONFIG = pathlib.Path(__file__).with_name("resumed_config.py")
flags.mark_flag_as_required("config")  # DEFINE_config_file has no `required`


def main() -> None:
  config_file = cli.config_file()
  if _RESUME.value and (_WORKDIR.value or _PRETRAINED.value):
    raise UserError(
      f"--resume={_RESUME.value}: names the workdir, and the run has its own weights; "
      "leave out --workdir and --pretrained"
    )

  # Imported late: flags are checked before JAX starts.
  from sdt_jax.evaluation.evaluator import Evaluator
  from sdt_jax.synthesis.samples import Gallery
  from sdt_jax.training import loop, processes

  resumed, step = _split_resume(_RESUME.value or "")
  given = resumed or _WORKDIR.value
  if _COORDINATOR.value and not given:
    raise UserError("--coordinator: several processes need a common --workdir")
  processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  workdir = pathlib.Path(given or _default_workdir(config_file.stem))
  if processes.is_main():
    print(f"workdir: {workdir}", flush=True)
  try:
    finished = loop.train(
      *(_CONFIG.value, workdir, Evaluator, Gallery, _PRETRAINED.value, step)
    )
  except KeyboardInterrupt:  # before the first step
    print(_how_to_go_on(sys.argv, workdir))
    raise
  if processes.is_main():
    print(f"trained: {workdir}" if finished else _how_to_go_on(sys.argv, workdir))


def _split_resume(text: str) -> tuple[str, int | None]:
  """DIR[:STEP] -> DIR and step."""
  match = re.fullmatch(r"(.+):(\d{1,18})", text)
  return (match[1], int(match[2])) if match else (text, None)


def _how_to_go_on(argv: list[str], workdir: pathlib.Path) -> str:
  """The command that resumes the run which `argv` started."""
  program = argv[0] if argv[0].endswith(".py") else pathlib.PurePath(argv[0]).name
  python = ["python"] if program.endswith(".py") else []
  rest, skipping = [], False
  for argument in argv[1:]:
    name, has_value, _ = argument.lstrip("-").partition("=")
    if skipping:
      skipping = False
    elif name in ("workdir", "tag", "resume"):
      skipping = not has_value
    elif not _is_of_resumed_config(argument):
      rest.append(argument)
  goal = "resume" if any(a.startswith("--resume") for a in argv) else "workdir"
  command = shlex.join([*python, program, *rest, f"--{goal}={workdir}"])
  return f"to go on: {command}"


def _with_config_of_resumed(argv: list[str]) -> list[str]:
  """Adds --config for --resume without --config: the saved config of the run."""
  names = [argument.lstrip("-").partition("=")[0] for argument in argv[1:]]
  if "resume" not in names or "config" in names:
    return argv
  at = names.index("resume") + 1
  value = argv[at].partition("=")[2] or "".join(argv[at + 1 : at + 2])
  config = f"--config={_RESUMED_CONFIG}:{_split_resume(value)[0]}"
  return [argv[0], config, *argv[1:]]  # must come before --config.field=value


def _is_of_resumed_config(argument: str) -> bool:
  return argument.startswith(f"--config={_RESUMED_CONFIG}:")


def _default_workdir(name: str) -> str:
  date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  return "_".join(filter(None, (f"output/{date}", name, _TAG.value)))


def run() -> None:
  """Parses the flags and runs the program."""
  sys.argv = _with_config_of_resumed(sys.argv)
  cli.run(main)


if __name__ == "__main__":
  run()
