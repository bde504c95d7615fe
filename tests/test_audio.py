"""Audio lengths in samples, frames and mel time steps; the mel spectrogram."""

import fractions
import math

import golden
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from sdt_jax import audio

RECORDED = golden.load("mel")
NOISE = 0.1 * np.random.default_rng(0).standard_normal((3, 4000)).astype(np.float32)


@hypothesis.given(st.integers(0, 10**6))
def test_num_samples_is_the_exact_number_rounded_down(frames):
  assert audio.num_samples(audio.CLIP_FRAMES) == 68_266  # as published
  exact = fractions.Fraction(frames * audio.SAMPLE_RATE, audio.FPS)
  assert audio.num_samples(frames) == math.floor(exact)


@pytest.mark.parametrize(
  ("samples", "frames"),
  [
    *((0, 0), (533, 0), (534, 1)),  # half a frame has 533 1/3 samples
    *((1599, 1), (1600, 2)),  # exactly one and a half
    *((16_000, 15), (68_266, 64), (192_000, 180)),
  ],
)
def test_num_frames_of_known_lengths(samples, frames):
  assert audio.num_frames(samples) == frames


@hypothesis.given(st.integers(0, 10**6))
def test_num_frames_inverts_num_samples(frames):
  assert audio.num_frames(audio.num_samples(frames)) == frames


@hypothesis.given(st.integers(0, 10**9))
def test_num_frames_is_the_nearest_whole_number(samples):
  frame = fractions.Fraction(audio.SAMPLE_RATE, audio.FPS)
  assert abs(audio.num_frames(samples) * frame - samples) <= frame / 2


@hypothesis.given(st.integers(0, 10**9), st.integers(0, 10**5))
def test_num_frames_does_not_decrease(samples, more):
  assert audio.num_frames(samples) <= audio.num_frames(samples + more)


@hypothesis.given(st.integers(1, 5000), st.integers(1, 5))
def test_fit_to_frames_crops_or_pads_with_silence(samples, frames):
  sound = np.arange(1, 2 * samples + 1, dtype=np.float32).reshape(2, samples)
  fitted = audio.fit_to_frames(sound, frames)
  length = audio.num_samples(frames)
  assert fitted.shape == (2, length)
  kept = min(samples, length)
  np.testing.assert_array_equal(fitted[:, :kept], sound[:, :kept])
  assert not fitted[:, kept:].any()


MEL = {"sr": 16_000, "n_fft": 512, "n_mels": 80, "fmin": 55, "fmax": 7500}
MEL |= {"htk": True, "norm": None}


def test_mel_filters_equal_the_original_and_librosa():
  np.testing.assert_allclose(audio.mel_filters(), RECORDED["fb"], atol=1e-5)
  np.testing.assert_array_equal(audio.mel_filters(), librosa.filters.mel(**MEL).T)


def test_mel_spectrogram_equals_the_original():
  speech = golden.speech()
  length = int(RECORDED["num_samples"])
  clips = np.stack([speech[o : o + length] for o in RECORDED["offsets"]])
  ours = audio.mel_spectrogram(jnp.asarray(clips))
  assert golden.relative_error(ours, RECORDED["mel"]) < 1e-5
  short = audio.mel_spectrogram(jnp.asarray(speech[None, :16_000]))
  assert golden.relative_error(short, RECORDED["mel_short"]) < 1e-5


def test_mel_spectrogram_equals_librosa():
  framing = {"win_length": 400, "hop_length": 160, "pad_mode": "reflect"}
  theirs = librosa.feature.melspectrogram(y=NOISE[0], **framing, **MEL)
  assert golden.relative_error(audio.mel_spectrogram(NOISE[0]), theirs) < 1e-5


@pytest.mark.parametrize("samples", [257, 1066, 1600, 68_266])
def test_mel_has_a_column_for_every_hop(samples):
  shape = jax.eval_shape(audio.mel_spectrogram, jnp.zeros((2, samples))).shape
  assert shape == (2, audio.NUM_MELS, samples // 160 + 1)


@pytest.mark.parametrize("hertz", [200, 1000, 4000])
def test_a_tone_is_loudest_in_the_band_of_its_frequency(hertz):
  time = np.arange(8000) / audio.SAMPLE_RATE
  mel = audio.mel_spectrogram(np.sin(2 * np.pi * hertz * time).astype(np.float32))
  loudest = int(jnp.argmax(mel.mean(-1)))
  bins = np.argmax(audio.mel_filters()[:, loudest])
  assert bins * audio.SAMPLE_RATE / 512 == pytest.approx(hertz, abs=60)


def test_clips_are_independent_and_power_is_quadratic_in_amplitude():
  expected = audio.mel_spectrogram(NOISE)
  np.testing.assert_allclose(audio.mel_spectrogram(2 * NOISE), 4 * expected, rtol=1e-6)
  for i, sound in enumerate(NOISE):
    np.testing.assert_allclose(audio.mel_spectrogram(sound), expected[i], rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_jit_and_vmap_equal_the_plain_call(transform):
  expected = audio.mel_spectrogram(NOISE)
  found = transform(audio.mel_spectrogram)(NOISE)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


@hypothesis.given(st.integers(1, 10**6))
def test_num_frames_under_mel_inverts_mel_frames_over(frames):
  mel_frames = audio.mel_frames_over(frames)
  assert mel_frames == audio.num_mel_frames(audio.num_samples(frames))
  assert audio.num_frames_under_mel(mel_frames) == frames


def test_zeros_after_the_padding_do_not_change_the_time_steps_before():
  expected = audio.mel_spectrogram(NOISE)
  reflected = np.pad(NOISE, [(0, 0), (audio.SIDE, audio.SIDE)], mode="reflect")
  longer = audio.mel_of_reflected(np.pad(reflected, [(0, 0), (0, 1000)]))
  np.testing.assert_allclose(longer[..., : expected.shape[-1]], expected, rtol=1e-6)
