"""How every program starts, and how it ends when the user made a mistake."""

import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from sdt_jax.errors import UserError


def run(main: Callable[[], Any]) -> None:
  """Parses the absl flags of the program and calls `main()`.

  A mistake of the user's (a flag, a config field, or a UserError from `main`) ends with
  one line on stderr and exit code 2; Ctrl-C with exit code 130.
  """
  _quiet_libraries()
  app.run(lambda argv: _call(main, argv), flags_parser=_parse_flags)


def _quiet_libraries() -> None:
  """Leaves the project's own messages on stderr, and the libraries' errors."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a user's own choice wins
  absl.logging.set_verbosity(absl.logging.ERROR)
  own = logging.getLogger("sdt_jax")
  own.setLevel(logging.INFO)
  own.addHandler(logging.StreamHandler())
  own.propagate = False


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    _stop(str(e))
  except KeyError as e:
    _stop(f"--config: there is no field {e.args[0]}; configs/common.py has them all")
  except (
    AttributeError,
    TypeError,
    ValueError,
    OSError,
    ImportError,
    SyntaxError,
  ) as e:
    # What ml_collections raises for wrong types and for files that are no config.
    _stop(f"--config: {e}")


def _call(main: Callable[[], Any], argv: Sequence[str]) -> None:
  if argv[1:]:
    _stop(f"unexpected argument {argv[1]!r}; flags begin with --")
  try:
    main()
  except UserError as e:
    _stop(str(e))
  except KeyboardInterrupt:
    sys.exit(130)


def config_file() -> pathlib.Path:
  """The file that the flag --config names.

  Raises:
    UserError: there is none; ml_collections fails only when a field is read.
  """
  path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  if not path.is_file():
    raise UserError(f"--config={path}: no such file; take one of those in configs/")
  return path


def _stop(message: str) -> NoReturn:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr)
  sys.exit(2)
