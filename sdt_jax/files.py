"""Files that are complete or not there, and npz that run nothing."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np

from sdt_jax.errors import UserError

_MAX_ARRAY_BYTES = 2**30  # a zip may claim, and unpack to, more than any memory holds


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a temporary name beside `path`; renames it to `path` at the end.

  The folder is made if it is missing. On an error the temporary file is removed and
  what was at `path` stays.

  Raises:
    UserError: the folder cannot be written, or the disk is full.
  """
  path = pathlib.Path(path)
  # The suffix stays: encoders choose the format by it.
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
    # Not `missing_ok`: a file in the place of the folder is another error.
    with contextlib.suppress(OSError):
      temporary.unlink()


def check_writable(folder: pathlib.Path, flag: str) -> None:
  """Makes the folder; raises a UserError that names `flag` if it cannot be written."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.getpid()}-probe"
    probe.touch()
    probe.unlink()
  except OSError as e:
    raise UserError(
      f"{flag}={folder}: cannot be written ({e.strerror}); choose another folder"
    ) from e


def read_arrays(path: str | pathlib.Path, *names: str) -> dict[str, np.ndarray]:
  """These arrays of an npz, or all if none is named; nothing is unpickled.

  Raises:
    UserError: the file is missing or no npz, or lacks an array.
  """
  try:
    with zipfile.ZipFile(path) as archive:  # np.load would also take a lone array
      sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
    names = names or tuple(sizes)
    missing = [name for name in names if name not in sizes]
    if missing:
      raise UserError(
        f"{path}: has no {' and no '.join(missing)}; "
        f"found: {', '.join(sizes) or 'nothing'}"
      )
    if any(sizes[name] > _MAX_ARRAY_BYTES for name in names):
      raise UserError(f"{path}: holds an array beyond 1 GiB; give another file")
    with np.load(path, allow_pickle=False) as npz:
      return {name: npz[name] for name in names}
  except UserError:
    raise
  except FileNotFoundError as e:
    raise UserError(f"{path}: no such file") from e
  except Exception as e:  # zipfile, zlib and NumPy have no common one for bad files
    reason = " ".join(str(e).split())[:200] or type(e).__name__
    raise UserError(f"{path}: not a readable npz ({reason}); copy it again") from e
