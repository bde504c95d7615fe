"""How every program starts, and how it ends when the user made a mistake."""

import contextlib
import ctypes
import logging
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from sdt_jax import files
from sdt_jax.errors import UserError


def run(main: Callable[[], Any]) -> None:
  """Parses the absl flags of the program and calls `main()`.

  A mistake of the user's (a flag, a config field, or a UserError from `main`) ends with
  one line on stderr and exit code 2; Ctrl-C with exit code 130.
  """
  _set_help(main.__module__)
  _quiet_libraries()
  _keep_programs()
  _keep_freed_memory()
  app.run(lambda argv: _call(main, argv), flags_parser=_parse_flags)


def _set_help(module: str) -> None:
  """Makes --help show the flags of `module`, and its docstring.

  absl shows only those of the main module, which may be a script of one call.
  """
  main = sys.modules["__main__"]
  main.__doc__ = main.__doc__ or sys.modules[module].__doc__
  for flag in flags.FLAGS.get_key_flags_for_module(module):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _quiet_libraries() -> None:
  """Leaves the project's own messages on stderr, and the libraries' errors."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a user's own choice wins
  absl.logging.set_verbosity(absl.logging.ERROR)
  own = logging.getLogger("sdt_jax")
  own.setLevel(logging.INFO)
  own.addHandler(logging.StreamHandler())
  own.propagate = False


def _keep_programs() -> None:
  """What JAX compiles is kept in the user's cache, if no other place is set.

  A folder for each host, since programs are compiled for its processor. Without a
  folder that can be written everything is compiled anew.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  with contextlib.suppress(UserError, RuntimeError):  # RuntimeError: no home folder
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "sdt_jax" / "programs" / platform.node()
    files.check_writable(folder, "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _keep_freed_memory() -> None:
  """Has the C library reuse freed buffers instead of returning them to the system.

  A training step on the CPU frees and takes hundreds of megabytes; fresh pages for them
  cost a quarter of its time.
  """
  if platform.libc_ver()[0] != "glibc":
    return
  mallopt = ctypes.CDLL(None).mallopt
  largest = 2**31 - 1
  mallopt(-8, 1)  # M_ARENA_MAX: only the main heap takes large buffers
  mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
  mallopt(-1, largest)  # M_TRIM_THRESHOLD


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    _stop(str(e))
  except Exception as e:  # whatever the code of a config file raises, and wrong types
    flag = next((a for a in argv if a.lstrip("-").startswith("config=")), "--config")
    if isinstance(e, KeyError) or isinstance(e.__context__, KeyError):
      _stop(f"{flag}: there is no field {e.args[0]}; configs/common.py has them all")
    _stop(f"{flag}: {type(e).__name__}: {e}; take one of the files in configs/")


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
