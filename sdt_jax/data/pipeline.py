"""From a data set on disk to batches, in three steps:

    built = build(...)                                  build it if needed, open it
    split = open_split(built.sources["train"], ...)     poses in the form of the model
    for batch in train_batches(split, ...): ...         or eval_batches

A batch is a dict of NumPy arrays: `audio` (b, 68266) float32, `poses` (b, 64, 2, 121)
float32, normalised, and `index` (b,) int32, the row of each clip in its split. `b` is
the share of one process. Which clips make up a step depends on the seed and the step
alone, so a run resumes by starting at its step; no state of an iterator is kept.
"""

import abc
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
import tqdm

from sdt_jax import audio, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import speech2gesture, synthetic
from sdt_jax.data.builder import Built
from sdt_jax.errors import UserError

# Batches that wait between reading and the training step.
_BATCHES_AHEAD = 4

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


class Split(abc.ABC):
  """The clips of a split by row, in the form that a model trains on."""

  def __init__(self, source: Sequence[dict[str, Any]]):
    self.source = source

  def __len__(self) -> int:
    return len(self.source)

  def clip_id(self, row: int) -> str:
    """The clip's name, e.g. "oliver/clips/npz/chemistry-35-99"."""
    return self.source[int(row)]["clip_id"].decode()

  @abc.abstractmethod
  def read(self, rows: np.ndarray) -> Batch:
    """The batch of the clips in these rows (b,)."""


class _StoredSplit(Split):
  """Reads every clip from disk when it is asked for."""

  def __init__(self, source, table: pose.PoseTable, hierarchical: bool):
    super().__init__(source)
    self._table, self._hierarchical = table, hierarchical

  def read(self, rows: np.ndarray) -> Batch:
    # One by one: `__getitems__` starts threads of its own, at half the speed.
    examples = [self.source[int(row)] for row in rows]
    poses_px = np.stack([e["poses"] for e in examples])
    poses = pose.to_form(poses_px, self._hierarchical)
    return {
      "audio": np.stack([e["audio"] for e in examples]),
      "poses": pose.normalize(poses, self._table),
      "index": rows.astype(np.int32),
    }


class _CachedSplit(Split):
  """Holds all clips in memory, as `stored` reads them."""

  def __init__(self, stored: Split, rows_at_once: int = 64):
    super().__init__(stored.source)
    self._arrays = {
      "audio": np.empty((len(stored), *_AUDIO_SHAPE), np.float32),
      "poses": np.empty((len(stored), *_POSES_SHAPE), np.float32),
    }
    starts = range(0, len(stored), rows_at_once)
    for start in tqdm.tqdm(starts, desc="clips into memory", leave=False, delay=2):
      rows = np.arange(start, min(start + rows_at_once, len(stored)))
      batch = stored.read(rows)
      for key, array in self._arrays.items():
        array[rows] = batch[key]

  def read(self, rows: np.ndarray) -> Batch:
    batch = {key: array[rows] for key, array in self._arrays.items()}
    return batch | {"index": rows.astype(np.int32)}


_AUDIO_SHAPE = (audio.num_samples(audio.CLIP_FRAMES),)
_POSES_SHAPE = (audio.CLIP_FRAMES, 2, kp.NUM_KEYPOINTS)
_CLIP_BYTES = 4 * int(np.prod(_AUDIO_SHAPE) + np.prod(_POSES_SHAPE))


def open_split(
  source: Sequence[dict[str, Any]],
  speaker: speakers.Speaker,
  *,
  hierarchical: bool,
  cache_gb: float = 0.0,
) -> Split:
  """The clips of a split, with normalised poses.

  Args:
    source: `Built.sources["train"]` or `["dev"]`.
    speaker: the statistics to normalise with.
    hierarchical: the form of the poses.
    cache_gb: a split that is smaller, in 10^9 bytes, is held in memory.

  Raises:
    UserError: the speaker has no table of that form.
  """
  stored = _StoredSplit(source, speaker.table(hierarchical), hierarchical)
  return _CachedSplit(stored) if len(stored) * _CLIP_BYTES < cache_gb * 1e9 else stored


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

  Every epoch of `len(split) // batch_size` steps has its own order; what is left over
  at its end is dropped. For any number of processes a step is made of the same clips.

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
  share = _share(batch_size, process_index, process_count)
  if batch_size > len(split):
    raise UserError(
      f"batch_size={batch_size} is larger than the train split of {len(split)} clips"
    )
  rows = grain.MapDataset.range(len(split)).seed(seed).shuffle()
  rows = rows[: len(split) // batch_size * batch_size].repeat()
  steps = rows.batch(batch_size)[start_step:]
  return _read_ahead(steps.map(lambda batch: split.read(batch[share])), num_threads)


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
  share = _share(batch_size, process_index, process_count)
  last = len(split) - 1

  def read(first: int) -> Batch:
    rows = np.arange(first, first + batch_size)[share]
    mask = (rows <= last).astype(np.float32)
    return split.read(np.minimum(rows, last)) | {"mask": mask}

  steps = grain.MapDataset.range(0, len(split), batch_size).map(read)
  return _read_ahead(steps, num_threads)


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
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
