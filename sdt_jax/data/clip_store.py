"""Random access to the clips of a split: a few long arrays on disk, memory-mapped.

The arrays are built from the TFDS files of a data set and stored beside them. A split
has `audio` (S,) and the arrays with one value per frame (F, ...), in which recordings
follow one another, and `clips`, which lists where each clip starts in them.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import tqdm

from sdt_jax import audio, speakers
from sdt_jax.data.recordings import CLIP_SAMPLES, Example
from sdt_jax.errors import UserError

Layout = dict[str, tuple[tuple[int, ...], type[np.generic]]]
"""Array name -> shape of one sample or frame, type."""

_COLUMNS = ("clip_id", "video", "start", "frame_start", "audio_start")

_PREFIX = "cut-"  # of folder names; a new prefix would orphan arrays on users' disks
_TEMPORARY = ".building-"  # prefix of folders of arrays that are being written
_DAY_S = 24 * 3600


class Size(NamedTuple):
  """Number of clips, frames and samples in a split."""

  clips: int = 0
  frames: int = 0
  samples: int = 0

  def length(self, key: str) -> int:
    """Length of the array with this name."""
    return self.samples if key == "audio" else self.frames

  def plus(self, recording: Example) -> "Size":
    """The size of the split with one more recording."""
    return Size(
      self.clips + len(recording["start"]),
      self.frames + len(recording["poses"]),
      self.samples + len(recording["audio"]),
    )


class ClipStore(Sequence[Example]):
  """The clips of a split by row.

  An example has `audio` (68266,), the arrays of its 64 frames, `clip_id` and `video`
  as bytes, and `start`; its arrays are read-only slices of those of the split.

  Attributes:
    audio: (S,) float32.
    frames: name -> (F, ...), including `poses` (F, dims, joints) and `detected` (F,
      joints).
    clips: (N,) records of `clip_id`, `video`, `start`, and the indices of the first
      frame of the clip, `frame_start`, and of its first sample, `audio_start`.
    others: with several speakers, the statistics to normalise with of number 1, 2, ...
      in `frames["speaker"]` (F,); set by `pipeline.build`.
  """

  def __init__(self, arrays: dict[str, np.ndarray]):
    self.frames = dict(arrays)
    self.audio, self.clips = self.frames.pop("audio"), self.frames.pop("clips")
    self.others: list[speakers.Speaker] = []

  def __len__(self) -> int:
    return len(self.clips)

  def __getitem__(self, row: int) -> Example:  # pyright: ignore
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of {len(self)} clips")
    clip = self.clips[row]
    frame, sample = clip["frame_start"], clip["audio_start"]
    return {
      "audio": self.audio[sample : sample + CLIP_SAMPLES],
      **{k: v[frame : frame + audio.CLIP_FRAMES] for k, v in self.frames.items()},
      "clip_id": bytes(clip["clip_id"]),
      "start": int(clip["start"]),
      "video": bytes(clip["video"]),
    }


def open_or_build(
  folder: str | os.PathLike,
  split: str,
  recordings: Sequence[Example],
  layout: Layout,
  size: Size,
) -> ClipStore:
  """Opens the clips of a split; builds its arrays if missing, stale or damaged.

  Args:
    folder: the folder of the built data set. If another data set is built there later,
      it gets its own arrays.
    split: name of the split.
    recordings: the split, as yielded by `recordings.join`, but with text as bytes.
    layout: layout of the arrays.
    size: total size of the recordings.

  Raises:
    UserError: the arrays cannot be written.
  """
  content = pathlib.Path(folder, "metadata.json").read_bytes()
  path = pathlib.Path(folder, f"{_PREFIX}{hashlib.sha256(content).hexdigest()[:12]}")
  try:
    return _open(path, split, layout, size)
  except Exception:  # NumPy raises many kinds of errors for bad files
    pass
  try:
    _build(path, split, recordings, layout, size)
    return _open(path, split, layout, size)
  except OSError as e:
    raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
  except (RuntimeError, ValueError) as e:  # from array_record and from `_open`
    reason = str(e).strip().partition("\n")[0]
    raise UserError(
      f"{folder}: the data set is damaged ({reason}); delete it to rebuild it"
    ) from e


def _open(path: pathlib.Path, split: str, layout: Layout, size: Size) -> ClipStore:
  arrays = {
    key: np.asarray(np.load(path / f"{split}-{key}.npy", mmap_mode="r"))
    for key in ("clips", *layout)
  }
  for key, (shape, dtype) in layout.items():
    if arrays[key].shape != (size.length(key), *shape) or arrays[key].dtype != dtype:
      raise ValueError(f"{path}: {key} does not match the data set")
  clips = arrays["clips"]
  if clips.shape != (size.clips,) or clips.dtype.names != _COLUMNS:
    raise ValueError(f"{path}: the list of clips does not match the data set")
  for column, total, length in (
    ("frame_start", size.frames, audio.CLIP_FRAMES),
    ("audio_start", size.samples, CLIP_SAMPLES),
  ):
    starts = clips[column]
    if starts.min() < 0 or starts.max() > total - length:
      raise ValueError(f"{path}: a clip exceeds the arrays")
  return ClipStore(arrays)


def _build(
  path: pathlib.Path,
  split: str,
  recordings: Sequence[Example],
  layout: Layout,
  size: Size,
) -> None:
  """Writes the arrays. Files are complete, even if processes write them in parallel."""
  path.mkdir(exist_ok=True)
  for leftover in path.glob(f"{_TEMPORARY}*"):  # from processes that were killed
    if time.time() - leftover.stat().st_mtime > _DAY_S:
      shutil.rmtree(leftover, ignore_errors=True)
  with tempfile.TemporaryDirectory(dir=path, prefix=_TEMPORARY) as temporary:
    folder = pathlib.Path(temporary)
    with contextlib.ExitStack() as stack:
      files = {}
      for key, (shape, dtype) in layout.items():
        file = stack.enter_context((folder / f"{split}-{key}.npy").open("wb"))
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        whole = (size.length(key), *shape)
        header = {"descr": descr, "fortran_order": False, "shape": whole}
        np.lib.format.write_array_header_1_0(file, header)
        files[key] = file
      parts = zip(*_write(files, recordings), strict=True)
      columns = [np.concatenate(part) for part in parts]
      types = [(k, c.dtype) for k, c in zip(_COLUMNS, columns, strict=True)]
    np.save(folder / f"{split}-clips.npy", np.rec.fromarrays(columns, dtype=types))
    for file in folder.iterdir():
      file.replace(path / file.name)


def _write(
  files: Mapping[str, BinaryIO], recordings: Sequence[Example]
) -> Iterator[tuple]:
  """Appends the arrays of each recording; yields the columns of its clips."""
  size = Size()
  for recording in tqdm.tqdm(recordings, "writing clip arrays", leave=False, delay=2):
    for key, file in files.items():
      file.write(recording[key])
    yield (
      recording["clip_id"],
      [recording["video"]] * len(recording["clip_id"]),
      recording["start"],
      size.frames + recording["first_frame"],
      size.samples + recording["first_sample"],
    )
    size = size.plus(recording)
