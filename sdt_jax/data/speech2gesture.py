"""TFDS builder for the data pack of a speaker (see `pack` for the format)."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator

import tensorflow_datasets as tfds

from sdt_jax.data import builder as clip_builder
from sdt_jax.data import pack
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

_CLIPS_PER_SHARD = 256  # 90 MB
_READING_THREADS = 2  # for decompression; more threads only compete for the GIL

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class PackConfig(tfds.core.BuilderConfig):
  """The pack of one speaker; a pack that changed is a different data set."""

  index: pack.Pack | None = None
  skip_bad_clips: bool = False


class Speech2Gesture(clip_builder.ClipBuilder):
  """The clips of a pack, in the order of its csv."""

  name = "speech2gesture"
  builder_config: PackConfig

  @property
  def _pack(self) -> pack.Pack:
    assert self.builder_config.index is not None
    return self.builder_config.index

  @property
  def speaker(self) -> str:
    return self._pack.speaker

  def num_clips(self, split: str) -> int:
    return len(self._pack.rows[split])

  def shards(self, split: str) -> list[clip_builder.Shard]:
    rows = self._pack.rows[split]
    return [
      functools.partial(self._read, rows[i : i + _CLIPS_PER_SHARD])
      for i in range(0, len(rows), _CLIPS_PER_SHARD)
    ]

  def _read(self, rows: list[pack.Row]) -> Iterator[Example | None]:
    with concurrent.futures.ThreadPoolExecutor(_READING_THREADS) as pool:
      yield from pool.map(self._read_row, rows)

  def _read_row(self, row: pack.Row) -> Example | None:
    try:
      clip = pack.read_clip(row.path, row.clip_id)
    except UserError as e:
      if not self.builder_config.skip_bad_clips:
        raise UserError(f"{e}; dataset.skip_bad_clips=True skips it") from e
      _log.info("skipped: %s", e)
      return None
    return {
      "audio": clip.audio,
      "poses": clip.poses_px,
      "detected": clip.detected,
      "clip_id": row.clip_id,
      "start": row.start,
      "video": row.video,
    }


choose_speaker = pack.choose_speaker


def prepare(
  root: str | os.PathLike,
  speaker: str,
  data_dir: str | os.PathLike,
  skip_bad_clips: bool = False,
) -> clip_builder.Built:
  """Builds the data set of a pack in `data_dir` if it does not exist, and opens it.

  Args:
    root: folder that contains the speakers' folders.
    speaker: name of the speaker's folder.
    data_dir: folder for built data sets.
    skip_bad_clips: skip and count bad clips instead of raising an error.

  Raises:
    UserError: the pack is missing or bad, or `data_dir` cannot be written.
  """
  index = pack.read_index(root, speaker)
  bad_clips = "skip" if skip_bad_clips else "stop"
  config = PackConfig(
    name=clip_builder.folder_name(speaker, index.fingerprint, bad_clips),
    index=index,
    skip_bad_clips=skip_bad_clips,
  )
  return clip_builder.prepare(Speech2Gesture, config, data_dir)
