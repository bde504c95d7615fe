"""Measurements of a prepared video for the report."""

import numpy as np
from scipy import ndimage

from sdt_jax import audio
from . import rules

MAX_LAG_FRAMES = 10
PROFILE_RATIO = 4.0
_TREND_FRAMES = 31  # moving average, removed since slow changes correlate too
_FRAME = audio.SAMPLE_RATE // audio.FPS
_SILENCE = 1e-4  # added to the RMS, since digital silence has no logarithm


def coverage(keypoints: np.ndarray) -> dict[str, float]:
  """Part -> share of frames in which all its points are present."""
  return {
    part: float((keypoints[:, 2, points] > 0).all(1).mean())
    for part, points in rules.PARTS.items()
  }


def origins(origin: np.ndarray) -> dict[str, np.ndarray]:
  """Part -> (T,) least reliable `Origin` of its points, 0 where one is missing."""
  return {
    part: np.where((origin[:, points] == 0).any(1), 0, origin[:, points].max(1))
    for part, points in rules.PARTS.items()
  }


def jitter(keypoints: np.ndarray) -> dict[str, float]:
  """Part -> mean norm of the second difference, px/frame²; NaN if never present."""
  second = np.diff(keypoints[:, :2], 2, axis=0)
  there = keypoints[:, 2] > 0
  all_three = there[2:] & there[1:-1] & there[:-2]
  norms = np.where(all_three, np.linalg.norm(second, axis=1), np.nan)
  return {
    part: float(np.nanmean(norms[:, points]))
    if all_three[:, points].any()
    else float("nan")
    for part, points in rules.PARTS.items()
  }


def profile_share(keypoints: np.ndarray) -> float:
  """Share of faces in profile, whose far half is a guess of the detector.

  Profile: the nose tip is 4 times as far from one end of the jaw as from the other.
  """
  tip, right, left = (rules.point(keypoints, f"face_{i}") for i in (30, 0, 16))
  to_right, to_left = np.abs(tip - right)[:, 0], np.abs(tip - left)[:, 0]
  seen = np.isfinite(to_right) & np.isfinite(to_left)
  far, near = np.maximum(to_right, to_left), np.minimum(to_right, to_left)
  return float((far > PROFILE_RATIO * near)[seen].mean()) if seen.any() else 0.0


def mouth_opening(keypoints: np.ndarray) -> np.ndarray:
  """(T,) distance between the inner lips in shoulder widths, NaN where missing."""
  lips = (rules.point(keypoints, f"face_{i}") for i in (62, 66))
  return rules.distance(*lips) / rules.shoulder_width(keypoints)


def loudness(samples: np.ndarray, frames: int) -> np.ndarray:
  """(frames,) logarithm of the RMS of the sound around each frame."""
  padded = np.pad(samples, (_FRAME // 2, _FRAME))
  starts = [min(audio.num_samples(i), len(padded) - _FRAME) for i in range(frames)]
  rms = [np.sqrt(np.square(padded[s : s + _FRAME]).mean()) for s in starts]
  return np.log(np.array(rms) + _SILENCE)


def lag_curve(opening: np.ndarray, loud: np.ndarray) -> np.ndarray:
  """(21,) correlation of mouth opening and loudness for lags of -10 to 10 frames.

  At lag n, the mouth is compared with the sound n frames earlier: if the best lag is
  positive, the picture is late.
  """
  opening, loud = _without_trend(opening), _without_trend(loud)
  length = min(len(opening), len(loud))
  curve = []
  for lag in range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1):
    pairs = max(0, length - abs(lag))
    mouth, sound = opening[max(0, lag) :][:pairs], loud[max(0, -lag) :][:pairs]
    seen = np.isfinite(mouth)
    mouth, sound = mouth[seen], sound[seen]
    moves = len(mouth) > 2 and np.ptp(mouth) > 0 and np.ptp(sound) > 0
    curve.append(float(np.corrcoef(mouth, sound)[0, 1]) if moves else 0.0)
  return np.array(curve)


def best_lag(curve: np.ndarray, frames: int) -> int | None:
  """The lag of the highest correlation, or None if that is too low.

  Args:
    curve: result of `lag_curve`.
    frames: length of the video; with few frames, chance correlations are high.
  """
  clear = max(0.2, 5.5 / np.sqrt(max(frames, 1)))
  return int(curve.argmax()) - MAX_LAG_FRAMES if curve.max() >= clear else None


def _without_trend(values: np.ndarray) -> np.ndarray:
  """(T,) minus its moving average; NaN stays NaN."""
  seen = np.isfinite(values)
  total, share = (
    ndimage.uniform_filter1d(x.astype(float), _TREND_FRAMES, mode="constant")
    for x in (np.where(seen, values, 0), seen)
  )
  return values - total / np.maximum(share, 1 / _TREND_FRAMES)
