"""From a data set on disk to batches, in three steps:

    built = build(...)                                  build (if needed) and open
    split = Split(built.sources["train"], table)        normalise the poses
    for batch in train_batches(split, ...): ...         or eval_batches

A batch is a dict of NumPy arrays: `audio` (b, 68266) float32; `poses` (b, 64, dims,
joints) float32, normalised; `index` (b,) int32, the row of each clip in its split. `b`
is the number of clips for this process. The clips of a step depend only on the seed and
the step, so a run resumes by starting at its step; no iterator state is saved.
"""

import importlib
import itertools
import logging
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import grain
import numpy as np

from sdt_jax import audio, pose, speakers
from sdt_jax.data import DATASETS, own
from sdt_jax.data.builder import Built
from sdt_jax.data.clip_store import ClipStore
from sdt_jax.data.recordings import CLIP_SAMPLES
from sdt_jax.errors import UserError

# Number of batches that are read ahead of the training step.
_BATCHES_AHEAD = 4

_FRAMES_AT_ONCE = 1024

# Published statistics do not fit a pack if its mean pose differs from the published one
# by more than this, in published standard deviations; two speakers differ by 0.35 to 6.
MAX_MEAN_DEVIATION = 0.3

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)


def resolve(dataset: Mapping[str, Any]) -> dict[str, Any]:
  """Fills in the name and the speaker of a data set, and checks that they fit its root.

  It is quick: it opens no clip and builds nothing.

  Args:
    dataset: the section `dataset` of a config.

  Returns:
    The same fields, with `name` and `speaker` not empty.

  Raises:
    UserError: the name is unknown, the speaker is not in the root or has no root, the
      root contains several speakers and none is chosen, or the data set does not use
      the root.
  """
  root, speaker = dataset["root"], dataset["speaker"]
  if speaker and not root and not dataset["name"]:
    raise UserError(
      f"dataset.speaker={speaker!r} needs dataset.root=<folder of the data packs>, or "
      "dataset.name=synthetic for a synthetic speaker of that name"
    )
  name = dataset["name"] or ("speech2gesture" if root else "synthetic")
  speaker = _module(name).choose_speaker(root, speaker)
  return {**dataset, "name": name, "speaker": speaker}


def build(**dataset: Any) -> Built:
  """Builds a data set if it does not exist, and opens it.

  Args:
    dataset: the section `dataset` of a config. `DATASETS` lists the fields that each
      data set uses (`own.FIELDS` those of custom ones); they are explained by the
      function `prepare` of its module.

  Raises:
    UserError: the name is unknown, the builder raises an error, or a speaker has no
      statistics.
  """
  if not (dataset["name"] and dataset["speaker"]):
    dataset = resolve(dataset)
  name = dataset["name"]
  module = _module(name)
  used = dataset.keys() & set(DATASETS.get(name, own.FIELDS))
  built = module.prepare(**{key: dataset[key] for key in used})
  mode = dataset.get("statistics", "auto")
  others = [
    _statistics(name, computed, mode) for name, computed in built.others.items()
  ]
  for source in built.sources.values():
    source.others = others
  return built


def _module(name: str) -> types.ModuleType | own.CustomDataSet:
  if ":" in name:
    return own.load(name)
  if name not in DATASETS:
    raise UserError(
      f"config.dataset.name is {name!r}; expected one of {tuple(DATASETS)}, or "
      "my_module:MyBuilder"
    )
  return importlib.import_module(f"sdt_jax.data.{name}")


def spread_rows(total: int, count: int) -> np.ndarray:
  """Evenly spaced rows of a split of `total` clips: (count,), or all if it has fewer.

  Neighbouring clips overlap, so the first rows would show the same seconds.
  """
  count = min(count, total)
  return np.arange(count) * total // max(count, 1)


def speaker_statistics(built: Built, mode: str) -> speakers.Speaker:
  """Chooses the statistics to normalise with.

  Args:
    built: the data set.
    mode: "published": published statistics; "pack": statistics of the train split;
      "auto": published statistics if they exist and fit the train split, else those of
      the train split.

  Raises:
    UserError: the mode is unknown, or this speaker has no published statistics.
  """
  return _statistics(built.speaker, built.statistics, mode)


def _statistics(
  name: str, computed: speakers.Speaker | None, mode: str
) -> speakers.Speaker:
  """`speaker_statistics` of any speaker; None stands for no clips in train."""
  if mode not in {"published", "pack", "auto"}:
    raise UserError(f"dataset.statistics={mode!r}; known: published, pack, auto")
  if computed is None:
    if mode == "pack":
      raise UserError(
        f"speaker {name}: no clip in the train split to compute statistics from; "
        "leave out this speaker's clips, or use dataset.statistics=auto"
      )
    return speakers.published(name)
  if mode == "pack" or (mode == "auto" and name not in speakers.published_names()):
    _log.info("speaker %s: statistics of the train split", name)
    return computed
  published = speakers.published(name)
  deviation = mean_deviation(computed, published)
  fits = deviation < MAX_MEAN_DEVIATION
  chosen = published if fits or mode == "published" else computed
  _log.info(
    "speaker %s: statistics of the %s; the mean pose of the train split is %.2f "
    "published standard deviations from the published one (limit: %.2f)",
    name,
    "publication" if chosen is published else "train split",
    deviation,
    MAX_MEAN_DEVIATION,
  )
  return chosen


def mean_deviation(own: speakers.Speaker, reference: speakers.Speaker) -> float:
  """Mean over the hierarchical coordinates of |difference of means| / reference std."""
  table = reference.hierarchical
  return float(np.mean(np.abs(own.hierarchical.mean - table.mean) / table.std))


class Tracks(NamedTuple):
  """The N clips of a split as sections of long arrays; overlapping clips share data."""

  audio: np.ndarray  # (S,) float32, 16 kHz
  poses: np.ndarray  # (F, dims, joints) float32, normalised, in the form of the model
  audio_start: np.ndarray  # (N,) int64, the first of the 68266 samples of each clip
  frame_start: np.ndarray  # (N,) int64, the first of its 64 frames


class Split:
  """The clips of a split by row, with normalised poses.

  Args:
    source: one of `Built.sources`.
    table: the statistics to normalise with, in the form of the model. Clips of other
      speakers (`source.others`) are normalised with their own; the final poses of all
      clips are made with `table`.

  Attributes:
    source: the clips as stored on disk.
  """

  def __init__(self, source: ClipStore, table: pose.PoseTable):
    self.source = source
    self._table = table
    self._tracks = Tracks(
      audio=source.audio,
      poses=_normalized(source, table),
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
    """The batch of the clips in the given rows (b,)."""
    return {
      "audio": self._sounds[self._tracks.audio_start[rows]],
      "poses": self._poses[self._tracks.frame_start[rows]],
      "index": rows.astype(np.int32),
    }

  def poses_px(self, rows: np.ndarray) -> np.ndarray:
    """Final poses (b, 64, dims, joints) of the clips in these rows (b,)."""
    return pose.to_final(self._poses[self._tracks.frame_start[rows]], self._table)

  def tracks(self) -> Tracks:
    """The whole split: audio memory-mapped from disk, poses in memory."""
    return self._tracks


def _normalized(source: ClipStore, table: pose.PoseTable) -> np.ndarray:
  """Normalises (F, dims, joints) in pieces that fit the processor's cache."""
  poses_px = source.frames["poses"]
  speaker = source.frames.get("speaker", np.zeros(len(poses_px), np.int32))
  tables = [table, *(other.table(table.hierarchical) for other in source.others)]
  changes = np.flatnonzero(np.diff(speaker)) + 1
  edges = {*range(0, len(poses_px), _FRAMES_AT_ONCE), *changes, len(poses_px)}
  poses = np.empty_like(poses_px)
  for first, last in itertools.pairwise(sorted(edges)):
    part = slice(first, last)
    poses[part] = pose.from_global(poses_px[part], tables[speaker[first]])
  return poses


def _windows(array: np.ndarray, length: int) -> np.ndarray:
  """View of `array` whose item i is `array[i : i + length]`."""
  windows = np.lib.stride_tricks.sliding_window_view(array, length, axis=0)
  return np.moveaxis(windows, -1, 1)


def train_rows(num_clips: int, *, batch_size: int, seed: int) -> grain.MapDataset:
  """The clips of each step: item `step` is the array of their rows, (batch_size,).

  Each epoch of `num_clips // batch_size` steps has a new order; the remaining clips at
  its end are dropped.

  Args:
    num_clips: number of clips in the train split.
    batch_size: total over all processes.
    seed: seed of the order.

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
  """Yields batches without end, starting with `start_step`.

  A step has the clips that `train_rows` returns, for any number of processes.

  Args:
    split: the clips.
    batch_size: total over all processes.
    seed: seed of the order.
    start_step: first step, counted from the start of the training.
    process_index, process_count: which part of each batch to yield.
    num_threads: number of threads that read ahead; 0 to read on demand.

  Raises:
    UserError: the batch is larger than the split, or the processes cannot share it.
  """
  part = share(batch_size, process_index, process_count)
  rows = train_rows(len(split), batch_size=batch_size, seed=seed)
  steps = rows[start_step:]
  return _read_ahead(steps.map(lambda batch: split.read(batch[part])), num_threads)


def eval_batches(
  split: Split,
  rows: np.ndarray,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> Iterator[Batch]:
  """Yields the clips in these rows (n,), each once, in order.

  Batches also have `mask` (b,) float32: 1, or 0 for padding of the last batch, which
  repeats the last clip. For the other arguments, see `train_batches`.

  Raises:
    UserError: the processes cannot share a batch.
  """
  part = share(batch_size, process_index, process_count)
  last = len(rows) - 1

  def read(first: int) -> Batch:
    places = np.arange(first, first + batch_size)[part]
    mask = (places <= last).astype(np.float32)
    return split.read(rows[np.minimum(places, last)]) | {"mask": mask}

  steps = grain.MapDataset.range(0, len(rows), batch_size).map(read)
  return _read_ahead(steps, num_threads)


def share(batch_size: int, process_index: int, process_count: int) -> slice:
  """The part of a batch that a process reads."""
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
