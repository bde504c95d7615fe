"""What a sound is to the models: its length in frames, and its mel spectrogram.

Conventions: sound is 16 kHz mono float32 in [-1, 1], samples in the last axis; poses
run at 15 frames/s. The spectrogram is of power, without logarithm: n_fft 512, periodic
Hann window of 400, hop 160, centred with reflection, 80 HTK mels from 55 to 7500 Hz,
filters not normalised.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000
FPS = 15
CLIP_FRAMES = 64
MAX_PEAK = 16.0  # loud float sound overshoots 1 a little, integers in floats a lot

NUM_MELS = 80
_N_FFT = 512
SIDE = _N_FFT // 2  # samples that the centred transform looks beyond either end
_WINDOW = 400
_HOP = 160
_MEL_FPS = SAMPLE_RATE // _HOP
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


def mel_frames_over(num_frames: Any) -> Any:
  """Time steps of the spectrogram of `num_samples(num_frames)`; also for arrays."""
  return num_frames * _MEL_FPS // FPS + 1


def num_frames_under_mel(mel_frames: Any) -> Any:
  """Pose frames under a spectrogram, perhaps symbolic; undoes `mel_frames_over`."""
  return ((mel_frames - 1) * FPS + _MEL_FPS - 1) // _MEL_FPS


def fit_to_frames(audio: np.ndarray, frames: int) -> np.ndarray:
  """Crops or zero-pads the last axis to `num_samples(frames)`."""
  length = num_samples(frames)
  missing = max(0, length - audio.shape[-1])
  padding = [(0, 0)] * (audio.ndim - 1) + [(0, missing)]
  return np.pad(audio[..., :length], padding)


@functools.cache
def mel_filters() -> np.ndarray:
  """(257, 80) float32 triangular HTK filters, columns sum as they fall.

  `librosa.filters.mel` gives the same, but takes a second to import.
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
  padding = [(0, 0)] * (audio.ndim - 1) + [(SIDE, SIDE)]
  return mel_of_reflected(jnp.pad(audio, padding, mode="reflect"))


def mel_of_reflected(
  reflected: Float[np.ndarray | jax.Array, "*batch samples"],
) -> Float[jax.Array, "*batch 80 frames"]:
  """`mel_spectrogram` of a sound that has its reflection, `SIDE` samples on each side.

  Zeros may follow: the time steps of the sound itself stay what they are.
  """
  starts = jnp.arange(num_mel_frames(reflected.shape[-1] - 2 * SIDE)) * _HOP
  frames = reflected[..., starts[:, None] + jnp.arange(_N_FFT)] * _window()
  spectrum = jnp.fft.rfft(frames)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel = jnp.matmul(power, mel_filters(), precision=jax.lax.Precision.HIGHEST)
  return jnp.swapaxes(mel, -1, -2)
