"""Reference motions for the same clips, which come from no model.

Each function returns final poses (N, T, dims, joints) in pixels: the truth of another
clip (natural motion that does not fit the sound), the mean pose held still (the safest
guess), and the training clip with the most similar sound (natural motion that may fit).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio as sound
from sdt_jax import pose
from sdt_jax.errors import UserError

_TIME_STEPS = 16  # per clip of 4.27 s: fine enough to separate stressed syllables
_SILENCE = 1e-4  # inaudible mel power
_AUDIO_CHUNK = 64
_CLIP_CHUNK = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
  """Where N clips were cut from.

  Attributes:
    videos: (N,) name of the recording.
    starts, ends: (N,) position in it, end exclusive, in any one unit.
  """

  videos: Sequence[str]
  starts: Sequence[float] | np.ndarray
  ends: Sequence[float] | np.ndarray


def mean_pose_held(
  table: pose.PoseTable, num_clips: int, num_frames: int
) -> np.ndarray:
  """The speaker's mean pose in every frame; (N, T, dims, joints), a read-only view."""
  mean = pose.to_final(np.zeros_like(table.mean), table)
  return np.broadcast_to(mean, (num_clips, num_frames, *mean.shape))


def truth_of_another(
  truth_px: np.ndarray, seed: int, places: Places | None = None
) -> np.ndarray:
  """The truth (N, T, dims, joints), reordered as returned by `other_clips`."""
  return truth_px[other_clips(len(truth_px), seed, places)]


def other_clips(num_clips: int, seed: int, places: Places | None = None) -> np.ndarray:
  """For each clip, the index of another clip that shares no frame with it.

  The result is a permutation, so the set of motions stays the same. The clips are
  lined up (videos in random order, each in order of time), and each gets the clip that
  is a random distance further on, beyond the reach of any overlap.

  Args:
    num_clips: N, also the length of the result.
    seed: for the random order and distance.
    places: where the clips were cut from; None if no two clips overlap.

  Raises:
    UserError: there are too few clips that do not overlap.
  """
  rng = np.random.default_rng(seed)
  if places is None:
    order, reach = rng.permutation(num_clips), 0
  else:
    order, reach = _line_up(rng, places)
  # The distance must exceed the reach in both directions, as the order is cyclic.
  first, last = reach + 1, num_clips - reach - 1
  if first > last:
    raise UserError(
      f"{num_clips} clips are too few to give each the truth of another that it does "
      f"not overlap (overlaps reach {reach} clips on); evaluate more recordings"
    )
  others = np.empty(num_clips, int)
  others[order] = np.roll(order, -rng.integers(first, last + 1))
  return others


def _line_up(rng: np.random.Generator, places: Places) -> tuple[np.ndarray, int]:
  """Order (N,) of the clips, and the largest offset at which two clips overlap."""
  names, video = np.unique(np.asarray(places.videos), return_inverse=True)
  starts, ends = np.asarray(places.starts), np.asarray(places.ends)
  order = np.lexsort((starts, rng.permutation(len(names))[video]))
  reach = 0
  for v in range(len(names)):
    clips = order[video[order] == v]
    # The last clip that starts before each one ends.
    last = np.searchsorted(starts[clips], ends[clips]) - 1
    reach = max(reach, int((last - np.arange(len(clips))).max()))
  return order, reach


def sound_features(audio: np.ndarray) -> np.ndarray:
  """(N, samples) 16 kHz -> (N, 1280) float32: log mel at 16 points over the clip."""
  chunks = range(0, len(audio), _AUDIO_CHUNK)
  parts = [_sound_features(np.asarray(audio[i : i + _AUDIO_CHUNK])) for i in chunks]
  return np.concatenate([np.asarray(part) for part in parts])


@jax.jit
def _sound_features(audio: jax.Array) -> jax.Array:
  log_mel = jnp.log(sound.mel_spectrogram(audio) + _SILENCE)
  pooled = jax.image.resize(log_mel, (*log_mel.shape[:-1], _TIME_STEPS), "linear")
  return pooled.reshape(len(audio), -1)


def nearest_features(features: np.ndarray, train_features: np.ndarray) -> np.ndarray:
  """(N,) index of the nearest of `train_features` (M, F) to each of `features` (N, F).

  Euclidean distance of features scaled to mean 0 and std 1 over training.
  """
  mean, std = train_features.mean(0), train_features.std(0)
  std = np.where(std > 0, std, 1)
  train = (train_features - mean) / std
  # |f - t|^2 less |f|^2, which is the same for every t.
  offsets = np.square(train).sum(1)
  nearest = [
    np.argmin(offsets - 2 * ((features[i : i + _CLIP_CHUNK] - mean) / std) @ train.T, 1)
    for i in range(0, len(features), _CLIP_CHUNK)
  ]
  return np.concatenate(nearest)
