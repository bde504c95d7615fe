"""Base class of the data set builders.

It writes the clips of a speaker, joined into recordings, and computes the statistics of
the train split. A data set is a TFDS data set of array_record files, written and read
without TensorFlow. The order is kept: the i-th clip of a split is always row i, because
learnt templates belong to rows. A build writes to a temporary folder that is renamed at
the end, so there are no incomplete data sets. Clips are then read from arrays that are
built once from these files (see `clip_store`).
"""

import abc
import contextlib
import functools
import io
import logging
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module  # pyright: ignore

from sdt_jax import keypoints as kp
from sdt_jax import speakers
from sdt_jax.data import clip_store, recordings
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

SPLITS: tuple[str, ...] = ("train", "dev")

Shard = Callable[[], Iterator[Example | None]]
"""Yields the clips of one file; None for a bad clip that is skipped."""

_log = logging.getLogger(__name__)


class Built(NamedTuple):
  """A data set on disk."""

  speaker: str  # name
  sources: dict[str, clip_store.ClipStore]  # split ("train", "dev") -> clips by row
  statistics: speakers.Speaker  # of the poses of the train split
  num_skipped: int  # bad clips
  path: str  # folder of the files


def _tensor(shape: tuple[int, ...], dtype: type[np.generic]) -> tfds.features.Tensor:
  """An array of such values, stored as bytes; TFDS's default is 7 times slower."""
  return tfds.features.Tensor(
    shape=(None, *shape), dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )


def folder_name(speaker: str, *parts: object) -> str:
  """Folder name of a data set; the speaker's name may contain any character."""
  return "-".join([urllib.parse.quote(speaker, safe=""), *map(str, parts)])


class ClipBuilder(tfds.core.ShardBasedBuilder):
  """Writes the clips of one speaker, as recordings (see `recordings.join`).

  Not a GeneratorBasedBuilder, which keeps a whole split in memory to sort it, and from
  1 GB on (3,000 clips) needs TensorFlow.

  Every clip has: `audio` (68266,) float32 16 kHz; `poses` (64, dims, joints) float32
  pixels relative to the neck; `detected` (64, joints) bool; `clip_id` text; `start`
  int, first frame in the video, -1 if unknown; `video` text, "" if unknown.
  """

  VERSION = tfds.core.Version("2.0.0")

  @property
  @abc.abstractmethod
  def speaker(self) -> str:
    """The speaker's name."""

  @abc.abstractmethod
  def num_clips(self, split: str) -> int:
    """Number of clips to read, including bad ones."""

  @abc.abstractmethod
  def shards(self, split: str) -> list[Shard]:
    """The clips in order. A shard is kept in memory; recordings do not span shards."""

  def extra_arrays(self) -> clip_store.Layout:
    """Arrays with one value per frame that only this data set has."""
    return {}

  def layout(self) -> clip_store.Layout:
    """Layout of the arrays of recordings and clips."""
    return {
      "audio": ((), np.float32),
      "poses": (kp.UPPER_BODY.shape, np.float32),
      "detected": ((kp.UPPER_BODY.num_joints,), np.bool_),
    } | self.extra_arrays()

  def size(self, split: str) -> clip_store.Size:
    """Size of a split, once it is built."""
    return clip_store.Size(*cast(dict, self.info.metadata)["sizes"][split])

  def _info(self) -> tfds.core.DatasetInfo:
    arrays = {name: _tensor(*form) for name, form in self.layout().items()}
    per_clip = {name: _tensor((), np.int64) for name in recordings.CLIP_FIELDS}
    text = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        arrays | per_clip | {"clip_id": tfds.features.Sequence(text), "video": text}
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, *args, **kwargs) -> None:
    total = sum(self.num_clips(split) for split in SPLITS)
    self._statistics = speakers.RunningStatistics()
    self._num_skipped = 0
    self._sizes = {split: clip_store.Size() for split in SPLITS}
    with tqdm.tqdm(total=total, desc=f"clips of {self.speaker}", unit="clip") as bar:
      self._bar = bar
      super()._download_and_prepare(*args, **kwargs)
    for split, size in self._sizes.items():
      if not size.clips:
        raise UserError(f"{self.speaker}: no good clip in the {split} split; add some")
    metadata = cast(dict, self.info.metadata)
    metadata["statistics"] = speakers.to_json(self._statistics.speaker(self.speaker))
    metadata["num_skipped"] = self._num_skipped
    metadata["sizes"] = self._sizes

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list]:
    del dl_manager  # nothing to download
    return {
      split: [functools.partial(self._examples, split, s) for s in self.shards(split)]
      for split in SPLITS
    }

  def _examples(self, split: str, shard: Shard) -> Iterator[tuple[str, Example]]:
    for recording in recordings.join(self._good_clips(split, shard)):
      self._sizes[split] = self._sizes[split].plus(recording)
      yield recording["clip_id"][0], recording

  def _good_clips(self, split: str, shard: Shard) -> Iterator[Example]:
    for clip in shard():
      self._bar.update()
      if clip is None:
        self._num_skipped += 1
        continue
      if split == "train":
        self._statistics.add(clip["poses"], clip["detected"])
      yield clip

  def _example_writer(self) -> tfds.core.ExampleWriter:
    return _UncompressedWriter(tfds.core.FileFormat.ARRAY_RECORD)


class _UncompressedWriter(tfds.core.ExampleWriter):
  """Writes uncompressed files.

  They are two thirds larger than with TFDS's default, but written and read four times
  faster.
  """

  def write(self, path, examples) -> None:
    writer = array_record_module.ArrayRecordWriter(
      os.fspath(path), "group_size:1,uncompressed"
    )
    for _, serialized in examples:
      with _runtime_error_as_os_error():
        writer.write(serialized)
    with _runtime_error_as_os_error():
      writer.close()


@contextlib.contextmanager
def _runtime_error_as_os_error():
  """array_record raises RuntimeError, for example if the disk is full."""
  try:
    yield
  except RuntimeError as e:
    raise OSError(e) from e


def prepare(
  builder_class: type[ClipBuilder],
  config: tfds.core.BuilderConfig,
  data_dir: str | os.PathLike,
) -> Built:
  """Builds the data set in `data_dir` if it does not exist, and opens it.

  Raises:
    UserError: the input of the builder is bad, or the folder cannot be written.
  """

  def make_builder() -> ClipBuilder:
    folder = os.fspath(data_dir)
    return builder_class(config=config, data_dir=folder, file_format="array_record")

  with _quiet_tfds():
    builder = make_builder()
    if not builder.is_prepared():
      builder = _build(builder, make_builder)
  metadata = cast(dict, builder.info.metadata)
  if metadata["num_skipped"]:
    _log.warning("%s: %d bad clips skipped", builder.speaker, metadata["num_skipped"])
  path = os.fspath(builder.data_path)
  source = cast(Any, builder).as_data_source
  return Built(
    builder.speaker,
    {
      split: clip_store.open_or_build(
        path, split, source(split), builder.layout(), builder.size(split)
      )
      for split in SPLITS
    },
    speakers.from_json(builder.speaker, metadata["statistics"], path),
    metadata["num_skipped"],
    path,
  )


def _build(
  builder: ClipBuilder, make_builder: Callable[[], ClipBuilder]
) -> ClipBuilder:
  try:
    with tempfile.TemporaryDirectory() as downloads:  # TFDS requires a folder
      builder.download_and_prepare(
        download_dir=downloads,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
  except OSError as e:
    # Two processes may build the same data set; for the second, the folder exists.
    other = make_builder()
    if not other.is_prepared():
      raise UserError(f"cannot write the data set to {builder.data_path}: {e}") from e
    return other
  return builder


@contextlib.contextmanager
def _quiet_tfds():
  """Silences TFDS, which reports downloads; our builds have their own progress bar."""
  verbosity = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    absl.logging.set_verbosity(verbosity)
