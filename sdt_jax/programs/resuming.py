"""What train.py makes of its command line to resume a run."""

import pathlib
import re
import shlex
from collections.abc import Sequence

_SAVED_CONFIG = pathlib.Path(__file__).with_name("saved_config.py")


def split_resume(text: str) -> tuple[str, int | None]:
  """The value of --resume, DIR[:STEP]: folder, and step or None."""
  match = re.fullmatch(r"(.+):(\d{1,18})", text)
  return (match[1], int(match[2])) if match else (text, None)


def with_saved_config(argv: Sequence[str]) -> list[str]:
  """Adds --config to a command with --resume and no --config: that of the run."""
  names = [_name(argument) for argument in argv[1:]]
  if "resume" not in names or "config" in names:
    return list(argv)
  at = names.index("resume") + 1
  value = argv[at].partition("=")[2] or "".join(argv[at + 1 : at + 2])
  config = f"--config={_SAVED_CONFIG}:{split_resume(value)[0]}"
  return [argv[0], config, *argv[1:]]  # must come before --config.field=value


def command(argv: Sequence[str], workdir: pathlib.Path) -> str:
  """The command that resumes the run in `workdir`, which `argv` started or resumed."""
  program = argv[0] if argv[0].endswith(".py") else pathlib.PurePath(argv[0]).name
  words = ["python", program] if program.endswith(".py") else [program]
  names = {_name(argument) for argument in argv[1:]}
  arguments = iter(argv[1:])
  for argument in arguments:
    if _name(argument) in ("workdir", "tag", "resume"):
      if "=" not in argument:
        next(arguments, None)  # its value
    elif not argument.startswith(f"--config={_SAVED_CONFIG}:"):
      words.append(argument)
  flag = "resume" if "resume" in names else "workdir"
  return shlex.join([*words, f"--{flag}={workdir}"])


def _name(argument: str) -> str:
  return argument.lstrip("-").partition("=")[0] if argument.startswith("-") else ""
