"""The zip format of `torch.save`, read and written without torch.

The archive holds `<name>/data.pkl`, a pickle in which every tensor names a storage, and
`<name>/data/<key>`, the bytes of each storage. A pickle is a program, and Python's
unpickler lets it call what it likes. Here a small machine runs it instead, which can
build containers, numbers, text and tensors, and has no instruction for anything else.
"""

import math
import pathlib
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
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

# What a broken pickle or archive makes the code below raise.
BROKEN = (
  *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
  *(MemoryError, RecursionError, EOFError, NotImplementedError, RuntimeError),
  *(OSError, struct.error, zipfile.BadZipFile),
)


def read(path: pathlib.Path) -> Any:
  """Content of a file.

  Returns:
    What was saved: dicts (also for OrderedDict), lists, tuples, numbers, text, None,
    and read-only NumPy arrays for tensors; bfloat16 is widened to float32.

  Raises:
    UserError: the file is damaged, or asks for more than containers and tensors.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      _check_sizes(archive, path.stat().st_size)
      storages = _Storages(archive)
      return _Machine(storages).run(storages.program())
  except BROKEN as e:
    reason = " ".join(str(e).split())[:200] or type(e).__name__
    raise UserError(f"{path}: not a readable torch checkpoint ({reason})") from e


def _check_sizes(archive: zipfile.ZipFile, file_size: int) -> None:
  """Refuses an archive whose content could be larger than itself."""
  entries = archive.infolist()
  if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
    raise ValueError("its entries are compressed, which torch.save never does")
  if sum(entry.file_size for entry in entries) > file_size:
    raise ValueError("its entries claim more bytes than the file has")


class _Storages:
  """The storages of an archive by key; each is read once."""

  def __init__(self, archive: zipfile.ZipFile):
    programs = [n for n in archive.namelist() if n.count("/") == 1 and _is_program(n)]
    if len(programs) != 1:
      raise ValueError(f"it has {len(programs)} entries <name>/data.pkl, expected 1")
    self._archive = archive
    self._root = programs[0].removesuffix("data.pkl")
    self._read: dict[tuple[str, np.dtype], np.ndarray] = {}
    order = self._root + "byteorder"
    is_big = order in archive.namelist() and archive.read(order) == b"big"
    self._byte_order: Literal[">", "<"] = ">" if is_big else "<"

  def program(self) -> bytes:
    """The pickle."""
    return self._archive.read(f"{self._root}data.pkl")

  def get(self, dtype: np.dtype, key: str, size: int) -> np.ndarray:
    """(size,) the storage `key`."""
    if (key, dtype) not in self._read:
      content = self._archive.read(f"{self._root}data/{key}")
      array = np.frombuffer(content, dtype.newbyteorder(self._byte_order))
      wide = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
      self._read[key, dtype] = array.astype(wide, copy=False)
    storage = self._read[key, dtype]
    if storage.size != size:
      raise ValueError(f"storage {key} has {storage.size} elements, not {size}")
    return storage


def _is_program(name: str) -> bool:
  return name.endswith("/data.pkl")


class _Global(NamedTuple):
  """A name that the pickle gives in place of a value."""

  name: str


_ADMITTED = {
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
  *_DTYPES,
}
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXT = {
  *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
  *("BINUNICODE", "SHORT_BINUNICODE"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = {"PROTO", "FRAME", "STOP"}


class _Machine:
  """Runs a pickle; each method below is one instruction of it."""

  def __init__(self, storages: _Storages):
    self._storages = storages
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self._do: dict[str, Callable[[Any], None]] = {
      "MARK": lambda _: self._stack.append(_MARK),
      "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
      "APPEND": lambda _: self._append([self._stack.pop()]),
      "APPENDS": lambda _: self._append(self._pop_to_mark()),
      "SETITEM": lambda _: self._set_items(self._pop(2)),
      "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
      "BINPUT": self._remember,
      "LONG_BINPUT": self._remember,
      "MEMOIZE": lambda _: self._remember(len(self._memo)),
      "BINGET": self._recall,
      "LONG_BINGET": self._recall,
      "GLOBAL": self._name,
      "STACK_GLOBAL": lambda _: self._name(" ".join(self._pop(2))),
      "BINPERSID": self._storage,
      "REDUCE": self._call,
      "BUILD": self._set_attributes,
    }

  def run(self, program: bytes) -> Any:
    """The value that the pickle leaves."""
    for opcode, argument, _ in pickletools.genops(program):
      name = opcode.name
      if name in _NUMBERS_AND_TEXT:
        self._stack.append(argument)
      elif name in _CONSTANTS:
        self._stack.append(_CONSTANTS[name])
      elif name in _EMPTY:
        self._stack.append(_EMPTY[name]())
      elif name in _SHORT_TUPLES:
        self._stack.append(tuple(self._pop(_SHORT_TUPLES[name])))
      elif name in self._do:
        self._do[name](argument)
      elif name not in _NO_EFFECT:
        raise ValueError(f"it has the pickle instruction {name}, which is not admitted")
    (value,) = self._stack
    return value

  def _pop(self, count: int) -> list[Any]:
    if len(self._stack) < count:
      raise ValueError("its pickle takes more than it has made")
    values = self._stack[-count:]
    del self._stack[-count:]
    return values

  def _pop_to_mark(self) -> list[Any]:
    values = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def _append(self, values: list[Any]) -> None:
    _expect(self._stack[-1], list).extend(values)

  def _set_items(self, values: list[Any]) -> None:
    pairs = zip(values[::2], values[1::2], strict=True)
    _expect(self._stack[-1], dict).update(pairs)

  def _remember(self, slot: int) -> None:
    self._memo[slot] = self._stack[-1]

  def _recall(self, slot: int) -> None:
    self._stack.append(self._memo[slot])

  def _name(self, name: str) -> None:
    if name not in _ADMITTED:
      dotted = name.replace(" ", ".")
      raise ValueError(f"it asks for {dotted}, which is no tensor or plain container")
    self._stack.append(_Global(name))

  def _storage(self, _) -> None:
    kind, dtype, key, _device, size = self._stack.pop()
    if kind != "storage":
      raise ValueError(f"it refers to a {kind!r}, expected a storage")
    name = _expect(dtype, _Global).name
    if name not in _DTYPES:
      raise ValueError(f"{name} is no kind of storage")
    self._stack.append(self._storages.get(_DTYPES[name], key, size))

  def _call(self, _) -> None:
    function, arguments = self._pop(2)
    self._stack.append(_build(_expect(function, _Global).name, *arguments))

  def _set_attributes(self, _) -> None:
    """Leaves out what a state dict carries besides its items (`_metadata`)."""
    target, _state = self._pop(2)
    self._stack.append(_expect(target, dict))


def _expect(value: Any, kind: type) -> Any:
  if not isinstance(value, kind):
    raise ValueError(f"its pickle treats a {type(value).__name__} as {kind.__name__}")
  return value


def _build(name: str, *arguments: Any) -> Any:
  """The objects that a checkpoint may hold besides literals."""
  if name == "collections OrderedDict" and not arguments:
    return {}
  if name == "torch._utils _rebuild_parameter":
    return _expect(arguments[0], np.ndarray)
  if name == "torch._utils _rebuild_tensor_v2":
    return _tensor(*arguments[:4])
  raise ValueError(f"it calls {name.replace(' ', '.')}, which is not admitted")


def _tensor(storage: Any, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
  """View of a storage; strides and offset count elements, as in torch."""
  numbers = (offset, *shape, *strides)
  if not all(isinstance(n, int) and n >= 0 for n in numbers):
    raise ValueError(f"a tensor has offset {offset}, shape {shape}, strides {strides}")
  _expect(storage, np.ndarray)
  size = math.prod(shape)
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  # An expanded tensor (stride 0) could be of any size.
  if size and (last >= storage.size or size > storage.size):
    raise ValueError(
      f"a tensor of shape {shape} reaches beyond its storage of {storage.size} elements"
    )
  if not size:
    return np.empty(shape, storage.dtype)
  strides = tuple(s * storage.itemsize for s in strides)
  return as_strided(storage[offset:], shape, strides, writeable=False)


def write(path: pathlib.Path, content: Any) -> None:
  """Writes a file that `torch.load` reads, also with `weights_only=True`.

  Args:
    path: the file; it appears once it is complete.
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
  """Pickle instructions (protocol 2) that make `value`; its arrays are collected."""
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
    raise TypeError(f"{type(value).__name__} has no place in a checkpoint")


def _tensor_opcodes(array: np.ndarray, arrays: list[np.ndarray]) -> Iterator[bytes]:
  """A call of `_rebuild_tensor_v2` on a storage of its own."""
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
