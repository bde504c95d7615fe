"""Joins clips that overlap into recordings, which hold what the clips share once.

A pack has a clip of 64 frames every 5 frames, so that every moment of it is in 13
clips. A recording is a stretch of one video with a list of the clips in it. Only what
agrees bit for bit is joined: the clips that are cut from a recording are those that
went in.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np

from sdt_jax import audio

Example = dict[str, Any]

CLIP_SAMPLES = audio.num_samples(audio.CLIP_FRAMES)

OF_CLIPS = ("start", "first_frame", "first_sample")
"""What a recording has one number of for each clip."""

_NOT_OF_FRAMES: Set[str] = {"audio", "clip_id", "start", "video"}


def join(clips: Iterable[Example]) -> Iterator[Example]:
  """Recordings of consecutive clips, in the order of the clips.

  Args:
    clips: examples as `builder.ClipBuilder.shards` describes them. They are held in
      memory until their recording ends.

  Yields:
    `video` text, and of the n clips of a recording: `clip_id` n texts; `start` (n,)
    int64 as it was; `first_frame` and `first_sample` (n,) int64, where each begins in
    the recording. `audio` (S,) and the arrays that have a value for each frame, now
    (F, ...), reach to the end of the last clip.
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
  """Frames and samples from the start of a clip to that of the next one.

  None if the next one does not go on with the same video, or overlaps it otherwise.
  """
  frames = clip["start"] - last["start"]
  known = clip["video"] and min(last["start"], clip["start"]) >= 0
  if not known or clip["video"] != last["video"]:
    return None
  if not 0 <= frames < audio.CLIP_FRAMES:
    return None
  if not all(_overlap(last[key], clip[key], frames) for key in _frame_keys(clip)):
    return None
  samples = audio.num_samples(clip["start"]) - audio.num_samples(last["start"])
  for step in (samples, samples + 1, samples - 1):  # whichever way it was rounded
    if step >= 0 and _overlap(last["audio"], clip["audio"], step):
      return frames, step
  return None


def _frame_keys(clip: Example) -> Set[str]:
  return clip.keys() - _NOT_OF_FRAMES


def _overlap(last: np.ndarray, following: np.ndarray, step: int) -> bool:
  """Whether the same bits are there `step` later in `last`."""
  return last[step:].tobytes() == following[: len(last) - step].tobytes()


def _recording(clips: list[Example], steps: list[tuple[int, int]]) -> Example:
  first_frame, first_sample = np.cumsum(steps, 0, dtype=np.int64).T
  frames, samples = np.array(steps).T
  return {
    "audio": _concatenate([clip["audio"] for clip in clips], samples),
    **{
      key: _concatenate([clip[key] for clip in clips], frames)
      for key in _frame_keys(clips[0])
    },
    "clip_id": [clip["clip_id"] for clip in clips],
    "start": np.array([clip["start"] for clip in clips], np.int64),
    "first_frame": first_frame,
    "first_sample": first_sample,
    "video": clips[0]["video"],
  }


def _concatenate(arrays: list[np.ndarray], steps: np.ndarray) -> np.ndarray:
  """The first array, and of every other its last `step`, which the one before lacks."""
  news = [a[len(a) - step :] for a, step in zip(arrays[1:], steps[1:], strict=True)]
  return np.concatenate([arrays[0], *news])
