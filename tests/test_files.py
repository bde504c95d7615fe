"""Atomic writes, and the lock of a workdir."""

import errno
import fcntl

import numpy as np
import pytest

from sdt_jax import files, workdir
from sdt_jax.errors import UserError


def test_a_file_is_there_at_the_end_only(tmp_path):
  path = tmp_path / "new" / "folder" / "a.txt"
  for text, before in (("old", None), ("new", "old")):
    with files.replacing(str(path)) as temporary:
      temporary.write_text(text)
      assert (path.read_text() if path.exists() else None) == before
      assert temporary.suffix == ".txt"
    assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
  ("error", "raised"),
  [
    (ValueError("no"), pytest.raises(ValueError, match="no")),
    (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    (_FULL, pytest.raises(UserError, match=r"a\.txt: cannot be written \(No [^\n]*$")),
  ],
)
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error, raised):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with raised, files.replacing(path) as temporary:
    temporary.write_text("half")
    raise error
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", ["file/a.txt", "folder"])
def test_something_else_in_the_way_is_one_line(tmp_path, path):
  (tmp_path / "file").write_text("old")
  (tmp_path / "folder").mkdir()
  with (
    pytest.raises(UserError, match=f"{path}: cannot be written"),
    files.replacing(tmp_path / path) as temporary,
  ):
    temporary.write_text("text")
  assert (tmp_path / "file").read_text() == "old"
  assert sorted(tmp_path.rglob("*")) == [tmp_path / "file", tmp_path / "folder"]


def test_an_npz_is_read_again_after_a_clash_of_threads(tmp_path, monkeypatch):
  """Python 3.11 raises SystemError if two threads parse headers at the same time."""
  np.savez(tmp_path / "a.npz", a=np.ones(3))
  npz_file = np.lib.npyio.NpzFile
  read, clashes = npz_file.__getitem__, [SystemError("recursion depth mismatch")]

  def read_that_clashes(npz, name):
    if clashes:
      raise clashes.pop()
    return read(npz, name)

  monkeypatch.setattr(npz_file, "__getitem__", read_that_clashes)
  assert files.read_arrays(tmp_path / "a.npz")["a"].sum() == 3


def test_check_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
  folder = tmp_path / "a" / "b"
  files.check_writable(folder, "--output_dir")
  assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", [".", "b/c"])
def test_check_writable_names_the_flag(tmp_path, below):
  in_the_way = tmp_path / "file"
  in_the_way.write_text("old")
  folder = in_the_way / below
  with pytest.raises(UserError, match=r"--output_dir=.*file.*cannot be written"):
    files.check_writable(folder, "--output_dir")
  assert in_the_way.read_text() == "old"


def _flock_fails(monkeypatch, number: int) -> None:
  def fail(*_):
    raise OSError(number, "no")

  monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_one_warning(
  tmp_path, monkeypatch, caplog, number
):
  _flock_fails(monkeypatch, number)
  with workdir.locked(tmp_path):
    pass
  (record,) = caplog.records
  assert record.levelname == "WARNING"
  assert f"{tmp_path}: cannot lock this folder (no)" in record.message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_lock_of_another_process_is_an_error(tmp_path, monkeypatch, number):
  (tmp_path / workdir.LOCK).write_text("process 7 on there")
  _flock_fails(monkeypatch, number)
  with (
    pytest.raises(UserError, match="process 7 on there is training there"),
    workdir.locked(tmp_path),
  ):
    pass
  assert (tmp_path / workdir.LOCK).read_text() == "process 7 on there"
