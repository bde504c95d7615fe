"""What the data set builders share: the writing of clips in order, joined into
recordings, and the statistics of the train split.

A data set is a TFDS data set of array_record files, written and read without
TensorFlow. It keeps the order: the i-th clip of a split is row i for good, because
learnt templates belong to rows. A build goes to a temporary folder that is renamed at
the end, so a data set is complete or not there. Clips are then read from arrays that
are cut from it once (see `cut`).
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
from sdt_jax.data import cut, recordings
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

SPLITS = ("train", "dev")

Shard = Callable[[], Iterator[Example | None]]
"""Gives the clips of one file; None stands for a bad clip that is left out."""

_log = logging.getLogger(__name__)


class Built(NamedTuple):
  """A data set on disk.

  Attributes:
    speaker: the speaker's name.
    sources: split ("train", "dev") -> its clips by row.
    statistics: of the poses of the train split.
    num_skipped: bad clips that were left out.
    path: the folder of its files.
  """

  speaker: str
  sources: dict[str, cut.Clips]
  statistics: speakers.Speaker
  num_skipped: int
  path: str


def _tensor(shape: tuple[int, ...], dtype: type[np.generic]) -> tfds.features.Tensor:
  """Any number of such values, stored as bytes; TFDS's default is 7 times slower."""
  return tfds.features.Tensor(
    shape=(None, *shape), dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )


def folder_name(speaker: str, *parts: object) -> str:
  """Name of a data set's folder; the speaker's name may hold any character."""
  return "-".join([urllib.parse.quote(speaker, safe=""), *map(str, parts)])


class ClipBuilder(tfds.core.ShardBasedBuilder):
  """Writes the clips of one speaker, as recordings (see `recordings.join`).

  Not a GeneratorBasedBuilder: that one keeps a whole split in memory to sort it, and
  from 1 GB on (3,000 clips) needs TensorFlow.

  Every clip has: `audio` (68266,) float32 16 kHz; `poses` (64, 2, 121) float32 pixels
  relative to the neck; `detected` (64, 121) bool; `clip_id` text; `start` int, first
  frame in the video, -1 where not known; `video` text, "" likewise.
  """

  VERSION = tfds.core.Version("2.0.0")

  @property
  @abc.abstractmethod
  def speaker(self) -> str:
    """The speaker's name."""

  @abc.abstractmethod
  def num_clips(self, split: str) -> int:
    """How many clips the build goes through, those included that it may leave out."""

  @abc.abstractmethod
  def shards(self, split: str) -> list[Shard]:
    """The clips in order. A shard is held in memory, and recordings end with it."""

  def extra_arrays(self) -> cut.Layout:
    """Arrays with a value for each frame that only this data set has."""
    return {}

  def layout(self) -> cut.Layout:
    """Of the arrays of its recordings."""
    return {
      "audio": ((), np.float32),
      "poses": ((2, kp.NUM_KEYPOINTS), np.float32),
      "detected": ((kp.NUM_KEYPOINTS,), np.bool_),
    } | self.extra_arrays()

  def size(self, split: str) -> cut.Size:
    """Of a split that is built."""
    return cut.Size(*cast(dict, self.info.metadata)["sizes"][split])

  def _info(self) -> tfds.core.DatasetInfo:
    arrays = {name: _tensor(*form) for name, form in self.layout().items()}
    of_clips = {name: _tensor((), np.int64) for name in recordings.OF_CLIPS}
    text = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        arrays | of_clips | {"clip_id": tfds.features.Sequence(text), "video": text}
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, *args, **kwargs) -> None:
    total = sum(self.num_clips(split) for split in SPLITS)
    self._statistics = speakers.RunningStatistics()
    self._num_skipped = 0
    self._sizes: dict[str, cut.Size] = dict.fromkeys(SPLITS, cut.Size())
    with tqdm.tqdm(total=total, desc=f"clips of {self.speaker}", unit="clip") as bar:
      self._bar = bar
      super()._download_and_prepare(*args, **kwargs)
    self._check_splits()
    metadata = cast(dict, self.info.metadata)
    metadata["statistics"] = speakers.to_json(self._statistics.speaker(self.speaker))
    metadata["num_skipped"] = self._num_skipped
    metadata["sizes"] = self._sizes

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list]:
    del dl_manager  # there is nothing to download
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

  def _check_splits(self) -> None:
    for split in SPLITS:
      if not self._sizes[split].clips:
        raise UserError(f"{self.speaker}: no good clip in the {split} split")


class _UncompressedWriter(tfds.core.ExampleWriter):
  """Speech hardly compresses: the files grow by two thirds, but are written and read
  four times faster than with the default."""

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
  """The writer's error of a full disk says what it is, but not by its type."""
  try:
    yield
  except RuntimeError as e:
    raise OSError(e) from e


def prepare(make_builder: Callable[[], ClipBuilder]) -> Built:
  """Builds the data set if it is not there, and opens it.

  Raises:
    UserError: what the builder finds wrong with its material, or the folder cannot be
      written.
  """
  with _quiet_tfds():
    builder = make_builder()
    if not builder.is_prepared():
      builder = _build(builder, make_builder)
  metadata = cast(dict, builder.info.metadata)
  if metadata["num_skipped"]:
    _log.warning("%s: %d bad clips left out", builder.speaker, metadata["num_skipped"])
  return Built(
    speaker=builder.speaker,
    sources={split: _clips(builder, split) for split in SPLITS},
    statistics=speakers.from_json(
      builder.speaker, metadata["statistics"], os.fspath(builder.data_path)
    ),
    num_skipped=metadata["num_skipped"],
    path=os.fspath(builder.data_path),
  )


def _clips(builder: ClipBuilder, split: str) -> cut.Clips:
  source = cast(Any, builder).as_data_source(split)
  return cut.open_or_cut(
    builder.data_path, split, source, builder.layout(), builder.size(split)
  )


def _build(
  builder: ClipBuilder, make_builder: Callable[[], ClipBuilder]
) -> ClipBuilder:
  try:
    with tempfile.TemporaryDirectory() as downloads:  # TFDS insists on a folder
      builder.download_and_prepare(
        download_dir=downloads,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
  except OSError as e:
    # Two processes may build the same data set; the second finds the folder taken.
    other = make_builder()
    if not other.is_prepared():
      raise UserError(f"cannot write the data set to {builder.data_path}: {e}") from e
    return other
  return builder


@contextlib.contextmanager
def _quiet_tfds():
  """TFDS speaks of downloads and of a website; our builds have their own bar."""
  verbosity = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    absl.logging.set_verbosity(verbosity)
