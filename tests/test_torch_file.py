"""Recognizing files, and agreement between torch and the reader without torch."""

import gzip
import importlib.util
import io
import json
import os
import pathlib
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import test_torch_zip

from sdt_jax.errors import UserError
from sdt_jax.interop import torch_file, torch_zip

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(params=["torch", "own reader"])
def reader(request, monkeypatch) -> str:
  """Runs a test with torch and with the reader that does not need it."""
  if request.param == "torch":
    pytest.importorskip("torch")
  else:
    monkeypatch.setattr(torch_file, "_has_torch", lambda: False)
  return request.param


def _saved(function) -> bytes:
  buffer = io.BytesIO()
  function(buffer)
  return buffer.getvalue()


def _zip(*names: str) -> bytes:
  with zipfile.ZipFile(buffer := io.BytesIO(), "w") as f:
    for name in names:
      f.writestr(name, "x")
  return buffer.getvalue()


_HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1]}}).encode()

FOREIGN = {
  "an empty file": b"",
  "a text file": b"step 3\tloss 0.1\r\n",
  "a web page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
  "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
  "a tar archive": tarfile.TarInfo("a").tobuf(),
  "a gzip file": gzip.compress(b"x"),
  "a NumPy array": _saved(lambda f: np.save(f, np.ones(3))),
  r"a NumPy archive \(.npz\)": _saved(lambda f: np.savez(f, a=np.ones(3))),
  "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
  "a safetensors file": struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(4),
  "a Python pickle": pickle.dumps({"a": 1}),
  "a TorchScript model": _zip("m/data.pkl", "m/constants.pkl", "m/code/a.py"),
  "a zip archive": _zip("readme.txt"),
  "in an unknown format": b"\x00\xff" * 300,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_error_names_the_kind_of_a_foreign_file(tmp_path, kind):
  path = tmp_path / "a.pth"
  path.write_bytes(FOREIGN[kind])
  with pytest.raises(UserError, match=f"a.pth: .*seems to be {kind}") as e:
    torch_file.read(path)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
  path = tmp_path / "a.pth"
  torch_zip.write(path, test_torch_zip.CONTENT)
  content = path.read_bytes()
  path.write_bytes(content[: int(share * len(content))])
  with pytest.raises(UserError, match="truncated or damaged"):
    torch_file.read(path)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
  "name", ["os.system", "eval", "inside a dict", "import only", "instance", "object"]
)
def test_both_readers_run_nothing(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  program = test_torch_zip.MALICIOUS[name]
  path = test_torch_zip.archive(tmp_path / "a.pth", program)
  with pytest.raises(UserError, match="not a readable torch checkpoint") as e:
    torch_file.read(path)
  assert "\n" not in str(e.value)
  assert "weights_only" not in str(e.value)
  assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("at", [40, 200, 900, -200])
def test_both_readers_refuse_a_damaged_file(tmp_path, at):
  path = tmp_path / "a.pth"
  torch_zip.write(path, test_torch_zip.CONTENT)
  content = bytearray(path.read_bytes())
  content[at : at + 16] = bytes(16)
  path.write_bytes(content)
  with pytest.raises(UserError):
    torch_file.read(path)


# The first bytes of `torch.save(..., _use_new_zipfile_serialization=False)`.
OLD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


@pytest.mark.skipif(HAS_TORCH, reason="torch reads it")
def test_the_old_format_is_refused_with_the_remedy(tmp_path):
  (tmp_path / "a.pth").write_bytes(OLD)
  with pytest.raises(UserError, match=r"before 1\.6.*pip install 'torch>=2\.6'"):
    torch_file.read(tmp_path / "a.pth")


def test_torch_reads_the_old_format(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  path = tmp_path / "a.pth"
  for value in (torch.arange(3), test_torch_zip._Calls(os.system, "touch touched")):
    torch.save({"a": value}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes().startswith(OLD[:20])
    if isinstance(value, torch.Tensor):
      np.testing.assert_array_equal(torch_file.read(path)["a"], np.arange(3))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="system"):
    torch_file.read(path)
  assert not pathlib.Path("touched").exists()


def test_torchs_refusal_names_the_global(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"a": np.ones(3)}, tmp_path / "a.pth")
  with pytest.raises(UserError, match="GLOBAL numpy"):
    torch_file.read(tmp_path / "a.pth")


def test_an_unsafe_version_of_torch_is_not_used(monkeypatch):
  torch = pytest.importorskip("torch")
  assert torch_file._has_torch()
  monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
  assert not torch_file._has_torch()
