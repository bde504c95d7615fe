"""TFDS builder for the data pack of a speaker (see `pack` for the format)."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator

import numpy as np

from sdt_jax import audio
from sdt_jax.data import builder as clip_builder
from sdt_jax.data import pack
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

_CLIPS_PER_SHARD = 256  # 90 MB
_MIN_REPORTED_SILENCE = audio.num_samples(
  1
)  # less is due to the frame rate of the video
_READING_THREADS = 2  # for decompression; more threads only compete for the GIL

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class PackSource(clip_builder.Source):
  """A pack; one that changed is a different data set."""

  index: pack.Pack | None = None


class Speech2Gesture(clip_builder.ClipBuilder):
  """The clips of a pack, in the order of its csv."""

  name = "speech2gesture"
  builder_config: PackSource

  @property
  def _pack(self) -> pack.Pack:
    assert self.builder_config.index is not None
    return self.builder_config.index

  @property
  def speaker_names(self) -> tuple[str, ...]:
    return self._pack.speakers

  def num_clips(self, split: str) -> int:
    return len(self._pack.rows[split])

  def shards(self, split: str) -> list[clip_builder.Shard]:
    rows = self._pack.rows.get(split, [])
    return [
      functools.partial(self._read, rows[i : i + _CLIPS_PER_SHARD])
      for i in range(0, len(rows), _CLIPS_PER_SHARD)
    ]

  def _download_and_prepare(self, *args, **kwargs) -> None:
    self._num_cropped, self._silences = 0, []
    super()._download_and_prepare(*args, **kwargs)
    changes = []
    if self._num_cropped:
      changes.append(f"{self._num_cropped} clips cut to {audio.CLIP_FRAMES} frames")
    if self._silences:
      seconds = max(self._silences) / audio.SAMPLE_RATE
      silence = f"padded with up to {seconds:.2f} s of silence"
      changes.append(f"{len(self._silences)} clips {silence}")
    if changes:
      _log.warning("%s: %s", self.speaker_names[0], ", ".join(changes))

  def _read(self, rows: list[pack.Row]) -> Iterator[Example | None]:
    with concurrent.futures.ThreadPoolExecutor(_READING_THREADS) as pool:
      for row, clip in zip(rows, pool.map(self._read_clip, rows), strict=True):
        yield clip and self._example(row, clip)

  def _read_clip(self, row: pack.Row) -> pack.Clip | None:
    try:
      return pack.read_clip(row.path, row.clip_id)
    except UserError as e:
      if not self.source.skip_bad_clips:
        raise UserError(f"{e}; dataset.skip_bad_clips=True skips it") from e
      _log.info("skipped: %s", e)
      return None

  def _example(self, row: pack.Row, clip: pack.Clip) -> Example:
    self._num_cropped += clip.was_longer
    if clip.silence >= _MIN_REPORTED_SILENCE:
      self._silences.append(clip.silence)
    example = {
      "audio": clip.audio,
      "poses": clip.poses_px,
      "detected": clip.detected,
      "clip_id": row.clip_id,
      "start": row.start,
      "video": row.video,
    }
    if len(self.speaker_names) > 1:
      index = self.speaker_names.index(row.speaker)
      example["speaker"] = np.full(audio.CLIP_FRAMES, index, np.int32)
    return example


choose_speaker = pack.choose_speaker


def prepare(
  root: str | os.PathLike,
  speaker: str,
  data_dir: str | os.PathLike,
  skip_bad_clips: bool = False,
) -> clip_builder.Built:
  """Builds the data set of a pack in `data_dir` if it does not exist, and opens it.

  Args:
    root: folder that contains the packs, or the pack itself.
    speaker: name of the pack.
    data_dir: folder for built data sets.
    skip_bad_clips: skip and count bad clips instead of raising an error.

  Raises:
    UserError: the pack is missing or bad, or `data_dir` cannot be written.
  """
  index = pack.read_index(root, speaker)
  # Older versions built "skip" without the clips that are now cut or padded.
  bad_clips = "skip_bad" if skip_bad_clips else "stop"
  source = PackSource(
    name=clip_builder.folder_name(speaker, index.fingerprint, bad_clips),
    root=os.fspath(root),
    speaker=speaker,
    skip_bad_clips=skip_bad_clips,
    index=index,
  )
  return clip_builder.prepare(Speech2Gesture, source, data_dir)
