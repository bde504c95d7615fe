"""Startup of every program, and how it exits on a user error."""

import contextlib
import ctypes
import logging
import os
import pathlib
import platform
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from sdt_jax import config, files, original_names
from sdt_jax.errors import UserError


def run(main: Callable[[], Any]) -> None:
  """Parses the command line with absl and calls `main()`.

  A user error (a bad flag, a bad config field or a UserError from `main`) prints one
  line to stderr and exits with code 2. Ctrl-C exits with code 130.
  """
  _set_help(main.__module__)
  _quiet_libraries()
  _enable_compilation_cache()
  _reuse_freed_memory()
  app.run(lambda argv: _call(main, argv), flags_parser=_parse_flags)


def _set_help(module: str) -> None:
  """Makes --help show the docstring and the flags of `module`.

  By default absl shows those of the main module, which may only call `run`.
  """
  main = sys.modules["__main__"]
  main.__doc__ = main.__doc__ or sys.modules[module].__doc__
  for flag in flags.FLAGS.get_key_flags_for_module(module):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _quiet_libraries() -> None:
  """Silences log messages of libraries, except errors; the project's own are shown."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a value set by the user wins
  absl.logging.set_verbosity(absl.logging.ERROR)
  own = logging.getLogger("sdt_jax")
  own.setLevel(logging.INFO)
  own.addHandler(logging.StreamHandler())
  own.propagate = False


def _enable_compilation_cache() -> None:
  """Makes JAX cache compiled programs in the user's cache folder.

  JAX_COMPILATION_CACHE_DIR takes precedence. Each host has its own folder, since
  programs are compiled for its processor. If the folder is not writable, nothing is
  cached.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  with contextlib.suppress(UserError, RuntimeError):  # RuntimeError: no home folder
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "sdt_jax" / "programs" / platform.node()
    files.check_writable(folder, "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _reuse_freed_memory() -> None:
  """Makes glibc reuse freed buffers instead of returning them to the system.

  A training step on the CPU frees and allocates hundreds of megabytes; page faults on
  fresh memory would take a quarter of its time.
  """
  if platform.libc_ver()[0] != "glibc":
    return
  mallopt = ctypes.CDLL(None).mallopt
  largest = 2**31 - 1
  mallopt(-8, 1)  # M_ARENA_MAX: allocate large buffers in the main heap only
  mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
  mallopt(-1, largest)  # M_TRIM_THRESHOLD


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(_resolve_config(argv))
  except (flags.Error, UserError) as e:
    _exit_with_error(original_names.answer(argv) or str(e))
  except Exception as e:  # errors raised by a config file; values of the wrong type
    if answer := original_names.answer(argv):
      _exit_with_error(answer)
    flag = next((a for a in argv if a.lstrip("-").startswith("config=")), "--config")
    if isinstance(e, KeyError) or isinstance(e.__context__, KeyError):
      _exit_with_error(
        f"{flag}: unknown field {e.args[0]}; sdt_jax/config.py lists every field"
      )
    _exit_with_error(f"{flag}: {type(e).__name__}: {e}; use one of {_config_names()}")


def _resolve_config(argv: Sequence[str]) -> list[str]:
  """Replaces --config=NAME or --config=configs/NAME.py by the path of that file.

  A file of that path in the current folder takes precedence.
  """
  resolved = list(argv)
  for i, (before, argument) in enumerate(zip(["", *argv], argv, strict=False)):
    flag, _, value = argument.rpartition("=")
    if (flag or before) in ("-config", "--config"):
      path = pathlib.PurePath(value)
      known = config.experiments_folder() / f"{path.stem}.py"
      is_short = value in (path.stem, f"configs/{known.name}") and known.is_file()
      if is_short and not pathlib.Path(value).is_file():
        resolved[i] = f"{argument.removesuffix(value)}{known}"
  return resolved


def _config_names() -> str:
  stems = sorted(file.stem for file in config.experiments_folder().glob("[!_]*.py"))
  return f"the files in configs/ ({', '.join(stems)})"


def _call(main: Callable[[], Any], argv: Sequence[str]) -> None:
  if argv[1:]:
    if answer := original_names.answer(sys.argv):
      _exit_with_error(answer)
    _exit_with_error(f"unexpected argument {argv[1]!r}; flags start with --")
  try:
    main()
  except UserError as e:
    _exit_with_error(str(e))
  except KeyboardInterrupt:
    sys.exit(130)


def config_file() -> pathlib.Path:
  """The path given as --config.

  Raises:
    UserError: there is no such file. ml_collections would fail only when a field is
      read.
  """
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  path = pathlib.Path(re.sub(r"(\.py):.*", r"\1", name))  # FILE.py:ARGUMENT
  if not path.is_file():
    if answer := original_names.answer(sys.argv):
      raise UserError(answer)
    raise UserError(f"--config={path}: no such file; use one of {_config_names()}")
  return path


def _exit_with_error(message: str) -> NoReturn:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr)
  sys.exit(2)
