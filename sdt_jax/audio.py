"""Audio in the models' format: lengths in pose frames, and the mel spectrogram.

Conventions: audio is 16 kHz mono float32 in [-1, 1], samples in the last axis; poses
have 15 frames/s. The mel spectrogram is a power spectrogram without logarithm: FFT
size 512, periodic Hann window of 400 samples, centred with reflection padding, 80 HTK
mel bands from 55 to 7500 Hz, filters not normalised; 100 steps/s unless stated.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000
FPS = 15
CLIP_FRAMES = 64
MAX_PEAK = 16.0  # loud float audio slightly exceeds 1; raw integers far exceed it

NUM_MELS = 80
_N_FFT = 512
SIDE = _N_FFT // 2  # samples of reflection padding at each end
_WINDOW = 400
MEL_RATE = 100  # time steps per second
_MEL_RANGE_HZ = (55.0, 7500.0)


def num_frames(num_samples: int) -> int:
  """Number of pose frames in `num_samples` audio samples, to the nearest whole frame.

  This deviates from the original, `int(n / (sample_rate / fps))`, whose floating-point
  rounding gives 14 frames for one second and 63 for the 68266 samples of a clip; here
  they are 15 and 64. An exact half is rounded up.
  """
  return (2 * num_samples * FPS + SAMPLE_RATE) // (2 * SAMPLE_RATE)


def num_samples(num_frames: int) -> int:
  """Number of audio samples in `num_frames` frames, rounded down: 68266 for 64."""
  return num_frames * SAMPLE_RATE // FPS


def num_mel_frames(num_samples: int, rate: int = MEL_RATE) -> int:
  """Number of time steps in the mel spectrogram of `num_samples`: 427 for a clip."""
  return num_samples * rate // SAMPLE_RATE + 1


def mel_frames_over(num_frames: Any) -> Any:
  """`num_mel_frames(num_samples(num_frames))`, for integers and integer arrays."""
  return num_frames * MEL_RATE // FPS + 1


def num_frames_under_mel(mel_frames: Any, rate: int = MEL_RATE) -> Any:
  """Inverse of `mel_frames_over`; also takes a symbolic dimension."""
  return ((mel_frames - 1) * FPS + rate - 1) // rate


def fit_to_frames(audio: np.ndarray, frames: int) -> np.ndarray:
  """Crops or zero-pads the last axis to exactly `num_samples(frames)`."""
  length = num_samples(frames)
  missing = max(0, length - audio.shape[-1])
  padding = [(0, 0)] * (audio.ndim - 1) + [(0, missing)]
  return np.pad(audio[..., :length], padding)


@functools.cache
def mel_filters() -> np.ndarray:
  """Triangular HTK mel filters, (257, 80) float32, not normalised.

  Equal to `librosa.filters.mel`, which takes a second to import.
  """
  low, high = (2595 * np.log10(1 + hertz / 700) for hertz in _MEL_RANGE_HZ)
  corners = 700 * (10 ** (np.linspace(low, high, NUM_MELS + 2) / 2595) - 1)
  bins = np.linspace(0, SAMPLE_RATE / 2, _N_FFT // 2 + 1)[:, None]
  widths = np.diff(corners)
  rising = (bins - corners[:-2]) / widths[:-1]
  falling = (corners[2:] - bins) / widths[1:]
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def _window() -> np.ndarray:
  """(512,) periodic Hann window of 400 samples, zero-padded on both sides."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
  side = (_N_FFT - _WINDOW) // 2
  return np.pad(window, side).astype(np.float32)


def mel_spectrogram(
  audio: Float[np.ndarray | jax.Array, "*batch samples"], rate: int = MEL_RATE
) -> Float[jax.Array, "*batch 80 frames"]:
  """Power mel spectrogram.

  Args:
    audio: (..., samples) 16 kHz, at least 257 samples for the reflection padding.
    rate: time steps per second.

  Returns:
    (..., 80, num_mel_frames(samples, rate)) float32.
  """
  padding = [(0, 0)] * (audio.ndim - 1) + [(SIDE, SIDE)]
  return mel_of_reflected(jnp.pad(audio, padding, mode="reflect"), rate)


def mel_of_reflected(
  reflected: Float[np.ndarray | jax.Array, "*batch samples"], rate: int = MEL_RATE
) -> Float[jax.Array, "*batch 80 frames"]:
  """`mel_spectrogram` of audio already padded by reflection, `SIDE` samples per side.

  Zeros may follow the padding; they leave the time steps of the audio unchanged.
  """
  steps = num_mel_frames(reflected.shape[-1] - 2 * SIDE, rate)
  return mel_at(reflected, mel_centres(jnp.arange(steps), rate))


def mel_centres(steps: Any, rate: int) -> Any:
  """The sample that each time step of a mel spectrogram is centred on."""
  common = math.gcd(SAMPLE_RATE, rate)  # keeps the product within int32
  return steps * (SAMPLE_RATE // common) // (rate // common)


def mel_at(
  audio: Float[np.ndarray | jax.Array, "*batch samples"], starts: jax.Array
) -> Float[jax.Array, "*batch 80 frames"]:
  """Mel spectrum of the 2 * `SIDE` samples from each of these on, (frames,) int."""
  frames = audio[..., starts[:, None] + jnp.arange(_N_FFT)] * _window()
  spectrum = jnp.fft.rfft(frames)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel = jnp.matmul(power, mel_filters(), precision=jax.lax.Precision.HIGHEST)
  return jnp.swapaxes(mel, -1, -2)
