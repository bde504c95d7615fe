"""Reads and writes the zip format of `torch.save` without torch.

The archive contains `<name>/data.pkl`, a pickle in which every tensor refers to a
storage, and `<name>/data/<key>`, the bytes of each storage. A pickle is a program that
may import and call anything, so the unpickler here resolves a fixed list of names, and
resolves those to functions of this module.
"""

import io
import math
import pathlib
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from sdt_jax import files
from sdt_jax.errors import UserError

_DTYPES = {
  "torch DoubleStorage": np.dtype(np.float64),
  "torch FloatStorage": np.dtype(np.float32),
  "torch HalfStorage": np.dtype(np.float16),
  "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "torch LongStorage": np.dtype(np.int64),
  "torch IntStorage": np.dtype(np.int32),
  "torch ShortStorage": np.dtype(np.int16),
  "torch CharStorage": np.dtype(np.int8),
  "torch ByteStorage": np.dtype(np.uint8),
  "torch BoolStorage": np.dtype(np.bool_),
}
_STORAGE_OF = {dtype: name for name, dtype in _DTYPES.items()}

# The exceptions that a damaged pickle or archive can cause below.
BROKEN = (
  *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
  *(MemoryError, RecursionError, EOFError, NotImplementedError, RuntimeError),
  *(OSError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError),
)


def read(path: pathlib.Path) -> Any:
  """Reads a file that `torch.save` wrote.

  Returns:
    The saved object, made of dicts (also for OrderedDict), lists, tuples, numbers,
    strings, None, and read-only NumPy arrays in place of tensors. bfloat16 tensors are
    converted to float32.

  Raises:
    UserError: the file is damaged, or contains more than containers and tensors.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      _check_sizes(archive, path.stat().st_size)
      storages = _Storages(archive)
      return _Unpickler(_checked(storages.program()), storages).load()
  except BROKEN as e:
    reason = " ".join(str(e).split())[:200] or type(e).__name__
    raise UserError(f"{path}: not a readable torch checkpoint ({reason})") from e


def _check_sizes(archive: zipfile.ZipFile, file_size: int) -> None:
  """Rejects an archive that unpacks to more bytes than the file has."""
  entries = archive.infolist()
  if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
    raise ValueError("its entries are compressed; torch.save never compresses")
  if sum(entry.file_size for entry in entries) > file_size:
    raise ValueError("its entries claim more bytes than the file has")


class _Storages:
  """The storages of an archive by key; each is read once."""

  def __init__(self, archive: zipfile.ZipFile):
    names = archive.namelist()
    roots = [n[:-8] for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(roots) != 1:
      raise ValueError(f"it has {len(roots)} entries <name>/data.pkl, expected 1")
    self._archive = archive
    (self._root,) = roots
    self._read: dict[tuple[str, np.dtype], np.ndarray] = {}
    order = self._root + "byteorder"
    is_big = order in names and archive.read(order) == b"big"
    self._byte_order: Literal[">", "<"] = ">" if is_big else "<"

  def program(self) -> bytes:
    """The pickle."""
    return self._archive.read(f"{self._root}data.pkl")

  def get(self, dtype: np.dtype, key: str, size: int) -> np.ndarray:
    """Returns the elements (size,) of storage `key`."""
    if (key, dtype) not in self._read:
      content = self._archive.read(f"{self._root}data/{key}")
      array = np.frombuffer(content, dtype.newbyteorder(self._byte_order))
      wide = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
      self._read[key, dtype] = array.astype(wide, copy=False)
    storage = self._read[key, dtype]
    if storage.size != size:
      raise ValueError(f"storage {key} has {storage.size} elements, not {size}")
    return storage


_INSTRUCTIONS = {
  *("PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE"),
  *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
  *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"),
  *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
  *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
  *("GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD"),
}
_FUNCTIONS = {
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
}


def _checked(program: bytes) -> bytes:
  """Returns a pickle without its frames, made only of the instructions above.

  The other instructions include the extension registry, which bypasses `find_class`,
  and some that allocate whatever size the pickle claims. Frames are optional, and an
  instruction across the end of a frame is not the same to `genops` and `Unpickler`.
  """
  pieces, start = [], 0
  instructions: Iterator[tuple[Any, Any, Any]] = pickletools.genops(program)
  for opcode, argument, position in instructions:
    if opcode.name not in _INSTRUCTIONS:
      raise ValueError(f"the pickle instruction {opcode.name} is not allowed")
    if opcode.name == "LONG_BINPUT" and argument > len(program):  # allocates as much
      raise ValueError(f"the pickle has fewer than {argument} values to memoize")
    if opcode.name == "FRAME":
      pieces.append(program[start:position])
      start = position + 9
  return b"".join([*pieces, program[start:]])


class _Unpickler(pickle.Unpickler):
  """Builds containers and tensors; every other name is an error."""

  def __init__(self, program: bytes, storages: _Storages):
    super().__init__(io.BytesIO(program))
    self._storages = storages

  def find_class(self, module: str, name: str) -> "_Global":
    found = _Global(f"{module} {name}")
    if found.name not in _FUNCTIONS | _DTYPES.keys():
      raise ValueError(f"{module}.{name} is neither a tensor nor a plain container")
    return found

  def persistent_load(self, pid: Any) -> np.ndarray:
    kind, dtype, key, _device, size = pid
    name = _expect(dtype, _Global).name
    if _expect(kind, str) != "storage" or name not in _DTYPES:
      raise ValueError(f"expected the id of a storage, got {kind!r} of {name}")
    return self._storages.get(_DTYPES[name], _expect(key, str), _expect(size, int))


class _Global(NamedTuple):
  """A name in the pickle, in place of what torch would import.

  It must stay immutable, and must not be a NumPy dtype: the BUILD instruction sets
  attributes, and could reshape an array (`ndarray.__setstate__`) if it had a dtype.
  """

  name: str

  def __call__(self, *arguments: Any) -> Any:
    if self.name == "collections OrderedDict" and not arguments:
      return _StateDict()
    if self.name == "torch._utils _rebuild_parameter":
      return _expect(arguments[0], np.ndarray)
    if self.name == "torch._utils _rebuild_tensor_v2":
      return _tensor(*arguments[:4])
    raise ValueError(f"a call of {self.name.replace(' ', '.')} is not allowed")


class _StateDict(dict):
  """Stands for an OrderedDict."""

  def __setstate__(self, state: Any) -> None:
    """Ignores the attributes of a state dict (`_metadata`)."""


def _expect(value: Any, kind: type) -> Any:
  if not isinstance(value, kind):
    raise ValueError(f"expected a {kind.__name__}, got a {type(value).__name__}")
  return value


def _tensor(storage: Any, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
  """Returns a view of a storage; strides and offset count elements, as in torch."""
  numbers = (offset, *shape, *strides)
  if not all(isinstance(n, int) and n >= 0 for n in numbers):
    raise ValueError("offset, shape and strides of a tensor must be natural numbers")
  _expect(storage, np.ndarray)
  size = math.prod(shape)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  # A tensor with stride 0 could claim any size.
  if size and (last >= storage.size or size > storage.size):
    raise ValueError(
      f"a tensor of shape {shape} exceeds its storage of {storage.size} elements"
    )
  if not size:
    return np.empty(shape, storage.dtype)
  strides = tuple(s * storage.itemsize for s in strides)
  return as_strided(storage[offset:], shape, strides, writeable=False)


def write(path: pathlib.Path, content: Any) -> None:
  """Writes a file that `torch.load` reads, including with `weights_only=True`.

  Args:
    path: the file; it appears only when it is complete.
    content: dicts, OrderedDicts, lists, tuples, int, float, bool, str, None, and NumPy
      arrays, which become tensors.

  Raises:
    UserError: the file cannot be written.
  """
  arrays: list[np.ndarray] = []
  program = b"\x80\x02" + b"".join(_opcodes(content, arrays)) + b"."
  with (
    files.replacing(path) as temporary,
    zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
  ):
    _write_entries(archive, program, arrays)


def _write_entries(archive: zipfile.ZipFile, program: bytes, arrays) -> None:
  archive.writestr("archive/data.pkl", program)
  archive.writestr("archive/byteorder", "little")
  for key, array in enumerate(arrays):
    archive.writestr(f"archive/data/{key}", _little_endian(array))
  archive.writestr("archive/version", "3\n")


def _little_endian(array: np.ndarray) -> bytes:
  return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _opcodes(value: Any, arrays: list[np.ndarray]) -> Iterator[bytes]:
  """Yields the pickle (protocol 2) of `value`; appends its arrays to `arrays`.

  `pickle.Pickler` can only write names that it can import, and torch may be missing.
  """
  if value is None or isinstance(value, bool):
    yield b"N" if value is None else b"\x88" if value else b"\x89"
  elif isinstance(value, int):
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    yield b"\x8a" + bytes([len(digits)]) + digits
  elif isinstance(value, float):
    yield b"G" + struct.pack(">d", value)
  elif isinstance(value, str):
    text = value.encode()
    yield b"X" + struct.pack("<I", len(text)) + text
  elif isinstance(value, np.ndarray):
    yield from _tensor_opcodes(value, arrays)
  elif isinstance(value, dict):
    yield b"ccollections\nOrderedDict\n)R(" if isinstance(value, OrderedDict) else b"}("
    for pair in value.items():
      for item in pair:
        yield from _opcodes(item, arrays)
    yield b"u"
  elif isinstance(value, list | tuple):
    yield b"](" if isinstance(value, list) else b"("
    for item in value:
      yield from _opcodes(item, arrays)
    yield b"e" if isinstance(value, list) else b"t"
  else:
    raise TypeError(f"cannot write a {type(value).__name__} to a torch checkpoint")


def _tensor_opcodes(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
  """Yields a call of `_rebuild_tensor_v2`; each array has its own storage."""
  key = str(len(arrays))
  arrays.append(array)
  strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
  yield b"ctorch._utils\n_rebuild_tensor_v2\n(("
  yield from _opcodes("storage", arrays)
  yield "c{}\n{}\n".format(*_STORAGE_OF[array.dtype].split()).encode()
  for item in (key, "cpu", array.size):
    yield from _opcodes(item, arrays)
  yield b"tQ"
  for item in (0, array.shape, tuple(strides), False, OrderedDict()):
    yield from _opcodes(item, arrays)
  yield b"tR"
