"""Base class of the data set builders.

It writes the clips of a speaker, joined into recordings, and computes the statistics of
the train split. A data set is a TFDS data set of array_record files, written and read
without TensorFlow. The order is kept: the i-th clip of a split is always row i, because
learnt templates belong to rows. A build writes to a temporary folder that is renamed at
the end, so there are no incomplete data sets. Clips are then read from arrays that are
built once from these files (see `clip_store`).
"""

import abc
import collections
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import io
import logging
import os
import pathlib
import tempfile
import types
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module  # pyright: ignore

from sdt_jax import audio, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import clip_store, pack, recordings
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

SPLITS: tuple[str, ...] = ("train", "dev", "test")

Shard = Callable[[], Iterator[Example | None]]
"""Yields the clips of one file; None for a bad clip that is skipped."""

_log = logging.getLogger(__name__)


class Built(NamedTuple):
  """A data set on disk.

  Attributes:
    speaker: name of the (main) speaker.
    sources: split -> its clips by row; only splits that have clips. "train" is always
      there, "dev" and "test" may be.
    statistics: statistics of the speaker's poses in the train split.
    num_skipped: number of bad clips.
    path: folder of the files.
    others: other speakers of these clips, in the order of their numbers, with their
      statistics; None for those who have no clip in the train split.
  """

  speaker: str
  sources: dict[str, clip_store.ClipStore]
  statistics: speakers.Speaker
  num_skipped: int
  path: str
  others: Mapping[str, speakers.Speaker | None] = types.MappingProxyType({})


def _tensor(shape: tuple[int, ...], dtype: type[np.generic]) -> tfds.features.Tensor:
  """An array of such values, stored as bytes; TFDS's default is 7 times slower."""
  return tfds.features.Tensor(
    shape=(None, *shape), dtype=dtype, encoding=tfds.features.Encoding.BYTES
  )


def folder_name(speaker: str, *parts: object) -> str:
  """Folder name of a data set; the speaker's name may contain any character."""
  return "-".join(urllib.parse.quote(str(p), safe="") for p in (speaker, *parts))


@dataclasses.dataclass
class Source(tfds.core.BuilderConfig):
  """What a builder reads: fields of the section `dataset` of a config."""

  root: str = ""
  speaker: str = ""
  skip_bad_clips: bool = False


class ClipBuilder(tfds.core.ShardBasedBuilder):
  """Writes the clips of one speaker, as recordings (see `recordings.join`).

  Not a GeneratorBasedBuilder, which keeps a whole split in memory to sort it, and from
  1 GB on (3,000 clips) needs TensorFlow.

  Every clip has: `audio` (68266,) float32 16 kHz; `poses` (64, dims, joints) float32
  pixels relative to the neck; `detected` (64, joints) bool; `clip_id` text; `start`
  int, first frame in the video, -1 if unknown; `video` text, "" if unknown. With
  several `speaker_names`, it also has `speaker` (64,) int32, the index of its name.

  Subclasses may be defined outside of this package; see docs/own_data_set.md.
  """

  VERSION = tfds.core.Version("2.0.0")
  builder_config: Source

  def __init_subclass__(cls, **kwargs):
    # TFDS's registry of names is not used; it would refuse a name that is taken.
    super().__init_subclass__(skip_registration=True, **kwargs)

  @property
  def source(self) -> Source:
    """The fields of the config that say what to read."""
    return self.builder_config

  @classmethod
  def fingerprint(cls, source: Source) -> str:
    """Text that changes if the data or the code that reads it changes.

    The data set is rebuilt when it changes. By default it covers the names, sizes and
    times of all files in `source.root`, and the Python file of this class.
    """
    digest = hashlib.sha256(pathlib.Path(inspect.getfile(cls)).read_bytes())
    for path in sorted(pathlib.Path(source.root).rglob("*")) if source.root else []:
      if path.is_file():
        stat = path.stat()
        name = path.relative_to(source.root)
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]

  @property
  def speaker_names(self) -> tuple[str, ...]:
    """Names of the speakers of the clips; the first one names the data set."""
    return (self.source.speaker,)

  def num_clips(self, split: str) -> int | None:
    """Number of clips to read, including bad ones; None if not known beforehand."""
    del split
    return None

  @abc.abstractmethod
  def shards(self, split: str) -> list[Shard]:
    """The clips in order; an empty list if there is no such split.

    A shard is kept in memory; recordings do not span shards.
    """

  def extra_arrays(self) -> clip_store.Layout:
    """Arrays with one value per frame that only this data set has."""
    return {}

  def layout(self) -> clip_store.Layout:
    """Layout of the arrays of recordings and clips."""
    return {
      "audio": ((), np.float32),
      "poses": (kp.UPPER_BODY.shape, np.float32),
      "detected": ((kp.UPPER_BODY.num_joints,), np.bool_),
      **({"speaker": ((), np.int32)} if len(self.speaker_names) > 1 else {}),
    } | self.extra_arrays()

  def sizes(self) -> dict[str, clip_store.Size]:
    """Size of each split that has clips, once it is built."""
    sizes = cast(dict, self.info.metadata)["sizes"]
    return {split: clip_store.Size(*size) for split, size in sizes.items()}

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
    shards = {split: self.shards(split) for split in SPLITS}
    self._shards = {split: found for split, found in shards.items() if found}
    counts = [self.num_clips(split) for split in self._shards]
    total = None if None in counts else sum(cast(list[int], counts))
    names = self.speaker_names
    self._statistics = collections.defaultdict(speakers.RunningStatistics)
    self._num_skipped = 0
    self._sizes = {split: clip_store.Size() for split in ("train", *self._shards)}
    with tqdm.tqdm(total=total, desc=f"clips of {names[0]}", unit="clip") as bar:
      self._bar = bar
      super()._download_and_prepare(*args, **kwargs)
    for split, size in self._sizes.items():
      if not size.clips:
        raise UserError(f"{names[0]}: no good clip in the {split} split; add some")
    main, *others = (
      speakers.to_json(self._statistics[i].speaker(name))
      if i == 0 or i in self._statistics
      else None
      for i, name in enumerate(names)
    )
    metadata = cast(dict, self.info.metadata)
    metadata["statistics"] = main
    metadata["others"] = dict(zip(names[1:], others, strict=True))
    metadata["num_skipped"] = self._num_skipped
    metadata["sizes"] = self._sizes

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list]:
    del dl_manager  # nothing to download
    return {
      split: [functools.partial(self._examples, split, shard) for shard in found]
      for split, found in self._shards.items()
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
      self._check(clip)
      if split == "train":
        speaker = clip["speaker"][0] if "speaker" in clip else 0
        self._statistics[speaker].add(clip["poses"], clip["detected"])
      yield clip

  def _check(self, clip: Example) -> None:
    """Raises a UserError if an entry is missing or has another form."""
    missing = [key for key in ("clip_id", "video", "start") if key not in clip]
    if missing:
      raise UserError(f"{clip.get('clip_id', 'a clip')}: has no {missing[0]!r}; add it")
    for key, (shape, dtype) in self.layout().items():
      length = recordings.CLIP_SAMPLES if key == "audio" else audio.CLIP_FRAMES
      expected = f"{np.dtype(dtype)} {(length, *shape)}"
      value = np.asarray(clip.get(key))
      if (found := f"{value.dtype} {value.shape}") != expected:
        raise UserError(f"{clip['clip_id']}: {key} is {found}, expected {expected}")
      if not np.isfinite(value).all():
        raise UserError(f"{clip['clip_id']}: {key} has values that are not finite")
    number, count = int(clip.get("speaker", [0])[0]), len(self.speaker_names)
    if not 0 <= number < count:
      raise UserError(
        f"{clip['clip_id']}: speaker is {number}, expected 0 to {count - 1}"
      )

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


def clips_of_video(
  video: str,
  keypoints: np.ndarray,
  sound: np.ndarray,
  starts: Iterable[int],
  **per_frame: np.ndarray,
) -> Iterator[Example]:
  """Cuts clips from a video.

  Args:
    video: name of the video; no other one of the data set has it.
    keypoints: (T, dims + 1, joints) float32, `OPENPOSE` keypoints at 15 frames/s.
    sound: (S,) float32, 16 kHz mono. Zeros are added if it is shorter.
    starts: first frame of each clip.
    per_frame: other arrays (T, ...) of the data set.

  Raises:
    UserError: the keypoints have another shape.
  """
  expected = ("T", *kp.OPENPOSE.detection_shape)
  if keypoints.shape[1:] != expected[1:]:
    raise UserError(
      f"{video}: keypoints have shape {keypoints.shape}, expected {expected}"
    )
  keypoints, sound = keypoints.astype(np.float32), sound.astype(np.float32)
  poses_px, detected = pose.from_openpose(keypoints), pack.detected_points(keypoints)
  for start in starts:
    frames = slice(start, start + audio.CLIP_FRAMES)
    rest = sound[audio.num_samples(start) :]
    yield {
      "audio": audio.fit_to_frames(rest, audio.CLIP_FRAMES),
      "poses": poses_px[frames],
      "detected": detected[frames],
      "clip_id": f"{video}-{frames.start}-{frames.stop}",
      "start": start,
      "video": video,
      **{key: values[frames] for key, values in per_frame.items()},
    }


def prepare(
  builder_class: type[ClipBuilder], source: Source, data_dir: str | os.PathLike
) -> Built:
  """Builds the data set in `data_dir` if it does not exist, and opens it.

  Args:
    builder_class: reads the clips.
    source: what it reads. `source.name` changes with the content of the data set.
    data_dir: folder for built data sets.

  Raises:
    UserError: the input of the builder is bad, or the folder cannot be written.
  """

  def make_builder() -> ClipBuilder:
    folder = os.fspath(data_dir)
    return builder_class(config=source, data_dir=folder, file_format="array_record")

  with _quiet_tfds():
    builder = make_builder()
    if not builder.is_prepared():
      builder = _build(builder, make_builder)
  metadata = cast(dict, builder.info.metadata)
  if metadata["num_skipped"]:
    _log.warning(
      "%s: %d bad clips skipped", builder.speaker_names[0], metadata["num_skipped"]
    )
  path = os.fspath(builder.data_path)
  read = cast(Any, builder).as_data_source
  name, *_ = builder.speaker_names
  sources = {
    split: clip_store.open_or_build(path, split, read(split), builder.layout(), size)
    for split, size in builder.sizes().items()
  }
  statistics = speakers.from_json(name, metadata["statistics"], path)
  others = {
    other: None if tables is None else speakers.from_json(other, tables, path)
    for other, tables in metadata.get("others", {}).items()
  }
  return Built(name, sources, statistics, metadata["num_skipped"], path, others)


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
