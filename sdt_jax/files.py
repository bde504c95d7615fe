"""Writes files atomically, and reads npz files without running their code."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdt_jax.errors import UserError

_MAX_ARRAY_BYTES = 2**30  # a small zip can unpack to more than fits into memory


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path in the same folder, which replaces `path` at the end.

  Creates the folder if it is missing. On an error the temporary file is removed and the
  old file at `path`, if any, is kept.

  Raises:
    UserError: the folder cannot be written, or the disk is full.
  """
  path = pathlib.Path(path)
  # Keep the suffix: encoders infer the format from it.
  temporary = path.with_name(f".{os.getpid()}-{path.name}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield temporary
    temporary.replace(path)
  except OSError as e:
    raise UserError(
      f"{path}: cannot be written ({e.strerror or e}); choose another folder"
    ) from e
  finally:
    # `missing_ok` is not enough: it raises if the folder's name belongs to a file.
    with contextlib.suppress(OSError):
      temporary.unlink()


def check_writable(folder: pathlib.Path, flag: str) -> None:
  """Creates a folder; raises a UserError that names `flag` if it is not writable."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.getpid()}-probe"
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise UserError(
      f"{flag}={folder}: cannot be written ({e.strerror}); choose another folder"
    ) from e


def array_names(path: str | pathlib.Path) -> list[str]:
  """Names of the arrays of an npz file; see `read_arrays`.

  Raises:
    UserError: the file is missing or is not an npz file.
  """
  with _readable(path), zipfile.ZipFile(path) as archive:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(path: str | pathlib.Path, *names: str) -> dict[str, np.ndarray]:
  """Reads the named arrays of an npz file, or all of them; never unpickles anything.

  Raises:
    UserError: the file is missing, is not an npz file, or lacks an array.
  """
  with _readable(path):
    with zipfile.ZipFile(path) as archive:  # np.load would also accept an npy file
      sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
    names = names or tuple(sizes)
    missing = [name for name in names if name not in sizes]
    if missing:
      raise UserError(
        f"{path}: has no {' and no '.join(missing)}; "
        f"found: {', '.join(sizes) or 'nothing'}"
      )
    if any(sizes[name] > _MAX_ARRAY_BYTES for name in names):
      raise UserError(f"{path}: contains an array larger than 1 GiB; give another file")
    with np.load(path, allow_pickle=False) as npz:
      return {name: _parse_array(npz, name) for name in names}


@contextlib.contextmanager
def _readable(path: str | pathlib.Path) -> Iterator[None]:
  """Turns the errors of reading an npz file into a UserError."""
  try:
    yield
  except UserError:
    raise
  except FileNotFoundError as e:
    raise UserError(f"{path}: no such file") from e
  except Exception as e:  # zipfile, zlib and NumPy raise unrelated kinds
    reason = " ".join(str(e).split())[:200] or type(e).__name__
    raise UserError(f"{path}: not a readable npz ({reason}); copy it again") from e


def _parse_array(npz: Any, name: str) -> np.ndarray:
  try:
    return npz[name]
  except SystemError:  # rare, from Python 3.11 parsing headers in two threads
    return npz[name]
