"""The voice of the synthetic speaker: speech-like audio with known articulation.

First, a script of phones is drawn at random: phrases contain breath groups, and these
contain syllables with onset, vowel and coda. Smoothing the targets of the phones gives
the articulation. Then a source (glottal pulses and noise) is filtered accordingly (G.
Fant, Acoustic Theory of Speech Production, 1960). The audio has no words, but it has
the acoustics of speech: open vowels are loud and have a high first formant, closures
are quiet, and some syllables are prominent, that is longer, louder and higher.

Conventions: times are in seconds from the start of the audio. Tracks (K,) have one
value per hop of `HOP` samples, at the middle of the hop.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from sdt_jax.audio import SAMPLE_RATE

HOP = 128
TRACK_RATE = SAMPLE_RATE / HOP

_PHONES = pathlib.Path(__file__).parents[1] / "assets" / "synthetic_phones.json"
_N_FFT = 4 * HOP
_FORMANT_WIDTHS_HZ = (95.0, 90.0, 130.0, 200.0, 260.0)
_HIGH_FORMANTS_HZ = (3500.0, 4500.0)  # nearly constant in speech
_OPEN_QUOTIENT = 0.6  # fraction of a period during which the glottis is open
_BREATH = 0.03  # noise level in the source of voiced sounds
_LOUDNESS = 0.16  # root mean square of a fully open and prominent vowel


@dataclasses.dataclass(frozen=True)
class Voice:
  """The characteristics of a voice."""

  pitch_hz: float  # mean fundamental frequency
  formant_scale: float  # factor of the formants; above 1 for a short vocal tract
  rate: float  # syllable rate relative to about 4.5 syllables/s


class Script(NamedTuple):
  """Sequence of P phones with their timing, in seconds."""

  phones: np.ndarray  # (P,) indices into the phone table
  starts: np.ndarray  # (P,)
  emphasis: np.ndarray  # (P,) in [0, 1], positive in prominent syllables
  declination: np.ndarray  # (P,) pitch factor that falls over each breath group
  beats: np.ndarray  # (B,) the middle of each prominent vowel
  beat_strengths: np.ndarray  # (B,) in (0, 1]
  phrase_starts: np.ndarray  # (Q,); a pause between phrases belongs to the first


class Speech(NamedTuple):
  """Audio with its articulation."""

  audio: np.ndarray  # (samples,) float32, 16 kHz, in [-1, 1]
  opening: np.ndarray  # (K,) opening of the mouth, in [0, 1]
  spread: np.ndarray  # (K,) shape of the lips, from -1 (rounded) to 1 (spread)
  prominence: np.ndarray  # (K,) in [0, 1], positive in prominent vowels
  activity: np.ndarray  # (K,) in [0, 1], 1 during speech, 0 in pauses
  script: Script


def speak(voice: Voice, rng: np.random.Generator, num_samples: int) -> Speech:
  """Generates speech; the same state of `rng` gives the same bits."""
  script = _write_script(voice, rng, num_samples / SAMPLE_RATE)
  tracks = _articulate(script, -(-num_samples // HOP))
  pitch_hz = voice.pitch_hz * tracks["pitch"]
  audio = _synthesize(tracks, pitch_hz, voice.formant_scale, rng)
  names = ("opening", "spread", "prominence", "activity")
  articulation = {name: tracks[name] for name in names}
  return Speech(audio[:num_samples], script=script, **articulation)


@functools.cache
def _inventory() -> dict[str, Any]:
  """Columns of the phone table, and its row indices for each part of a syllable."""
  data = json.loads(_PHONES.read_text())
  rows = {name: i for i, name in enumerate(data["phones"])}
  values = np.array(list(data["phones"].values())).T
  return {
    "columns": dict(zip(data["columns"], values, strict=True)),
    "pause": rows["pause"],
    "vowels": [rows[v] for v in data["vowels"]],
    "stressed_vowels": [rows[v] for v in data["stressed_vowels"]],
    "onsets": [[rows[p] for p in onset] for onset in data["onsets"]],
    "codas": [[rows[p] for p in coda] for coda in data["codas"]],
  }


def _write_script(voice: Voice, rng: np.random.Generator, seconds: float) -> Script:
  """Writes a slightly longer script, since gestures start before their syllables."""
  inventory = _inventory()
  phones: list[tuple[int, float, float, float]] = []
  beats: list[tuple[float, float]] = []
  phrase_starts: list[float] = []
  time = 0.0

  def say(phone: int, duration: float, emphasis: float, declination: float):
    nonlocal time
    phones.append((phone, time, emphasis, declination))
    time += duration

  say(inventory["pause"], rng.uniform(0.2, 0.5), 0.0, 1.0)
  while time < seconds + 1:
    phrase_starts.append(time)
    num_groups = int(rng.integers(2, 4))
    for group in range(num_groups):
      for row, duration, emphasis, declination in _breath_group(rng):
        duration = duration / voice.rate
        if emphasis and row in inventory["vowels"]:
          beats.append((time + duration / 2, emphasis))
        say(row, duration, emphasis, declination)
      last = group == num_groups - 1
      pause = rng.uniform(0.5, 0.7) if last else rng.uniform(0.16, 0.28)
      say(inventory["pause"], pause, 0.0, 1.0)
  rows, starts, emphasis, declination = map(np.array, zip(*phones, strict=True))
  times, strengths = map(np.array, zip(*beats, strict=True))
  return Script(
    rows, starts, emphasis, declination, times, strengths, np.array(phrase_starts)
  )


def _breath_group(rng: np.random.Generator) -> list[tuple[int, float, float, float]]:
  """(phone, seconds, emphasis, declination) of each phone in a group of about 2 s."""
  inventory = _inventory()
  seconds = inventory["columns"]["seconds"]
  num_syllables = int(rng.integers(7, 11))
  # Before each accent, there is enough time for a hand to rise.
  accents = set(np.cumsum([rng.integers(1, 3), *rng.integers(2, 5, size=4)]).tolist())
  group = []
  for i in range(num_syllables):
    emphasis = rng.uniform(0.75, 1.0) if i in accents else 0.0
    declination = 1.12 - 0.27 * i / num_syllables
    stretch = 1.0 + 0.25 * (i == num_syllables - 1)
    vowels = inventory["stressed_vowels" if emphasis else "vowels"]
    vowel = vowels[rng.integers(len(vowels))]
    onset = inventory["onsets"][rng.integers(len(inventory["onsets"]))]
    coda = inventory["codas"][rng.integers(len(inventory["codas"]))]
    for row in (*onset, vowel, *coda):
      longer = 1.0 + (0.75 if row == vowel else 0.2) * emphasis
      duration = seconds[row] * stretch * longer * rng.uniform(0.9, 1.1)
      group.append((row, duration, emphasis, declination))
  return group


def _articulate(script: Script, length: int) -> dict[str, np.ndarray]:
  """Track name -> (length,): the targets of the script, smoothed as organs move."""
  columns = _inventory()["columns"]
  now = (np.arange(length) + 0.5) / TRACK_RATE
  index = np.searchsorted(script.starts, now, side="right") - 1
  phone = script.phones[index]
  emphasis = script.emphasis[index]
  vowel = np.isin(phone, _inventory()["vowels"])
  speaking = (phone != _inventory()["pause"]).astype(float)

  openness = columns["opening"][phone] * (0.88 + 0.12 * emphasis)
  loudness = (0.27 + 0.53 * openness + 0.2 * emphasis) * _LOUDNESS
  tracks = {
    "opening": _smooth(openness, 0.022),
    "spread": _smooth(columns["spread"][phone], 0.03),
    "prominence": _smooth(emphasis * vowel, 0.025),
    "activity": _smooth(speaking, 0.12),
    "voice": _smooth(columns["voice"][phone] * loudness, 0.01),
    "noise": _smooth(columns["noise"][phone] * _LOUDNESS, 0.006),
    "pitch": _smooth(script.declination[index] * (1 + 0.32 * emphasis), 0.04),
  }
  for name in ("f1_hz", "f2_hz", "f3_hz"):
    tracks[name] = _smooth(columns[name][phone], 0.018)
  for name in ("noise_hz", "noise_width_hz"):
    tracks[name] = columns[name][phone]
  return tracks


def _smooth(track: np.ndarray, seconds: float) -> np.ndarray:
  return ndimage.gaussian_filter1d(track, seconds * TRACK_RATE, mode="nearest")


def _synthesize(
  tracks: dict[str, np.ndarray],
  pitch_hz: np.ndarray,
  formant_scale: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Filters the source according to the articulation: (K * HOP,) float32.

  The filter changes with each hop: each overlapping, windowed segment of the source is
  filtered by its own response in the frequency domain, then the segments are added.
  """
  num_samples = len(pitch_hz) * HOP
  noise = rng.standard_normal(num_samples, dtype=np.float32)
  voiced_source = _glottal_pulses(pitch_hz) + _BREATH * noise
  spectrum = _segments(voiced_source) * _vocal_tract(tracks, formant_scale)
  spectrum += _segments(noise) * _constriction(tracks)
  return np.clip(_overlap_add(spectrum), -1, 1)


def _glottal_pulses(pitch_hz: np.ndarray) -> np.ndarray:
  """Derivative of the flow x^2 - x^3 through the open glottis, with x in [0, 1]."""
  per_sample = np.repeat(pitch_hz, HOP) / SAMPLE_RATE
  phase = np.cumsum(per_sample) % 1.0
  x = phase / _OPEN_QUOTIENT
  return np.where(x < 1, 2 * x - 3 * x * x, 0.0).astype(np.float32)


def _segments(source: np.ndarray) -> np.ndarray:
  """Spectra (K, bins) of Hann-windowed segments of two hops, centred on each hop."""
  padded = np.pad(source, HOP // 2)
  windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP]
  hann = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * HOP) / HOP)
  return np.fft.rfft(windows * hann.astype(np.float32), _N_FFT).astype(np.complex64)


def _overlap_add(spectrum: np.ndarray) -> np.ndarray:
  """Inverse of `_segments`."""
  segments = np.fft.irfft(spectrum, _N_FFT).astype(np.float32).reshape(-1, 4, HOP)
  num_hops = len(segments)
  total = np.zeros((num_hops + 3, HOP), np.float32)
  for part in range(4):
    total[part : part + num_hops] += segments[:, part]
  return total.ravel()[HOP // 2 :][: num_hops * HOP]


def _bins_hz() -> np.ndarray:
  return np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE).astype(np.float32)


def _vocal_tract(tracks: dict[str, np.ndarray], scale: float) -> np.ndarray:
  """All-pole response (K, bins), scaled to the loudness of the voice track."""
  hz = _bins_hz()
  delay = np.exp(-2j * np.pi * hz / SAMPLE_RATE).astype(np.complex64)
  denominator = np.ones((len(tracks["voice"]), len(hz)), np.complex64)
  formants = (tracks["f1_hz"], tracks["f2_hz"], tracks["f3_hz"], *_HIGH_FORMANTS_HZ)
  for centre_hz, width_hz in zip(formants, _FORMANT_WIDTHS_HZ, strict=True):
    angle = 2 * np.pi * np.minimum(centre_hz * scale, 7500) / SAMPLE_RATE
    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE)
    linear = np.atleast_1d(2 * radius * np.cos(angle)).astype(np.float32)[:, None]
    denominator *= 1 - delay * (linear - np.float32(radius**2) * delay)
  power = 1 / (np.square(denominator.real) + np.square(denominator.imag))
  source_power = 1 / (1 + np.square(hz / 300))
  level = np.sqrt(power @ source_power / source_power.sum())
  gain = 4 * tracks["voice"] / level
  return gain.astype(np.float32)[:, None] / denominator


def _constriction(tracks: dict[str, np.ndarray]) -> np.ndarray:
  """Response (K, bins) for frication noise: a band of frequencies."""
  hz = _bins_hz()
  width_hz = tracks["noise_width_hz"].astype(np.float32)[:, None]
  distance = (hz - tracks["noise_hz"].astype(np.float32)[:, None]) / width_hz
  band = np.exp(-0.5 * np.square(distance))
  level = np.sqrt(np.square(band).mean(1))
  return (tracks["noise"] / level).astype(np.float32)[:, None] * band
