"""What a sound is to the models: its length in frames, and its mel spectrogram.

Conventions: sound is 16 kHz mono float32 in [-1, 1], samples in the last axis; poses
run at 15 frames/s. The spectrogram is of power, without logarithm: n_fft 512, periodic
Hann window of 400, hop 160, centred with reflection, 80 HTK mels from 55 to 7500 Hz,
filters not normalised.
"""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000
FPS = 15
CLIP_FRAMES = 64

NUM_MELS = 80
_N_FFT = 512
_WINDOW = 400
_HOP = 160
_MEL_RANGE_HZ = (55.0, 7500.0)


def num_frames(num_samples: int) -> int:
  """Pose frames under a sound of `num_samples` samples (rounded down)."""
  return int(num_samples / (SAMPLE_RATE / FPS))


def num_samples(num_frames: int) -> int:
  """Samples over `num_frames` pose frames (rounded down): 68266 for a clip of 64."""
  return int(num_frames * SAMPLE_RATE / FPS)


def num_mel_frames(num_samples: int) -> int:
  """Time steps of the spectrogram of a sound: 427 for a clip."""
  return num_samples // _HOP + 1


def fit_to_frames(audio: np.ndarray, frames: int) -> np.ndarray:
  """Crops or zero-pads the last axis to `num_samples(frames)`."""
  length = num_samples(frames)
  missing = max(0, length - audio.shape[-1])
  padding = [(0, 0)] * (audio.ndim - 1) + [(0, missing)]
  return np.pad(audio[..., :length], padding)


@functools.cache
def mel_filters() -> np.ndarray:
  """(257, 80) float32 triangular HTK filters, columns sum as they fall."""
  return librosa.filters.mel(
    sr=SAMPLE_RATE,
    n_fft=_N_FFT,
    n_mels=NUM_MELS,
    fmin=_MEL_RANGE_HZ[0],
    fmax=_MEL_RANGE_HZ[1],
    htk=True,
    norm=None,
  ).T.astype(np.float32)


@functools.cache
def _window() -> np.ndarray:
  """(512,) periodic Hann window of 400 in the middle of the transform."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
  side = (_N_FFT - _WINDOW) // 2
  return np.pad(window, side).astype(np.float32)


def mel_spectrogram(
  audio: Float[np.ndarray | jax.Array, "*batch samples"],
) -> Float[jax.Array, "*batch 80 frames"]:
  """Power mel spectrogram.

  Args:
    audio: (..., samples) 16 kHz, at least 257 samples (the reflection needs them).

  Returns:
    (..., 80, samples // 160 + 1) float32.
  """
  side = _N_FFT // 2
  padding = [(0, 0)] * (audio.ndim - 1) + [(side, side)]
  padded = jnp.pad(audio, padding, mode="reflect")
  starts = jnp.arange(num_mel_frames(audio.shape[-1])) * _HOP
  frames = padded[..., starts[:, None] + jnp.arange(_N_FFT)] * _window()
  spectrum = jnp.fft.rfft(frames)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel = jnp.matmul(power, mel_filters(), precision=jax.lax.Precision.HIGHEST)
  return jnp.swapaxes(mel, -1, -2)
