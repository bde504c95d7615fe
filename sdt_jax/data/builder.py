"""What the data set builders share: the features of a clip, the writing of clips in
order, the statistics of the train split.

A data set is a TFDS data set of array_record files, written and read without
TensorFlow. It keeps the order: the i-th clip of a split is row i for good, because
learnt templates belong to rows. A build goes to a temporary folder that is renamed at
the end, so a data set is complete or not there.
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

from sdt_jax import audio, speakers
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

SPLITS = ("train", "dev")

Example = dict[str, Any]
Shard = Callable[[], Iterator[Example | None]]
"""Gives the examples of one file; None stands for a bad clip that is left out."""

_log = logging.getLogger(__name__)


class Built(NamedTuple):
  """A data set on disk.

  Attributes:
    speaker: the speaker's name.
    sources: split ("train", "dev") -> its examples by row, as `ClipBuilder` describes
      them (text as bytes).
    statistics: of the poses of the train split.
    num_skipped: bad clips that were left out.
    path: the folder of its files.
  """

  speaker: str
  sources: dict[str, Any]
  statistics: speakers.Speaker
  num_skipped: int
  path: str


def tensor(shape: tuple[int, ...], dtype: type[np.generic]) -> tfds.features.Tensor:
  """A feature that is stored as bytes; TFDS's default is 7 times slower to write."""
  return tfds.features.Tensor(
    shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )


def folder_name(speaker: str, *parts: object) -> str:
  """Name of a data set's folder; the speaker's name may hold any character."""
  return "-".join([urllib.parse.quote(speaker, safe=""), *map(str, parts)])


class ClipBuilder(tfds.core.ShardBasedBuilder):
  """Writes the clips of one speaker.

  Not a GeneratorBasedBuilder: that one keeps a whole split in memory to sort it, and
  from 1 GB on (3,000 clips) needs TensorFlow.

  Every example has: `audio` (68266,) float32 16 kHz; `poses` (64, 2, 121) float32
  pixels relative to the neck; `detected` (64, 121) bool; `clip_id` text; `start`
  int64, first frame in the video, -1 where not known; `video` text, "" likewise.
  """

  VERSION = tfds.core.Version("1.0.0")

  @property
  @abc.abstractmethod
  def speaker(self) -> str:
    """The speaker's name."""

  @abc.abstractmethod
  def num_clips(self, split: str) -> int:
    """How many clips the build goes through, those included that it may leave out."""

  @abc.abstractmethod
  def shards(self, split: str) -> list[Shard]:
    """The examples in order; TFDS holds those of one shard in memory."""

  def extra_features(self) -> dict[str, Any]:
    """Features that only this data set has."""
    return {}

  def _info(self) -> tfds.core.DatasetInfo:
    frames = audio.CLIP_FRAMES
    features = {
      "audio": tensor((audio.num_samples(frames),), np.float32),
      "poses": tensor((frames, 2, kp.NUM_KEYPOINTS), np.float32),
      "detected": tensor((frames, kp.NUM_KEYPOINTS), np.bool_),
      "clip_id": tfds.features.Text(),
      "start": np.int64,
      "video": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features | self.extra_features()),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, *args, **kwargs) -> None:
    total = sum(self.num_clips(split) for split in SPLITS)
    self._statistics = speakers.RunningStatistics()
    self._num_skipped = 0
    with tqdm.tqdm(total=total, desc=f"clips of {self.speaker}", unit="clip") as bar:
      self._bar = bar
      super()._download_and_prepare(*args, **kwargs)
    self._check_splits()
    metadata = cast(dict, self.info.metadata)
    metadata["statistics"] = speakers.to_json(self._statistics.speaker(self.speaker))
    metadata["num_skipped"] = self._num_skipped

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list]:
    del dl_manager  # there is nothing to download
    return {
      split: [functools.partial(self._examples, split, s) for s in self.shards(split)]
      for split in SPLITS
    }

  def _examples(self, split: str, shard: Shard) -> Iterator[tuple[str, Example]]:
    for example in shard():
      self._bar.update()
      if example is None:
        self._num_skipped += 1
        continue
      if split == "train":
        self._statistics.add(example["poses"], example["detected"])
      yield example["clip_id"], example

  def _example_writer(self) -> tfds.core.ExampleWriter:
    return _UncompressedWriter(tfds.core.FileFormat.ARRAY_RECORD)

  def _check_splits(self) -> None:
    for split in SPLITS:
      if not self.info.splits[split].num_examples:
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
    sources={split: cast(Any, builder).as_data_source(split) for split in SPLITS},
    statistics=speakers.from_json(
      builder.speaker, metadata["statistics"], os.fspath(builder.data_path)
    ),
    num_skipped=metadata["num_skipped"],
    path=os.fspath(builder.data_path),
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
