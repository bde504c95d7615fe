"""From a data set on disk to batches, in three steps:

    built = build(...)                                  build it if needed, open it
    split = open_split(built.sources["train"], ...)     poses in the form of the model
    for batch in train_batches(split, ...): ...         or eval_batches

A batch is a dict of NumPy arrays: `audio` (b, 68266) float32, `poses` (b, 64, 2, 121)
float32, normalised, and `index` (b,) int32, the row of each clip in its split. `b` is
the share of one process. Which clips make up a step depends on the seed and the step
alone, so a run resumes by starting at its step; no state of an iterator is kept.
"""

import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from sdt_jax import audio, pose, speakers
from sdt_jax.data import cut, speech2gesture, synthetic
from sdt_jax.data.builder import Built
from sdt_jax.data.recordings import CLIP_SAMPLES
from sdt_jax.errors import UserError

# Batches that wait between reading and the training step.
_BATCHES_AHEAD = 4

_FRAMES_AT_ONCE = 1024

# Published tables do not fit a pack whose mean pose lies further off than this, in
# published standard deviations; the tables of two speakers lie 0.35 to 6 apart.
MAX_MEAN_DEVIATION = 0.3

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)


def build(
  name: str,
  *,
  root: str | os.PathLike,
  speaker: str,
  data_dir: str | os.PathLike,
  num_train_clips: int,
  num_dev_clips: int,
  skip_bad_clips: bool = False,
) -> Built:
  """Builds a data set if it is not there, and opens it.

  Args:
    name: "speech2gesture" or "synthetic".
    root: speech2gesture: the folder that holds the speakers' folders.
    speaker: name of the speaker.
    data_dir: where the built data sets are kept.
    num_train_clips, num_dev_clips: synthetic: how many clips to make.
    skip_bad_clips: speech2gesture: leave bad clips out instead of stopping.

  Raises:
    UserError: the name is unknown, or what the builders raise.
  """
  if name == "speech2gesture":
    return speech2gesture.prepare(root, speaker, data_dir, skip_bad_clips)
  if name == "synthetic":
    return synthetic.prepare(speaker, num_train_clips, num_dev_clips, data_dir)
  raise UserError(f"dataset.name={name!r}; known: speech2gesture, synthetic")


def speaker_statistics(built: Built, mode: str) -> speakers.Speaker:
  """The statistics to normalise with.

  Args:
    built: the data set.
    mode: "published", the published tables; "pack", those of the train split; "auto",
      the published ones where there are some and they fit the train split.

  Raises:
    UserError: the mode is unknown, or nothing was published for this speaker.
  """
  if mode not in {"published", "pack", "auto"}:
    raise UserError(f"dataset.statistics={mode!r}; known: published, pack, auto")
  name = built.speaker
  if mode == "pack" or (mode == "auto" and name not in speakers.published_names()):
    _log.info("speaker %s: statistics of the train split", name)
    return built.statistics
  published = speakers.published(name)
  deviation = mean_deviation(built.statistics, published)
  fits = deviation < MAX_MEAN_DEVIATION
  taken = published if fits or mode == "published" else built.statistics
  _log.info(
    "speaker %s: %s statistics; the train split's mean pose lies %.2f published "
    "standard deviations from the published one (they fit below %.2f)",
    name,
    "published" if taken is published else "the train split's",
    deviation,
    MAX_MEAN_DEVIATION,
  )
  return taken


def mean_deviation(own: speakers.Speaker, reference: speakers.Speaker) -> float:
  """Mean over the hierarchical coordinates of |difference of means| / reference std."""
  table = reference.hierarchical
  return float(np.mean(np.abs(own.hierarchical.mean - table.mean) / table.std))


class Tracks(NamedTuple):
  """The N clips of a split as parts of arrays that many of them share.

  Attributes:
    audio: (S,) float32, 16 kHz.
    poses: (F, 2, 121) float32, normalised, in the form of the model.
    audio_start: (N,) int64, the first of the 68266 samples of each clip.
    frame_start: (N,) int64, the first of its 64 frames.
  """

  audio: np.ndarray
  poses: np.ndarray
  audio_start: np.ndarray
  frame_start: np.ndarray


class Split:
  """The clips of a split by row, in the form that a model trains on.

  Args:
    source: `Built.sources["train"]` or `["dev"]`.
    table: the statistics to normalise with.
    hierarchical: the form that it describes.

  Attributes:
    source: the clips as they are on disk.
  """

  def __init__(self, source: cut.Clips, table: pose.PoseTable, hierarchical: bool):
    self.source = source
    self._tracks = Tracks(
      audio=source.audio,
      poses=_normalized(source.frames["poses"], table, hierarchical),
      audio_start=source.clips["audio_start"].copy(),
      frame_start=source.clips["frame_start"].copy(),
    )
    self._sounds = _windows(self._tracks.audio, CLIP_SAMPLES)
    self._poses = _windows(self._tracks.poses, audio.CLIP_FRAMES)

  def __len__(self) -> int:
    return len(self.source)

  def clip_id(self, row: int) -> str:
    """The clip's name, e.g. "oliver/clips/npz/chemistry-35-99"."""
    return self.source.clips["clip_id"][row].decode()

  def read(self, rows: np.ndarray) -> Batch:
    """The batch of the clips in these rows (b,)."""
    return {
      "audio": self._sounds[self._tracks.audio_start[rows]],
      "poses": self._poses[self._tracks.frame_start[rows]],
      "index": rows.astype(np.int32),
    }

  def tracks(self) -> Tracks:
    """The whole split: the sound mapped from disk, the poses in memory."""
    return self._tracks


def _normalized(
  poses_px: np.ndarray, table: pose.PoseTable, hierarchical: bool
) -> np.ndarray:
  """(F, 2, 121) of the form; a part at a time, which fits the processor's cache."""
  poses = np.empty_like(poses_px)
  for i in range(0, len(poses), _FRAMES_AT_ONCE):
    part = slice(i, i + _FRAMES_AT_ONCE)
    poses[part] = pose.normalize(pose.to_form(poses_px[part], hierarchical), table)
  return poses


def _windows(array: np.ndarray, length: int) -> np.ndarray:
  """Item i is `array[i : i + length]`; no copy."""
  windows = np.lib.stride_tricks.sliding_window_view(array, length, axis=0)
  return np.moveaxis(windows, -1, 1)


def open_split(
  source: cut.Clips, speaker: speakers.Speaker, *, hierarchical: bool
) -> Split:
  """The clips of a split, with normalised poses.

  Args:
    source: `Built.sources["train"]` or `["dev"]`.
    speaker: the statistics to normalise with.
    hierarchical: the form of the poses.

  Raises:
    UserError: the speaker has no table of that form.
  """
  return Split(source, speaker.table(hierarchical), hierarchical)


def train_rows(num_clips: int, *, batch_size: int, seed: int) -> grain.MapDataset:
  """Which clips make up each step: item `step` is their rows, (batch_size,) int64.

  Every epoch of `num_clips // batch_size` steps has its own order; what is left over at
  its end is dropped.

  Args:
    num_clips: of the train split.
    batch_size: of all processes together.
    seed: of the order.

  Raises:
    UserError: the batch is larger than the split.
  """
  if batch_size > num_clips:
    raise UserError(
      f"batch_size={batch_size} is larger than the train split of {num_clips} clips"
    )
  rows = grain.MapDataset.range(num_clips).seed(seed).shuffle()
  return rows[: num_clips // batch_size * batch_size].repeat().batch(batch_size)


def train_batches(
  split: Split,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> Iterator[Batch]:
  """Endless batches from `start_step` on.

  A step is made of the clips that `train_rows` names, for any number of processes.

  Args:
    split: the clips.
    batch_size: of all processes together.
    seed: of the order.
    start_step: steps counted from the start of the training.
    process_index, process_count: which share of each batch to give.
    num_threads: that read ahead; 0 reads when asked.

  Raises:
    UserError: the batch is larger than the split, or the processes cannot share it.
  """
  mine = share(batch_size, process_index, process_count)
  rows = train_rows(len(split), batch_size=batch_size, seed=seed)
  steps = rows[start_step:]
  return _read_ahead(steps.map(lambda batch: split.read(batch[mine])), num_threads)


def eval_batches(
  split: Split,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> Iterator[Batch]:
  """Every clip once, in order.

  Batches have one more array, `mask` (b,) float32: 1, or 0 for a row that only fills
  up the last batch (a copy of the last clip). The arguments are those of
  `train_batches`.

  Raises:
    UserError: the processes cannot share a batch.
  """
  mine = share(batch_size, process_index, process_count)
  last = len(split) - 1

  def read(first: int) -> Batch:
    rows = np.arange(first, first + batch_size)[mine]
    mask = (rows <= last).astype(np.float32)
    return split.read(np.minimum(rows, last)) | {"mask": mask}

  steps = grain.MapDataset.range(0, len(split), batch_size).map(read)
  return _read_ahead(steps, num_threads)


def share(batch_size: int, process_index: int, process_count: int) -> slice:
  """The part of a batch that belongs to a process."""
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
      f"batch_size={batch_size} must be a positive multiple of the {process_count} "
      "processes"
    )
  size = batch_size // process_count
  return slice(process_index * size, (process_index + 1) * size)


def _read_ahead(steps: grain.MapDataset, num_threads: int) -> Iterator[Batch]:
  options = grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=max(_BATCHES_AHEAD, num_threads) if num_threads else 0,
  )
  return iter(steps.to_iter_dataset(options))
