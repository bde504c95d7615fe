"""Files that are complete or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from sdt_jax.errors import UserError


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
