"""Joins overlapping clips into recordings, so that shared frames are stored once.

A pack has a clip of 64 frames every 5 frames, so that each moment occurs in 13 clips. A
recording is a section of one video with a list of its clips. Clips are joined only if
their overlap agrees bit for bit, so the clips of a recording are identical to the
original ones.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np

from sdt_jax import audio

Example = dict[str, Any]

CLIP_SAMPLES = audio.num_samples(audio.CLIP_FRAMES)

CLIP_FIELDS = ("start", "first_frame", "first_sample")
"""Fields of a recording with one number per clip."""

_NOT_PER_FRAME: Set[str] = {"audio", "clip_id", "start", "video"}


def join(clips: Iterable[Example]) -> Iterator[Example]:
  """Joins consecutive clips into recordings; keeps their order.

  Args:
    clips: examples as described by `builder.ClipBuilder`. They are kept in memory until
      their recording ends.

  Yields:
    Recordings of n clips: `video` text; `clip_id` n texts; `start` (n,) int64,
    unchanged; `first_frame` and `first_sample` (n,) int64, the index at which each clip
    starts in the recording; `audio` (S,) and the arrays with one value per frame
    (F, ...), from the start of the first to the end of the last clip.
  """
  joined: list[Example] = []
  steps: list[tuple[int, int]] = []
  for clip in clips:
    step = _step(joined[-1], clip) if joined else None
    if step is None and joined:
      yield _recording(joined, steps)
      joined, steps = [], []
    joined.append(clip)
    steps.append(step or (0, 0))
  if joined:
    yield _recording(joined, steps)


def _step(last: Example, clip: Example) -> tuple[int, int] | None:
  """Number of frames and samples from the start of a clip to the start of the next.

  None if the next clip does not continue the same video, or the overlaps differ.
  """
  frames = clip["start"] - last["start"]
  known = clip["video"] and min(last["start"], clip["start"]) >= 0
  if not known or clip["video"] != last["video"] or not 0 <= frames < audio.CLIP_FRAMES:
    return None
  per_frame = clip.keys() - _NOT_PER_FRAME
  if not all(_overlap(last[key], clip[key], frames) for key in per_frame):
    return None
  samples = audio.num_samples(clip["start"]) - audio.num_samples(last["start"])
  for step in (samples, samples + 1, samples - 1):  # packs differ in their rounding
    if step >= 0 and _overlap(last["audio"], clip["audio"], step):
      return frames, step
  return None


def _overlap(last: np.ndarray, following: np.ndarray, step: int) -> bool:
  """Whether `last[step:]` equals the start of `following` bit for bit."""
  return last[step:].tobytes() == following[: len(last) - step].tobytes()


def _recording(clips: list[Example], steps: list[tuple[int, int]]) -> Example:
  first_frame, first_sample = np.cumsum(steps, 0, dtype=np.int64).T
  frames, samples = np.array(steps).T
  return {
    "audio": _concatenate([clip["audio"] for clip in clips], samples),
    **{
      key: _concatenate([clip[key] for clip in clips], frames)
      for key in clips[0].keys() - _NOT_PER_FRAME
    },
    "clip_id": [clip["clip_id"] for clip in clips],
    "start": np.array([clip["start"] for clip in clips], np.int64),
    "first_frame": first_frame,
    "first_sample": first_sample,
    "video": clips[0]["video"],
  }


def _concatenate(arrays: list[np.ndarray], steps: np.ndarray) -> np.ndarray:
  """The first array, then the last `step` values of each other array, which are new."""
  news = [a[len(a) - step :] for a, step in zip(arrays[1:], steps[1:], strict=True)]
  return np.concatenate([arrays[0], *news])
