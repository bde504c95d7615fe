"""Moves training clips to the devices.

Resident: sound and poses of the whole split are kept in the memory of every device, and
a step receives only the rows of its clips. Samples shared by overlapping clips are
stored once, so hours of a speaker take a few GB. Streamed: for data that does not fit,
batches are read ahead on the host and transferred. Either way a batch depends only on
the seed and the step, and contains the same numbers.
"""

import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Protocol

import jax
import numpy as np

from sdt_jax import audio
from sdt_jax.data import pipeline
from sdt_jax.data.recordings import CLIP_SAMPLES
from sdt_jax.methods.base import Batch
from sdt_jax.training import parallel, processes
from sdt_jax.training.parallel import Tree

# Share of the device memory that data may take; the rest is for state and activations.
_SHARE_OF_MEMORY = 0.4


class Feed(Protocol):
  """Provides the clips of each training step, in blocks of consecutive steps.

  Attributes:
    data: kept in device memory for all steps.
    steps_at_once: largest number of steps in a block.
  """

  data: Tree
  steps_at_once: int

  def block(self, first: int, last: int) -> Tree:
    """Input of steps `first` to `last`, on the devices; blocks are read in order."""
    ...

  @staticmethod
  def batch(data: Tree, x: Tree) -> Batch:
    """Per-device: the batch of a step, from `data` and its entry of a block."""
    ...


class Resident:
  """Data in device memory; the rows of a block are padded to `steps_at_once`."""

  def __init__(
    self, split: pipeline.Split, *, batch_size: int, seed: int, steps_at_once: int
  ):
    self.data = parallel.replicate(_as_int32(split.tracks()))
    self.steps_at_once = steps_at_once
    self._rows = pipeline.train_rows(len(split), batch_size=batch_size, seed=seed)
    self._share = pipeline.share(batch_size, **processes.share())

  def block(self, first: int, last: int) -> Tree:
    rows = [
      np.asarray(self._rows[step - 1])[self._share] for step in range(first, last + 1)
    ]
    padding = [rows[-1]] * (self.steps_at_once - len(rows))
    return parallel.split(np.stack(rows + padding).astype(np.int32), axis=1)

  @staticmethod
  def batch(data: Tree, x: jax.Array) -> Batch:
    return {
      "audio": _windows(data.audio, data.audio_start[x], CLIP_SAMPLES),
      "poses": _windows(data.poses, data.frame_start[x], audio.CLIP_FRAMES),
      "index": x,
    }


def _as_int32(tracks: pipeline.Tracks) -> pipeline.Tracks:
  starts = (tracks.audio_start, tracks.frame_start)
  audio_start, frame_start = (s.astype(np.int32) for s in starts)
  return tracks._replace(audio_start=audio_start, frame_start=frame_start)


def _windows(track: jax.Array, starts: jax.Array, length: int) -> jax.Array:
  def window(start):
    return jax.lax.dynamic_slice_in_dim(track, start, length)

  return jax.vmap(window)(starts)


class Streamed:
  """Data read ahead on the host by `pipeline.train_batches`; a block is one step."""

  data = ()
  steps_at_once = 1

  def __init__(self, batches: Iterator[pipeline.Batch]):
    self._batches = batches

  def block(self, first: int, last: int) -> Tree:
    assert first == last
    batch = next(self._batches)
    return parallel.split({k: v[None] for k, v in batch.items()}, axis=1)

  @staticmethod
  def batch(data: Tree, x: Tree) -> Batch:
    del data
    return x


def ahead(
  feed: Feed, blocks: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, Tree]]:
  """First step, last step and input of each block.

  A thread prepares the input of a block while the block before it is in use.
  """
  with concurrent.futures.ThreadPoolExecutor(1, "feed") as thread:
    submitted = ((*block, thread.submit(feed.block, *block)) for block in blocks)
    coming = next(submitted, None)
    while coming:
      first, last, xs = coming
      coming = next(submitted, None)
      yield first, last, xs.result()


def fits(split: pipeline.Split, limit_gb: float) -> bool:
  """Whether the split can be resident in `limit_gb` (10^9 bytes) of each device."""
  tracks = split.tracks()
  if max(len(tracks.audio), len(tracks.poses)) >= 2**31:  # positions are int32
    return False
  size = sum(track.nbytes for track in tracks)
  limit = min(limit_gb * 1e9, _SHARE_OF_MEMORY * parallel.device_memory())
  return size < limit
