"""Reads and writes the zip format of `torch.save` without torch.

The archive contains `<name>/data.pkl`, a pickle in which every tensor refers to a
storage, and `<name>/data/<key>`, the bytes of each storage. A pickle is a program that
may import and call anything; `_Unpickler` says why it cannot here.
"""

import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

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
      return _Unpickler(archive).load()
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


_INSTRUCTIONS = (
  *("PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE"),
  *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
  *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"),
  *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS"),
  *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
  *("GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE"),
)


def _refuse(_: "_Unpickler") -> None:
  raise ValueError("it has a pickle instruction that torch.save does not write")


class _StateDict(dict):
  """An OrderedDict of the pickle."""


class _Unpickler(pickle._Unpickler):
  """Builds containers and tensors, and refuses everything else.

  A pickle is a program for a stack machine. `pickle._Unpickler`, unlike the C version,
  finds the code of each instruction in `dispatch`; here that has only `_INSTRUCTIONS`,
  which torch.save needs, and three replacements:

  - The constants and containers allocate no more than the pickle's own length.
  - GLOBAL and STACK_GLOBAL call `find_class`, which imports nothing but looks the name
    up in `_GLOBALS`. REDUCE calls what they found; nothing else on the stack is
    callable.
  - BUILD could set attributes, or reshape an array (`ndarray.__setstate__`). Here it
    drops the attributes of a state dict (`_metadata`) and takes no other object.
  - SETITEM and SETITEMS take only text and integers as keys, since hashing a nested
    tuple can take forever, or overflow the C stack.

  The refused instructions include those of the extension registry, which bypasses
  `find_class`, and BYTEARRAY8, which allocates whatever size the pickle claims.
  """

  stack: list
  pop_mark: Callable[[], list]
  dispatch: ClassVar[dict] = dict.fromkeys(range(256), _refuse) | {
    code: pickle._Unpickler.dispatch[code]
    for (code,) in (getattr(pickle, name) for name in _INSTRUCTIONS)
  }

  def __init__(self, archive: zipfile.ZipFile):
    names = archive.namelist()
    roots = [n[:-8] for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(roots) != 1:
      raise ValueError(f"it has {len(roots)} entries <name>/data.pkl, expected 1")
    (self._root,), self._archive = roots, archive
    super().__init__(io.BytesIO(archive.read(f"{self._root}data.pkl")))
    order = self._root + "byteorder"
    is_big = order in names and archive.read(order) == b"big"
    self._byte_order: Literal[">", "<"] = ">" if is_big else "<"
    self._storages: dict[tuple[str, np.dtype], np.ndarray] = {}

  def find_class(self, module: str, name: str) -> Any:
    if f"{module} {name}" not in _GLOBALS:
      raise ValueError(f"{module}.{name} is neither a tensor nor a plain container")
    return _GLOBALS[f"{module} {name}"]

  def persistent_load(self, pid: Any) -> np.ndarray:
    """Returns the elements (size,) of a storage, which is read once."""
    kind, dtype, key, _device, size = pid
    if _expect(kind, str) != "storage":
      raise ValueError(f"expected the id of a storage, got {kind!r}")
    key = _expect(key, str), _expect(dtype, np.dtype)
    if key not in self._storages:
      content = self._archive.read(f"{self._root}data/{key[0]}")
      array = np.frombuffer(content, dtype.newbyteorder(self._byte_order))
      wide = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
      self._storages[key] = array.astype(wide, copy=False)
    storage = self._storages[key]
    if storage.size != _expect(size, int):
      raise ValueError(f"storage {key[0]} has {storage.size} elements, not {size}")
    return storage

  def _build(self) -> None:
    del self.stack[-1]
    _expect(self.stack[-1], _StateDict)

  def _set_item(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self._update([key, value])

  def _set_items(self) -> None:
    self._update(self.pop_mark())

  def _update(self, items: list) -> None:
    target = _expect(self.stack[-1], dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
      target[_expect(key, str | int)] = value

  dispatch[pickle.BUILD[0]] = _build
  dispatch[pickle.SETITEM[0]] = _set_item
  dispatch[pickle.SETITEMS[0]] = _set_items


def _expect(value: Any, kind: Any) -> Any:
  if not isinstance(value, kind):
    name = getattr(kind, "__name__", kind)
    raise ValueError(f"expected a {name}, got a {type(value).__name__}")
  return value


def _tensor(storage, offset: int, shape: tuple, strides: tuple, *_) -> np.ndarray:
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


_GLOBALS: dict[str, Any] = _DTYPES | {
  "collections OrderedDict": lambda: _StateDict(),
  "torch._utils _rebuild_tensor_v2": _tensor,
  "torch._utils _rebuild_parameter": lambda data, *_: _expect(data, np.ndarray),
}


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
