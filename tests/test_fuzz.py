"""Damaged files for every reader of external files: it must return a value or raise a
one-line UserError, quickly and without allocating much memory.

`READERS` lists the readers. `test_torch_zip.py` and `test_openpose.py` test the grammar
of their formats in more depth.
"""

import json
import pathlib
import resource
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import data_prep_helpers
import hypothesis
import numpy as np
import packs
import pytest
import soundfile
import tiny
from hypothesis import strategies as st

from data_prep import media, workspace
from sdt_jax import audio_file, methods, speakers, workdir
from sdt_jax import config as config_lib
from sdt_jax.data import pack
from sdt_jax.errors import UserError
from sdt_jax.evaluation import report
from sdt_jax.exports import openpose
from sdt_jax.interop import original, torch_file, torch_zip
from sdt_jax.templates import sources

# The same examples in every run.
_settings = hypothesis.settings(
  max_examples=150, deadline=None, derandomize=True, database=None
)
_SPEAKER = speakers.published("oliver")


class Reader(NamedTuple):
  """The name of a file, a function that writes a valid one, and the reader to test."""

  file: str
  write: Callable[[pathlib.Path], Any]
  read: Callable[[pathlib.Path], Any]


def _workdir(path: pathlib.Path) -> None:
  workdir.create(path.parent, tiny.config("data"), _SPEAKER, ["a/1", "a/2"])
  (path.parent / workdir.METRICS).write_text('{"step": 1, "split": "train"}\n' * 3)


def _read_config(path: pathlib.Path) -> None:
  methods.build(workdir.read_config(path.parent), steps_per_epoch=3)


def _checkpoint(path: pathlib.Path) -> None:
  """A checkpoint in the format of the original, with only some of its tensors."""
  model = {name: np.ones((4, 4, 3), np.float32) for name in _TENSORS}
  torch_zip.write(path, {"epoch": 1, "step": 2, "model_state_dict": model})


def _to_config(content: Any) -> None:
  """Imports the content of a .pth file, up to the config of the run."""
  model = original.parse(content).model
  config = config_lib.default()
  original.kind(model)
  config.update_from_flattened_dict(original.config_fields(model, config))
  methods.check(config)


_TENSORS = [
  *(f"netG.audio_encoder.specgram_encoder_2d.{i}.0.conv.weight" for i in range(4)),
  *("netG.unet.e0.conv.weight", "netG.unet.e1.conv.weight", "clips_code"),
  *("ae.encoder.blocks.0.conv.weight", "ae.encoder.blocks.6.conv.weight"),
]


def _openpose(path: pathlib.Path) -> None:
  path.write_text(json.dumps(openpose.to_json(data_prep_helpers.person()[0])))


def _sound(path: pathlib.Path) -> None:
  rate = 16_000 if path.suffix == ".wav" else 22_050
  soundfile.write(path, packs.sound(0, 4000), rate)


def _csv(path: pathlib.Path) -> None:
  packs.write_csv(path, [["train", 0, 64, "a", "a.npz", "", "a", "z"]] * 2)


def _video(path: pathlib.Path) -> None:
  sound = data_prep_helpers.noise(0.2)
  data_prep_helpers.write_video(path, [0, 0.1, 0.2], sound=sound)


def _keypoints(path: pathlib.Path) -> None:
  keypoints = np.zeros((5, 3, 137), np.float32)
  np.savez(path, keypoints=keypoints, origin=np.zeros((5, 137), np.int8))


READERS = {
  "clip of a pack": Reader(
    "a.npz", packs.write_clip, lambda path: pack.read_clip(path, "zoe/a")
  ),
  "csv of a pack": Reader(
    "zoe/clips.csv", _csv, lambda path: pack.read_index(path.parents[1], "zoe")
  ),
  "template": Reader(
    "a.npz",
    lambda path: np.savez(path, template=np.ones((2, 4))),
    lambda path: sources.choose(str(path), np.zeros((3, 4), np.float32)),
  ),
  "OpenPose JSON": Reader("a_0_keypoints.json", _openpose, openpose.read_openpose_file),
  "pth": Reader("a.pth", _checkpoint, lambda path: _to_config(torch_file.read(path))),
  "pth without torch": Reader(
    "a.pth", _checkpoint, lambda path: _to_config(torch_zip.read(path))
  ),
  "sound": Reader("a.wav", _sound, audio_file.load_audio),
  "compressed sound": Reader("a.flac", _sound, audio_file.load_audio),
  "list of sounds": Reader(
    "a.txt",
    lambda path: path.write_text(f"{path.name}\n# none\n"),
    audio_file.find_audio_files,
  ),
  "config.json": Reader(workdir.CONFIG, _workdir, _read_config),
  "speaker.json": Reader(
    workdir.SPEAKER, _workdir, lambda path: workdir.read_speaker(path.parent)
  ),
  "clips.txt": Reader(
    workdir.CLIPS, _workdir, lambda path: workdir.check_clips(path.parent, ["a/1", "b"])
  ),
  "metrics.jsonl": Reader(
    workdir.METRICS, _workdir, lambda path: workdir.read_metrics(path.parent)
  ),
  "row of a report": Reader(
    "report_row.json",
    lambda path: path.write_text('{"scores": {"l1": 1.0}, "seconds": 2.0}'),
    report.read_row,
  ),
  "video": Reader("a.mp4", _video, media.probe),
  "keypoints of a stage": Reader("clean.npz", _keypoints, workspace.read_keypoints),
  "notes of a stage": Reader(
    "clips.json",
    lambda path: workspace.write_json(path, {"kept": [0, 5], "dropped": {}}),
    lambda path: workspace.read_json(path, "kept", "dropped"),
  ),
}

_AT = st.floats(0, 1)
_EDITS = st.lists(
  st.tuples(st.sampled_from(["set", "insert", "cut out"]), _AT, st.binary(max_size=9)),
  max_size=6,
)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
  """Random bytes, or valid bytes with random edits and possibly a truncated end."""
  if draw(st.integers(0, 5)) == 0:
    return draw(st.binary(max_size=200))
  content = bytearray(good)
  for kind, place, changed in draw(_EDITS):
    at = int(place * len(content))
    size = {"set": len(changed), "insert": 0, "cut out": 16 * len(changed)}[kind]
    content[at : at + size] = b"" if kind == "cut out" else changed
  kept = draw(st.none() | _AT)
  return bytes(content if kept is None else content[: int(kept * len(content))])


def _check(read: Callable[[Any], Any], material: Any) -> None:
  complaint = "none"
  try:
    read(material)
  except UserError as e:
    complaint = str(e)
  assert complaint
  assert "\n" not in complaint


def _good(folder: pathlib.Path, name: str) -> pathlib.Path:
  """A good file for a reader."""
  path = folder / READERS[name].file
  path.parent.mkdir(exist_ok=True)
  READERS[name].write(path)
  return path


def _try(
  name: str,
  path: pathlib.Path,
  contents: st.SearchStrategy,
  write: Callable[[Any], object],
) -> None:
  """Writes every content to the path and reads it."""

  @_settings
  @hypothesis.given(contents)
  def run(content: Any) -> None:
    write(content)
    _check(READERS[name].read, path)

  run()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_a_user_error(tmp_path, name):
  path = _good(tmp_path, name)
  _check(READERS[name].read, path)
  _try(name, path, damaged(path.read_bytes()), path.write_bytes)


# Well-formed JSON with invalid values.

_VALUES = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.sampled_from([10**30, -1, 2**31])
  | st.floats()
  | st.text(max_size=5)
  | st.sampled_from(["", "items", "a.b", "\0"]),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.just("items"), inner, max_size=3)
  ),
  max_leaves=5,
)


@st.composite
def with_other_values(draw: st.DrawFn, content: Any) -> Any:
  """JSON with one or two values at any depth replaced, left out or added."""
  content = json.loads(json.dumps(content))
  for _ in range(draw(st.integers(1, 2))):
    inner = content
    while isinstance(inner, dict) and inner:
      key = draw(st.sampled_from(sorted(inner)))
      if not isinstance(inner[key], dict) or draw(st.integers(0, 3)) == 0:
        change = draw(st.sampled_from(["replace", "leave out", "add"]))
        value = draw(_VALUES)
        if change == "leave out":
          del inner[key]
        else:
          inner[key if change == "replace" else draw(st.text(max_size=4))] = value
        break
      inner = inner[key]
  return content


@pytest.mark.parametrize(
  "name",
  [
    *("config.json", "speaker.json", "OpenPose JSON", "row of a report"),
    "notes of a stage",
  ],
)
def test_json_with_other_values_is_a_user_error(tmp_path, name):
  path = _good(tmp_path, name)
  contents = with_other_values(json.loads(path.read_text())).map(json.dumps)
  _try(name, path, contents, path.write_text)


_DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "?", "c8", "U3", "S2"])
_SHAPES = st.sampled_from(
  [(), (0,), (4,), (2, 4), (68_266,), (64, 3, 137), (5, 3, 137), (5, 137), (3, 0, 4)]
)
_FILLS = st.sampled_from([0, 1, -1, np.nan, np.inf, 1e300])


@st.composite
def any_array(draw: st.DrawFn) -> np.ndarray:
  dtype = np.dtype(draw(_DTYPES))
  with np.errstate(all="ignore"):
    fill = np.full((), draw(_FILLS)).astype("f8")
    return np.full(draw(_SHAPES), np.nan_to_num(fill) if dtype.kind in "iu" else fill
                   ).astype(dtype)  # fmt: skip


@pytest.mark.filterwarnings("error:::sdt_jax")
@pytest.mark.parametrize(
  ("name", "keys"),
  [
    ("clip of a pack", ("pose", "audio")),
    ("template", ("template",)),
    ("keypoints of a stage", ("keypoints", "origin")),
  ],
)
def test_other_arrays_are_a_user_error(tmp_path, name, keys):
  path = _good(tmp_path, name)
  with np.load(path) as npz:
    good = dict(npz)
  changes = st.dictionaries(st.sampled_from(keys), any_array(), min_size=1)
  _try(name, path, changes, lambda changed: np.savez(path, **(good | changed)))


_TENSOR = st.builds(
  np.zeros,
  st.lists(st.integers(0, 4), max_size=4).map(tuple),
  st.sampled_from([np.float32, np.int64]),
)
_CONTENT = st.fixed_dictionaries(
  {},
  optional={
    "epoch": st.integers() | _VALUES,
    "step": st.integers(0, 9) | _VALUES,
    "model_state_dict": _VALUES
    | st.dictionaries(st.sampled_from(_TENSORS), _TENSOR | _VALUES),
    "optimizerG_state_dict": _VALUES,
  },
)


@_settings
@hypothesis.given(_CONTENT | _VALUES)
def test_any_content_of_a_pth_is_a_user_error(content):
  _check(_to_config, content)


@pytest.mark.parametrize("count", [10**8, 10**10, 10**12, 10**18])
@pytest.mark.parametrize("size", [None, 2**31])
@pytest.mark.parametrize("name", ["clip of a pack", "template", "keypoints of a stage"])
def test_a_header_that_announces_too_much_costs_nothing(tmp_path, name, size, count):
  reader = READERS[name]
  path = tmp_path / reader.file
  text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}\n"
  header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
  with zipfile.ZipFile(path, "w") as archive:
    for key in ("pose", "audio", "template", "keypoints", "origin"):
      archive.writestr(f"{key}.npy", header)
      archive.getinfo(f"{key}.npy").file_size = size or len(header)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UserError):
    reader.read(path)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 50_000  # kB
