"""The synthetic speaker: realistic bodies, and the documented causes of motion."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.data import synthetic_speaker
from sdt_jax.data.synthetic_speaker import TEMPLATE_NAMES, make_speaker, perform

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn")
LOWER_BODY = ("hip", "knee", "ankle", "toe", "heel")
ARM_BONES = [("shoulder", "elbow"), ("elbow", "wrist")]
PALM_BONES = [
  ("hand_root", f"hand_{finger}_1")
  for finger in ("thumb", "index", "middle", "ring", "little")
]


@functools.cache
def minute(name: str, seed: int = 0):
  return perform(make_speaker(name), seed, 900)


def trace(performance, name: str) -> np.ndarray:
  """(T, 2) pixels of a keypoint."""
  return performance.keypoints[:, :2, kp.OPENPOSE.index[name]]


def lip_distance(performance) -> np.ndarray:
  lips = trace(performance, "face_66") - trace(performance, "face_62")
  return np.linalg.norm(lips, axis=-1)


def frame_energy(performance) -> np.ndarray:
  """(T,) root mean square of the audio of each frame."""
  edges = np.arange(len(performance.keypoints)) * audio.SAMPLE_RATE // audio.FPS
  samples = np.diff(np.append(edges, len(performance.audio)))
  return np.sqrt(np.add.reduceat(np.square(performance.audio), edges) / samples)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.corrcoef(a, b)[0, 1])


def assert_same(a, b):
  for name, x, y in zip(a._fields, a, b, strict=True):
    np.testing.assert_array_equal(x, y, err_msg=name)


def test_performances_are_reproducible_and_depend_on_the_seed():
  again = perform(make_speaker("ada"), 0, 900)
  assert_same(minute("ada"), again)
  for a, b in zip(again, minute("ada", seed=1), strict=True):
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("num_frames", [1, 7, 64, 65])
def test_shapes_types_and_ranges(num_frames):
  p = perform(make_speaker("any name will do"), 3, num_frames)
  assert p.audio.shape == (audio.num_samples(num_frames),)
  assert p.keypoints.shape == (num_frames, *kp.OPENPOSE.detection_shape)
  assert p.mouth_opening.shape == p.prominence.shape == (num_frames,)
  assert p.template.shape == (num_frames, len(TEMPLATE_NAMES))
  assert all(array.dtype == np.float32 for array in p)
  assert all(np.isfinite(array).all() for array in p)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_in_their_ranges_and_the_body_in_the_image(name):
  p = minute(name)
  for track in (p.mouth_opening, p.prominence):
    assert track.min() >= 0
    assert 0.9 < track.max() <= 1
  assert 0.3 < np.abs(p.audio).max() < 0.99
  assert 0.06 < p.audio.std() < 0.12
  x, y, confidence = np.moveaxis(p.keypoints, 1, 0)
  legs = [kp.OPENPOSE.index[n] for n in kp.OPENPOSE.names if n.endswith(LOWER_BODY)]
  assert not p.keypoints[:, :, legs].any()
  seen = np.setdiff1d(np.arange(kp.OPENPOSE.num_joints), legs)
  assert ((confidence[:, seen] > 0.5) & (confidence[:, seen] <= 1)).all()
  assert 5 < x[:, seen].min() < x[:, seen].max() < 1275
  assert 5 < y[:, seen].min() < y[:, seen].max() < 715


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_bones_keep_their_length(name, side):
  for bone in ARM_BONES + PALM_BONES:
    start, end = (trace(minute(name), f"{side}_{joint}") for joint in bone)
    length = np.linalg.norm(end - start, axis=-1)
    assert np.abs(length - length.mean()).max() < 3.5, bone  # detector noise
  shoulders = trace(minute(name), f"{side}_shoulder") - trace(minute(name), "neck")
  assert np.linalg.norm(shoulders, axis=-1).std() < 1


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_stands_upright_and_elbows_point_outwards(name):
  p = minute(name)
  assert (trace(p, "nose")[:, 1] < trace(p, "neck")[:, 1]).all()
  for side, outward in (("left", 1), ("right", -1)):
    shoulder, elbow, wrist = (
      trace(p, f"{side}_{joint}") for joint in ("shoulder", "elbow", "wrist")
    )
    assert (elbow[:, 1] > shoulder[:, 1]).all()
    assert (outward * (elbow - wrist)[:, 0] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_lips_follow_the_opening_and_the_audio(name):
  p = minute(name)
  assert correlation(p.mouth_opening, lip_distance(p)) > 0.98
  assert correlation(p.mouth_opening, frame_energy(p)) > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_strokes_are_timed_to_prominent_syllables(name):
  p = minute(name)
  wrists = np.concatenate([trace(p, f"{s}_wrist") for s in ("left", "right")], 1)
  speed = np.linalg.norm(np.gradient(wrists, axis=0), axis=-1)
  onset = np.maximum(np.gradient(p.prominence), 0)
  locked = correlation(speed, onset)
  by_lag = [correlation(np.roll(speed, lag), onset) for lag in range(30, 870, 5)]
  assert locked > 0.4
  assert locked > max(by_lag)


def test_prominent_syllables_are_louder():
  p = minute("ada")
  voiced = p.mouth_opening > 0.25
  energy, prominence = frame_energy(p)[voiced], p.prominence[voiced]
  assert energy[prominence > 0.6].mean() > 1.3 * energy[prominence < 0.1].mean()


def held_out_r2(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """(D,) for a ridge regression from (N, F) to (N, D), on the last quarter."""
  num_train = 3 * len(features) // 4
  train = features[:num_train]
  x = (features - train.mean(0)) / (train.std(0) + 1e-6)
  mean = targets[:num_train].mean(0)
  gram = x[:num_train].T @ x[:num_train] + 0.05 * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x[:num_train].T @ (targets[:num_train] - mean))
  error = x[num_train:] @ weights + mean - targets[num_train:]
  return 1 - np.square(error).mean(0) / targets[num_train:].var(0)


def test_the_template_affects_the_motion_but_not_the_audio():
  speaker = make_speaker("ada")
  clips = [perform(speaker, seed, audio.CLIP_FRAMES) for seed in range(160)]
  template = np.stack([c.template.mean(0) for c in clips])
  poses = np.stack([pose.from_openpose(c.keypoints).mean(0) for c in clips])
  sound = np.stack([c.audio for c in clips])
  mel = np.asarray(audio.mel_spectrogram(jnp.asarray(sound))).mean(-1)
  assert held_out_r2(poses.reshape(len(clips), -1), template).min() > 0.85
  assert held_out_r2(mel, template).mean() < 0.05


def test_the_audio_does_not_depend_on_the_template(monkeypatch):
  before = minute("ada")
  streams = synthetic_speaker._STREAMS | {"template": 99}
  monkeypatch.setattr(synthetic_speaker, "_STREAMS", streams)
  after = perform(make_speaker("ada"), 0, 900)
  np.testing.assert_array_equal(after.audio, before.audio)
  np.testing.assert_array_equal(after.mouth_opening, before.mouth_opening)
  assert not np.array_equal(after.template, before.template)


def test_template_is_standardised_and_constant_within_a_phrase():
  long = perform(make_speaker("ada"), 0, 15 * 450).template
  assert np.abs(long.mean(0)).max() < 0.4
  assert np.abs(long.std(0) - 1).max() < 0.25
  still = np.abs(np.diff(long, axis=0)).max(1) < 1e-6
  assert still.mean() > 0.8
  assert np.abs(np.diff(long, axis=0)).max() < 0.5  # changes are smooth


def test_speakers_differ_in_body_and_voice():
  speakers = [make_speaker(name) for name in NAMES]
  assert len({round(s.shoulder_width_px) for s in speakers}) > 3
  assert len({round(s.voice.pitch_hz) for s in speakers}) > 3
  assert make_speaker("ada") == make_speaker("ada") != make_speaker("ben")
  for s in speakers:
    left, right = (trace(minute(s.name), f"{x}_shoulder") for x in ("left", "right"))
    width = np.linalg.norm(left - right, axis=-1).mean()
    assert width == pytest.approx(s.shoulder_width_px, abs=1)
