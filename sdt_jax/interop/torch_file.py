"""Identifies and reads files written by `torch.save`, without running their code.

If torch 2.6 or newer is installed, it reads the file, including the old format; earlier
versions of `weights_only` could be tricked into running code. Without torch,
`torch_zip` reads the file. Both return the same arrays.
"""

import importlib
import importlib.util
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import Any

from sdt_jax.errors import UserError
from sdt_jax.interop import torch_zip

_HEAD = 512
_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MIN_TORCH = (2, 6)
_TEXT = bytes(range(32, 127)) + b"\t\r\n"

# Other kinds of files, recognized by their first bytes; the first match counts.
_FOREIGN: tuple[tuple[str, Callable[[bytes], object]], ...] = (
  ("an empty file", lambda head: not head),
  ("a Python pickle that torch did not write", lambda head: head[:1] == b"\x80"),
  ("a gzip file; unpack it first", lambda head: head[:2] == b"\x1f\x8b"),
  ("a tar archive; unpack it first", lambda head: head[257:262] == b"ustar"),
  ("a 7z archive; unpack it first", lambda head: head[:6] == b"7z\xbc\xaf'\x1c"),
  ("a RAR archive; unpack it first", lambda head: head[:4] == b"Rar!"),
  ("an HDF5 file", lambda head: head[:8] == b"\x89HDF\r\n\x1a\n"),
  ("a NumPy array (.npy)", lambda head: head[:6] == b"\x93NUMPY"),
  ("a safetensors file", lambda head: head[8:10] == b'{"' and head[5:8] == bytes(3)),
  ("a Git LFS pointer; run `git lfs pull`", lambda head: head[:12] == b"version http"),
  ("a web page; the download failed", re.compile(rb"<html|<!doctype", re.I).search),
  ("a text file", lambda head: not head.translate(None, _TEXT)),
  ("in an unknown format", lambda _: True),
)


def _foreign(path: pathlib.Path, what: str) -> UserError:
  return UserError(
    f"{path}: expected a torch checkpoint (.pth), but this file seems to be {what}"
  )


def read(path: pathlib.Path) -> Any:
  """Reads a file that `torch.save` wrote.

  Returns:
    The saved object, made of dicts, lists, tuples, numbers, strings, None, and NumPy
    arrays in place of tensors. bfloat16 tensors are converted to float32.

  Raises:
    UserError: the file is missing, damaged or not a torch checkpoint; it is in the old
      format and torch is not installed; or it contains more than containers and
      tensors.
  """
  head = _head(path)
  if head[:4] == _ZIP:
    _check_archive(path)
  elif head[: len(_OLD_TORCH)] != _OLD_TORCH:
    raise _foreign(path, next(what for what, matches in _FOREIGN if matches(head)))
  if _has_torch():
    return _read_by_torch(path)
  if head[:4] != _ZIP:
    raise UserError(
      f"{path}: has the format of torch before 1.6, which only torch can read; "
      f"run `pip install 'torch>={_MIN_TORCH[0]}.{_MIN_TORCH[1]}'` and try again"
    )
  return torch_zip.read(path)


def _head(path: pathlib.Path) -> bytes:
  if path.is_dir():
    raise UserError(f"{path}: is a folder; expected a torch checkpoint (.pth)")
  try:
    with path.open("rb") as f:
      return f.read(_HEAD)
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror})") from e


def _check_archive(path: pathlib.Path) -> None:
  """Rejects zip files that `torch.save` did not write."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
    raise UserError(
      f"{path}: seems to be a torch checkpoint that is truncated or damaged ({e}); "
      "copy or download it again"
    ) from e
  if any(name.endswith("/constants.pkl") for name in names):
    raise UserError(
      f"{path}: seems to be a TorchScript model; give the checkpoint it was made from"
    )
  if any(name.endswith("/data.pkl") for name in names):
    return
  if names and all(name.endswith(".npy") for name in names):
    raise _foreign(path, "a NumPy archive (.npz)")
  raise _foreign(path, "a zip archive; unpack it first")


def _has_torch() -> bool:
  if importlib.util.find_spec("torch") is None:
    return False
  torch = importlib.import_module("torch")
  major, minor = torch.__version__.split(".")[:2]
  return (int(major), int(minor)) >= _MIN_TORCH


def _read_by_torch(path: pathlib.Path) -> Any:
  torch = importlib.import_module("torch")
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
    return _to_numpy(content, torch)
  except torch_zip.BROKEN as e:
    raise UserError(f"{path}: not a readable torch checkpoint ({_reason(e)})") from e


def _reason(error: Exception) -> str:
  """Returns torch's message without its advice to load the file unsafely."""
  lines = [line.strip() for line in str(error).splitlines()]
  named = [line for line in lines if "GLOBAL" in line]
  others = [line for line in lines if line and "weights_only" not in line]
  return (named + others + [type(error).__name__])[0][:200]


def _to_numpy(value: Any, torch) -> Any:
  if isinstance(value, torch.Tensor):
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
  if isinstance(value, dict):
    return {key: _to_numpy(item, torch) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_to_numpy(item, torch) for item in value)
  return value
