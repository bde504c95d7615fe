"""How close generated motion is to the truth, and how it moves: one value per clip.

Conventions: `pred_px` and `truth_px` are final poses (`pose.to_final`), shape
(B, T, dims, joints), pixels of the common speaker size relative to the neck,
15 frames/s; x_tk is joint k of frame t. Every metric returns (B,) float32, so that an
evaluation over any number of batches and devices collects the same numbers as one pass
(`collect`) and reports their mean with its interval over clips (`summarize`). The array
metrics take NumPy or JAX arrays and can be traced; beats and summaries are NumPy on the
host. `registry` lists all metrics.

Where the literature has several metrics of one name, the docstring says which this is.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import librosa
import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.audio import FPS, SAMPLE_RATE
from sdt_jax.errors import UserError

# Bins of the hand speed: 25 px/s is about 3 cm/s; the last bin is open.
SPEED_BIN_PX = 25.0
NUM_SPEED_BINS = 80

BEAT_DROP = 0.03  # depth of a minimum that counts as a beat, in mean angle changes
BEAT_SIGMA_S = 0.1

RESAMPLES = 1000
CONFIDENCE = 0.95

_LIP_EPSILON_PX = 1e-4

# (side, joint): the arms from shoulder to wrist; the neck is the origin.
_ARMS = np.stack(
  [
    kp.UPPER_BODY.indices(f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
    for side in ("right", "left")
  ]
)
_WRISTS = _ARMS[:, -1]
# The middle points of the upper and the lower inner lip.
_INNER_LIPS = kp.UPPER_BODY.indices("face_62", "face_66")


# --- Against the truth


def l2(pred_px: jax.Array, truth_px: jax.Array) -> jax.Array:
  """Mean over frames and joints of |pred_tk - truth_tk|, px.

  Source: "L2 distance" of Speech Drives Templates (ICCV 2021), Table 1.
  """
  return _distance(pred_px, truth_px).mean((-2, -1))


def lip_sync(pred_px: jax.Array, truth_px: jax.Array) -> jax.Array:
  """Mean over frames of |o(pred_t) - o(truth_t)| / (max_t o(truth_t) + 1e-4 px).

  o is the mouth's opening, the distance of the middle points of the inner lips. No
  unit. Source: "lip-sync error" of Speech Drives Templates (ICCV 2021), Table 1,
  normalised as the authors' code does.
  """
  opening, true_opening = _mouth_opening(pred_px), _mouth_opening(truth_px)
  largest = true_opening.max(-1) + _LIP_EPSILON_PX
  return jnp.abs(opening - true_opening).mean(-1) / largest


def pck(pred_px: jax.Array, truth_px: jax.Array, alpha: float) -> jax.Array:
  """Share of keypoints within `alpha` x the larger side of the true bounding box.

  The box is the truth's bounding box of all joints in the same frame. In
  [0, 1], more is better. Source: "percentage of correct keypoints" as used by
  Speech2Gesture (CVPR 2019), there with 0.2.
  """
  box = truth_px.max(-1) - truth_px.min(-1)
  radius = alpha * box.max(-1)
  return (_distance(pred_px, truth_px) <= radius[..., None]).mean((-2, -1))


def lvd(pred_px: jax.Array, truth_px: jax.Array) -> jax.Array:
  """Landmark velocity difference: mean of |velocity(pred)_tk - velocity(truth)_tk|.

  px/s, over the T - 1 frame differences and all joints. Source: "D-V" of MakeItTalk
  (SIGGRAPH Asia 2020), without its division by the face's size. TalkSHOW's LVD
  (CVPR 2023) differs: it compares the magnitudes of each coordinate's velocity.
  """
  return _distance(_derivative(pred_px, 1), _derivative(truth_px, 1)).mean((-2, -1))


def l1_regression(pred_norm: jax.Array, truth_norm: jax.Array) -> jax.Array:
  """Mean over frames, coordinates and joints of |pred - truth|, in speaker's stds.

  The poses (B, T, dims, joints) are normalised and in the form of the model. Source:
  the regression loss of the paper, which the models are trained to lower.
  """
  return jnp.abs(pred_norm - truth_norm).mean((-3, -2, -1))


# --- Without reference to the truth


def diversity_l1(poses_px: jax.Array) -> jax.Array:
  """Mean over frames, coordinates and joints of |x_tk - mean_t x_tk|, px.

  Source: "L1 diversity" of EMAGE (CVPR 2024), there summed over the coordinates.
  """
  return jnp.abs(poses_px - poses_px.mean(-3, keepdims=True)).mean((-3, -2, -1))


def diversity_samples(samples_px: jax.Array) -> jax.Array:
  """Mean over pairs of renderings of one sound of their `l2`, px; 0 if all are equal.

  Args:
    samples_px: (S, B, T, dims, joints), S >= 2 renderings of each of B sounds.

  Raises:
    UserError: there is only one rendering.

  Source: the "multimodality" of action2motion (ACM MM 2020), on poses.
  """
  num_samples = len(samples_px)
  if num_samples < 2:
    raise UserError(
      f"diversity_samples: {num_samples} rendering per clip; set num_samples >= 2"
    )
  # Each rotation pairs every rendering with one other; together, every ordered pair.
  rotations = range(1, num_samples)
  pairs = [l2(samples_px, jnp.roll(samples_px, k, axis=0)).mean(0) for k in rotations]
  return sum(pairs[1:], pairs[0]) / len(pairs)


def acceleration(poses_px: jax.Array) -> jax.Array:
  """Mean norm of the second difference over frames and joints, px/s^2.

  Source: GENEA Challenge 2020 (IUI 2021), "average acceleration".
  """
  return _length(_derivative(poses_px, 2)).mean((-2, -1))


def jerk(poses_px: jax.Array) -> jax.Array:
  """Mean norm of the third difference over frames and joints, px/s^3.

  Source: GENEA Challenge 2020 (IUI 2021), "average jerk".
  """
  return _length(_derivative(poses_px, 3)).mean((-2, -1))


def bone_length_cv(poses_px: jax.Array) -> jax.Array:
  """Variation of the arms' lengths: std over time / mean over time, no unit.

  Mean over both upper arms (shoulder to elbow) and forearms (elbow to wrist). These are
  lengths in the image, so foreshortening makes the value positive even for the truth;
  only an excess over the truth indicates stretched limbs. Defined by this project.
  """
  lengths = _length(jnp.diff(poses_px[..., _ARMS], axis=-1), axis=-3)
  # The floor is for padding: a clip of zeros gives 0 instead of 0 / 0.
  mean = jnp.maximum(lengths.mean(-3), 1e-4)
  return (lengths.std(-3) / mean).mean((-2, -1))


def hand_speed_histogram(poses_px: jax.Array) -> jax.Array:
  """(B, 80) histogram of each clip's wrist speeds, as float32.

  Bins of 25 px/s from 0; the last is open. A clip has 2 (T - 1) speeds.
  """
  speed = _length(_derivative(poses_px[..., _WRISTS], 1))
  bins = jnp.minimum(speed / SPEED_BIN_PX, NUM_SPEED_BINS - 1).astype(jnp.int32)
  return jax.nn.one_hot(bins, NUM_SPEED_BINS).sum((-3, -2))


def _length(vectors: jax.Array, axis: int = -2) -> jax.Array:
  return jnp.sqrt(jnp.square(vectors).sum(axis))


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """Two arrays (..., T, dims, K) -> (..., T, K)."""
  return _length(a - b)


def _derivative(poses_px: jax.Array, order: int) -> jax.Array:
  """(..., T, dims, K) -> (..., T - order, dims, K), px/s^order."""
  return jnp.diff(poses_px, n=order, axis=-3) * FPS**order


def _mouth_opening(poses_px: jax.Array) -> jax.Array:
  """(..., T, dims, joints) -> (..., T) px."""
  upper, lower = (poses_px[..., lip] for lip in _INNER_LIPS)
  return _length(upper - lower, axis=-1)


# --- Beats of motion and sound


def audio_onsets(audio: np.ndarray) -> np.ndarray:
  """Onsets of a sound (samples,) at 16 kHz, seconds; `librosa.onset.onset_detect`."""
  return librosa.onset.onset_detect(y=np.asarray(audio), sr=SAMPLE_RATE, units="time")


def mean_angle_change(poses_px: np.ndarray) -> np.ndarray:
  """(4,) mean absolute change of each arm angle, radians per frame; for `bc_ha2g`.

  Computed from training clips (N, T, dims, joints).
  """
  return np.abs(np.diff(_arm_angles(poses_px), axis=-2)).mean((0, 1))


def motion_beats(poses_px: np.ndarray, mean_change: np.ndarray) -> np.ndarray:
  """Times at which the arms come to rest, seconds; see `bc_ha2g`.

  Args:
    poses_px: (T, dims, joints) final poses of one clip.
    mean_change: (4,) from `mean_angle_change`; an angle that never changes there (0)
      is left out.
  """
  change = np.abs(np.diff(_arm_angles(poses_px), axis=0))
  moves = mean_change > 0
  relative = np.divide(change, mean_change, out=np.zeros_like(change), where=moves)
  rate = relative.mean(-1)  # rate[i]: from frame i to frame i + 1
  before, here, after = rate[:-2], rate[1:-1], rate[2:]
  is_minimum = (here < before) & (here < after)
  is_deep = (before - here >= BEAT_DROP) | (after - here >= BEAT_DROP)
  return (np.flatnonzero(is_minimum & is_deep) + 2) / FPS


def bc_ha2g(
  poses_px: np.ndarray, onsets: Sequence[np.ndarray], mean_change: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Beat consistency: mean over sound onsets of exp(-min_b (onset - b)^2 / (2 0.1^2)).

  b are the motion beats: local minima over time of the mean normalised angle change,
  at least 0.03 below the frame before or the frame after. The angles are the four of
  HA2G's TED Gesture skeleton: between neck-shoulder and upper arm, and between upper
  arm and forearm, of both sides. The change of each from one frame to the next is
  divided by its mean over the training split, then averaged. The change from frame
  t - 1 to t counts as of time t / 15 s.

  As there, a clip without motion beats is left out (weight 0), and so is one without
  onsets; the mean over the others is over all their onsets. Angles here are of the
  picture plane, there of space. In [0, 1], more is better.

  Args:
    poses_px: (B, T, dims, joints) final poses.
    onsets: times in seconds, for each clip (`audio_onsets`).
    mean_change: (4,) from `mean_angle_change`.

  Returns:
    (B,) score, and (B,) number of onsets that it is the mean of, its weight in
    `summarize`.

  Source: HA2G (CVPR 2022), "beat consistency", and its published code.
  """
  scores, weights = np.zeros(len(poses_px)), np.zeros(len(poses_px))
  for i, (poses, times) in enumerate(zip(poses_px, onsets, strict=True)):
    beats = motion_beats(np.asarray(poses), mean_change)
    if beats.size and times.size:
      nearest = np.abs(times[:, None] - beats).min(1)
      scores[i] = np.exp(-np.square(nearest) / (2 * BEAT_SIGMA_S**2)).mean()
      weights[i] = times.size
  return scores, weights


def _arm_angles(poses_px: np.ndarray) -> np.ndarray:
  """Angles (..., T, 4) at shoulder and elbow, right and left, in [0, pi]."""
  x, y = np.moveaxis(np.diff(poses_px[..., _ARMS], axis=-1, prepend=0), -3, 0)
  dot = x[..., :-1] * x[..., 1:] + y[..., :-1] * y[..., 1:]
  cross = x[..., :-1] * y[..., 1:] - y[..., :-1] * x[..., 1:]
  angles = np.arctan2(np.abs(cross), dot)
  return angles.reshape(*angles.shape[:-2], -1)


# --- Means over clips and their intervals


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A metric over all clips with its 95 % bootstrap interval over clips.

  Attributes:
    value: the metric; NaN if no clip defines it.
    low, high: the interval; it contains the value.
    num_clips: how many clips count.

  Clips that overlap in time are not independent: on sliding windows the interval is
  narrower than one over independent recordings would be.
  """

  value: float
  low: float
  high: float
  num_clips: int


def collect(
  batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> dict[str, np.ndarray]:
  """Joins the batches of an evaluation; every clip counts once.

  Args:
    batches: pairs of name -> (B, ...) values, and (B,) bool that is False where the
      batch was padded.

  Returns:
    name -> (N, ...) of the N valid clips in their order.

  Raises:
    UserError: there is no valid clip.
  """
  rows = [
    {name: np.asarray(v)[np.asarray(valid, bool)] for name, v in values.items()}
    for values, valid in batches
  ]
  if not any(len(v) for row in rows for v in row.values()):
    raise UserError("evaluation: the split has no clips; choose another split")
  return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def summarize(
  values: Mapping[str, np.ndarray],
  weights: Mapping[str, np.ndarray] | None = None,
  seed: int = 0,
) -> dict[str, Estimate]:
  """Mean over clips of each metric, with its interval.

  Args:
    values: name -> (N,), one value per clip, with the clips in the same order.
    weights: name -> (N,) weights >= 0 of those metrics that are not a plain mean; a
      value of weight 0 may be NaN.
    seed: for the resampling; all metrics see the same resamples.
  """
  names = list(values)
  value = np.stack([np.asarray(values[n], np.float64) for n in names], 1)
  weight = np.ones_like(value)
  for name, w in (weights or {}).items():
    weight[:, names.index(name)] = w
  value = np.where(weight > 0, value, 0)
  draws = bootstrap_draws(len(value), seed)
  with np.errstate(invalid="ignore"):  # all weights 0: NaN is intended
    means = (value * weight).sum(0) / weight.sum(0)
    resampled = (draws @ (value * weight)) / (draws @ weight)
  return {
    name: estimate(means[i], resampled[:, i], int((weight[:, i] > 0).sum()))
    for i, name in enumerate(names)
  }


def hellinger_speed(
  counts: np.ndarray, true_counts: np.ndarray, seed: int = 0
) -> Estimate:
  """Hellinger distance sqrt(1 - sum_k sqrt(p_k q_k)) of two hand-speed histograms.

  p and q are the shares of all clips' wrist speeds in bin k, of prediction and truth.
  In [0, 1], less is better.

  Args:
    counts: (N, 80) from `hand_speed_histogram`, of the predictions.
    true_counts: (N, 80) of the truth of the same clips.
    seed: for the resampling.

  Source: GENEA Challenge 2020 (IUI 2021), with the wrists for the hands.
  """
  draws = bootstrap_draws(len(counts), seed)
  value = _hellinger(counts.sum(0, np.float64), true_counts.sum(0, np.float64))
  resampled = _hellinger(draws @ counts, draws @ true_counts)
  return estimate(float(value), resampled, len(counts))


def bootstrap_draws(
  num_clips: int, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
  """(resamples, num_clips) float64: how often each resample draws each clip."""
  rng = np.random.default_rng(seed)
  share = np.full(num_clips, 1 / num_clips)
  return rng.multinomial(num_clips, share, size=resamples).astype(np.float64)


def estimate(value: float, resampled: np.ndarray, num_clips: int) -> Estimate:
  """The value with the spread of its resamples around it.

  Distances between distributions grow as clips get fewer, and a resample has fewer
  distinct ones, so its distances are biased upwards. The resamples are shifted to put
  their median at the value, which hardly affects a mean. The lower end of a
  metric that cannot be negative stays at or above 0.

  Args:
    value: the metric over all clips, not negative.
    resampled: (R,) the metric of each resample; those that define none are NaN.
    num_clips: how many clips count.
  """
  defined = resampled[np.isfinite(resampled)]
  if not np.isfinite(value) or not defined.size:
    return Estimate(float(value), float("nan"), float("nan"), num_clips)
  tail = (1 - CONFIDENCE) / 2
  low, median, high = np.quantile(defined, [tail, 0.5, 1 - tail])
  lowest, highest = max(0.0, value + low - median), value + high - median
  return Estimate(float(value), float(lowest), float(highest), num_clips)


def _hellinger(counts: np.ndarray, true_counts: np.ndarray) -> np.ndarray:
  """Two arrays (..., K) -> (...,); uses differences, so equal arrays give exactly 0."""
  p = np.sqrt(counts / counts.sum(-1, keepdims=True))
  q = np.sqrt(true_counts / true_counts.sum(-1, keepdims=True))
  return np.sqrt(np.square(p - q).sum(-1) / 2)
