"""Reading and writing torch's zip format; rejecting hostile files."""

import copyreg
import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from sdt_jax.errors import UserError
from sdt_jax.interop import torch_file, torch_zip

RNG = np.random.default_rng(0)
CONTENT = {
  "epoch": 3,
  "numbers": [0, -1, 255, -129, 2**31 - 1, 2**40, 0.1, -2.5e300, True, False, None],
  "nested": ({"ä": ("x", [])}, (), {}),
  "model_state_dict": OrderedDict(
    float32=RNG.standard_normal((2, 3, 4)).astype(np.float32),
    float64=RNG.standard_normal(3),
    float16=RNG.standard_normal((2, 2)).astype(np.float16),
    int64=np.arange(-2, 3),
    uint8=np.arange(5, dtype=np.uint8),
    bool=np.array([True, False]),
    scalar=np.array(7, np.int64),
    empty=np.zeros((0, 3), np.float32),
    transposed=np.arange(6, dtype=np.float32).reshape(2, 3).T,
  ),
  "state": {0: {"step": 5}, 1: {}},
}


def assert_same(ours, theirs) -> None:
  if isinstance(theirs, dict):
    assert list(ours) == list(theirs)
    for key in theirs:
      assert_same(ours[key], theirs[key])
  elif isinstance(theirs, list | tuple):
    assert type(ours) is type(theirs)
    for a, b in zip(ours, theirs, strict=True):
      assert_same(a, b)
  elif isinstance(theirs, np.ndarray):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
  else:
    assert ours == theirs
    assert type(ours) is type(theirs)


def test_what_is_written_is_read_back(tmp_path):
  path = tmp_path / "deep" / "a.pth"
  torch_zip.write(path, CONTENT)
  assert_same(torch_zip.read(path), CONTENT)
  assert list(path.parent.iterdir()) == [path]
  torch_zip.write(path, [np.array([1.5, -2], ml_dtypes.bfloat16)])
  assert_same(torch_zip.read(path), [np.array([1.5, -2], np.float32)])  # is widened


def test_torch_reads_what_is_written(tmp_path):
  torch = pytest.importorskip("torch")
  torch_zip.write(tmp_path / "a.pth", CONTENT)
  for weights_only in (True, False):
    content = torch.load(tmp_path / "a.pth", weights_only=weights_only)
    assert type(content["model_state_dict"]) is OrderedDict
    assert_same(torch_file._to_numpy(content, torch), CONTENT)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_writes_is_read(tmp_path, protocol):
  torch = pytest.importorskip("torch")
  norm = torch.nn.BatchNorm1d(3)
  norm(torch.randn(4, 3)).sum().backward()
  adam = torch.optim.Adam(norm.parameters())
  adam.step()
  whole = torch.arange(24.0).reshape(4, 6)
  content = {
    "model": norm.state_dict(),
    "parameters": list(norm.parameters()),
    "adam": adam.state_dict(),
    "view": whole[1:3, ::2].T,
    "shared": [whole[0], whole[:, 0]],
    "half": whole.half(),
    "bfloat16": whole.bfloat16(),
  }
  torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol)
  expected = torch_file._to_numpy(content, torch)
  assert_same(torch_zip.read(tmp_path / "a.pth"), expected)


def archive(path: pathlib.Path, program: bytes, *, compress=zipfile.ZIP_STORED, **data):
  """Writes an archive of a hand-made pickle and storages; "s" has 4 floats."""
  entries = {"s": np.arange(4, dtype=np.float32).tobytes()} | data
  with zipfile.ZipFile(path, "w", compress) as f:
    f.writestr("archive/data.pkl", program)
    for key, content in entries.items():
      f.writestr(f"archive/data/{key}", content)
  return path


class _Calls:
  """An object that is pickled as a call of a function."""

  def __init__(self, function, *arguments):
    self._call = (function, arguments)

  def __reduce__(self):
    return self._call


TOUCH = _Calls(os.system, "touch touched")


def _text(text: bytes) -> bytes:
  return struct.pack("<BI", 88, len(text)) + text


TEXTS = [_text(t) for t in (b"storage", b"s", b"cpu")]
STORAGE = b"(" + TEXTS[0] + b"ctorch\nFloatStorage\n" + TEXTS[1] + TEXTS[2] + b"K\x04tQ"


def tensor(offset: int, shape: bytes, strides: bytes) -> bytes:
  head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
  return head + b"J" + struct.pack("<i", offset) + shape + strides + b"\x89NtR."


TENSOR = tensor(0, b"K\x04\x85", b"K\x01\x85")
FLOAT = b"\x80\x02ctorch\nFloatStorage\n"
FUNCTION = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
NAME = _text(b"name")
# A pair of a pair of ...: 64 objects, but 2**64 characters when printed.
GROWING = b"N" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(64))
MALICIOUS = {
  "os.system": pickle.dumps(TOUCH, 2),
  "os.system, protocol 4": pickle.dumps(TOUCH, 4),
  "eval": pickle.dumps(_Calls(eval, "__import__('os').system('touch touched')"), 2),
  "inside a dict": pickle.dumps({"a": [{"b": (TOUCH,)}]}, 2),
  "as a key": pickle.dumps({TOUCH: 1}, 2),
  "import only": b"\x80\x02csubprocess\nPopen\n.",
  "an attribute of an admitted name": b"\x80\x02ccollections\nOrderedDict.pop\n.",
  "instance": b"\x80\x02(X\x0d\x00\x00\x00touch touchedios\nsystem\n.",
  "object": b"\x80\x02(cos\nsystem\nX\x0d\x00\x00\x00touch touchedo.",
  "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
  "extension": b"\x80\x02\x82\x01.",
  "state of a function": FUNCTION + b"}b.",
  "state of a class": b"\x80\x02ccollections\nOrderedDict\n}b.",
  "state of a list": b"\x80\x02]}b.",
  "state of a tensor": TENSOR[:-1] + b"}b.",
  "attributes of a function": FUNCTION + b"N}" + NAME + b"Ns\x86b.",
  "attributes of a storage type": FLOAT + b"N}" + NAME + b"Ns\x86b.",
  "another buffer for a tensor": (
    TENSOR[:-1] + b"(K\x01K\x09\x85ctorch\nFloatStorage\n\x89" + _text(b"") + b"tb."
  ),
  "call of a string": b"\x80\x02X\x01\x00\x00\x00a)R.",
  "call of a storage type": FLOAT + b")R.",
  "arguments of a dict": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
  "persistent id of another kind": b"\x80\x02(X\x04\x00\x00\x00evalNNNNtQ.",
  "persistent id as text": b"\x80\x02Pstorage\n.",
  "persistent number": b"\x80\x02K\x01Q.",
  "storage of no known type": STORAGE.replace(b"ctorch\nFloatStorage\n", b"N") + b".",
  "storage of a wrong type": (
    STORAGE.replace(b"torch\nFloatStorage", b"collections\nOrderedDict") + b"."
  ),
  "storage outside": STORAGE.replace(TEXTS[1], b"X\x04\x00\x00\x00../s") + b".",
  "storage of a wrong size": STORAGE.replace(b"K\x04", b"K\x05") + b".",
  "storage twice as wide": STORAGE.replace(b"Float", b"Double") + b".",
  "tensor beyond its storage": tensor(0, b"K\x05\x85", b"K\x01\x85"),
  "tensor behind its storage": tensor(4, b"K\x01\x85", b"K\x01\x85"),
  "tensor before its storage": tensor(-1, b"K\x01\x85", b"K\x01\x85"),
  "negative stride": tensor(3, b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
  "negative size": tensor(0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
  "sizes without strides": tensor(0, b"K\x02K\x02\x86", b"K\x01\x85"),
  "expanded without end": tensor(0, b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"),
  "tensor of no storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(}K\x00)))tR.",
  "bytearray of 4 EiB": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x3f.",
  "nothing on the stack": b"\x80\x020.",
  "instance of an allowed name": b"\x80\x02(icollections\nOrderedDict\n.",
  "object of an allowed name": b"\x80\x02(ccollections\nOrderedDict\no.",
  "storage whose key grows": STORAGE.replace(TEXTS[1], GROWING) + b".",
  "storage whose size grows": STORAGE.replace(b"K\x04", GROWING) + b".",
  "persistent id that grows": b"(" + GROWING + b"ctorch\nFloatStorage\nNNNtQ.",
  "tensor whose shape grows": tensor(0, GROWING + b"\x85", b"K\x01\x85"),
  # The C unpickler would run the text behind the frame: INT 7, STOP.
  "text across the end of a frame": (
    b"\x80\x04\x95" + struct.pack("<Q", 3) + _text(b"\0\0I7\n.") + b"."
  ),
  "key that takes forever": b"\x80\x02}" + GROWING + b"Ns.",
  "key that overflows the C stack": b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.",
  "keys of a tensor": TENSOR[:-1] + b"K\x00K\x01s.",
  "no end": b"\x80\x02N",
  "empty": b"",
  "list as key": b"\x80\x02}]Ns.",
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_pickle_that_wants_more_is_refused(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  path = archive(tmp_path / "a.pth", MALICIOUS[name])
  reason = r"subprocess\.Popen is neither.*" if name == "import only" else ".+"
  match = rf"a\.pth: not a readable torch checkpoint \({reason}\)$"
  with pytest.raises(UserError, match=match):
    torch_zip.read(path)
  assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_registered_extension_is_refused(tmp_path):
  """An extension that was used once in this process bypasses `find_class`."""
  copyreg.add_extension("builtins", "list", 1)
  try:
    assert pickle.loads(pickle.dumps(list, 2)) is list
    path = archive(tmp_path / "a.pth", b"\x80\x02\x82\x01)R.")
    with pytest.raises(UserError, match="a pickle instruction that torch"):
      torch_zip.read(path)
  finally:
    copyreg.remove_extension("builtins", "list", 1)


def test_a_memo_of_16_gib_is_not_allocated(tmp_path):
  path = archive(tmp_path / "a.pth", b"\x80\x02Nr\xff\xff\xff\x7f.")
  assert torch_zip.read(path) is None


def test_attributes_of_a_state_dict_are_ignored(tmp_path):
  program = b"\x80\x02ccollections\nOrderedDict\n)R(K\x01K\x02u}" + NAME + b"Nsb."
  content = torch_zip.read(archive(tmp_path / "a.pth", program))
  assert content == {1: 2}
  assert not vars(content)


def test_whatever_follows_the_value_is_ignored(tmp_path):
  assert torch_zip.read(archive(tmp_path / "a.pth", b"\x80\x02NK\x01.junk")) == 1


def test_shared_and_strided_tensors_within_their_storage_are_read(tmp_path):
  path = archive(tmp_path / "a.pth", tensor(1, b"K\x02\x85", b"K\x02\x85"))
  assert_same(torch_zip.read(path), np.array([1, 3], np.float32))


def test_a_big_endian_file_is_read(tmp_path):
  path = tmp_path / "a.pth"
  with zipfile.ZipFile(path, "w") as f:
    f.writestr("x/data.pkl", TENSOR)
    f.writestr("x/byteorder", "big")
    f.writestr("x/data/s", np.arange(4, dtype=">f4").tobytes())
  np.testing.assert_array_equal(torch_zip.read(path), np.arange(4))


def test_compressed_entries_are_refused(tmp_path):
  bomb = bytes(10**7)
  path = archive(tmp_path / "a.pth", TENSOR, compress=zipfile.ZIP_DEFLATED, s=bomb)
  with pytest.raises(UserError, match="compressed"):
    torch_zip.read(path)


def test_entries_that_overlap_are_refused(tmp_path):
  """Many names for one part of the file, which would be read once for each name."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as f:
    f.writestr("archive/data.pkl", b"\x80\x02N.")
    f.writestr("archive/data/0", bytes(10_000))
    first = f.getinfo("archive/data/0")
    f.filelist.extend([first] * 20)
  (tmp_path / "a.pth").write_bytes(buffer.getvalue())
  with pytest.raises(UserError, match="more bytes than the file has"):
    torch_zip.read(tmp_path / "a.pth")


def test_two_programs_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.pth", "w") as f:
    for name in "ab":
      f.writestr(f"{name}/data.pkl", b"\x80\x02N.")
  with pytest.raises(UserError, match="2 entries"):
    torch_zip.read(tmp_path / "a.pth")


def test_a_damaged_storage_is_refused(tmp_path):
  path = tmp_path / "a.pth"
  array = RNG.standard_normal(1000).astype(np.float32)
  torch_zip.write(path, array)
  content = bytearray(path.read_bytes())
  content[content.index(array.tobytes()[:8]) + 500] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match="CRC"):
    torch_zip.read(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[pathlib.Path, bytes, bytes]:
  """A valid file, its bytes, and its pickle."""
  path = tmp_path_factory.mktemp("good") / "a.pth"
  torch_zip.write(path, CONTENT)
  with zipfile.ZipFile(path) as f:
    return path, path.read_bytes(), f.read("archive/data.pkl")


EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8)


def edited(content: bytes, edits) -> bytes:
  changed = bytearray(content)
  for at, byte in edits:
    changed[at % len(changed)] = byte
  return bytes(changed)


def message(path: pathlib.Path) -> str:
  """The error message, "" for a file that can be read."""
  try:
    torch_zip.read(path)
  except UserError as e:
    return str(e)
  return ""


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(edits=EDITS, cut=st.integers(0, 10**6))
def test_any_damage_is_a_user_error(good, edits, cut):
  path, content, _ = good
  broken = path.with_name("broken.pth")
  broken.write_bytes(edited(content, edits)[: cut if cut < len(content) else None])
  assert "\n" not in message(broken)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(edits=EDITS)
def test_any_other_pickle_is_a_user_error(good, edits):
  path, _, program = good
  broken = path.with_name("other.pth")
  arrays = CONTENT["model_state_dict"].values()
  data = {str(i): a.tobytes() for i, a in enumerate(arrays)}
  archive(broken, edited(program, edits), **data)
  assert "\n" not in message(broken)


def test_what_torch_does_not_know_is_not_written(tmp_path):
  with pytest.raises(TypeError, match="set"):
    torch_zip.write(tmp_path / "a.pth", {1, 2})
  assert not list(tmp_path.iterdir())
