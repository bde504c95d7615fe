"""A moment of a video: which pictures and which sound it takes."""

import numpy as np
import pytest

from data_prep import media, moment
from data_prep.detection import Detection, Origin
from sdt_jax import audio
from sdt_jax.errors import UserError
from sdt_jax.synthesis import video

FPS, SECONDS = 15, 7


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
  """A video whose pictures have the number of the frame as their brightness."""
  path = tmp_path_factory.mktemp("talk") / "talk.mp4"
  frames = [np.full((64, 96, 3), 2 * i, np.uint8) for i in range(FPS * SECONDS)]
  sound = np.repeat(np.arange(SECONDS) / 10, audio.SAMPLE_RATE).astype(np.float32)
  video.write_video(path, frames, audio=sound)
  return path


def test_pictures_begin_where_they_are_asked_for(talk):
  times = [time for time, _ in media.pictures(talk)]
  for since in (0.0, times[1], 3.0):
    assert next(media.pictures(talk, since))[0] == min(t for t in times if t >= since)
  assert [t for t, _ in media.pictures(talk, 3.0)] == [t for t in times if t >= 3]
  assert list(media.pictures(talk, 1e13)) == []


class Still:
  """Finds the same person in every picture, and keeps the pictures."""

  def __init__(self, keypoints, seen):
    self._keypoints, self._seen = keypoints, seen

  def __call__(self, *_):
    return self

  def detect(self, found, progress):
    pictures = [p for _, p in media.pictures(found.folder / "video.mp4")]
    self._seen += [float(p[300:400, 600:700].mean()) for p in pictures]
    progress(1.0)
    keypoints = np.repeat(self._keypoints[None], len(pictures), axis=0)
    origin = np.full(keypoints[:, 2].shape, Origin.FOUND, np.int8)
    return Detection(keypoints, origin, {}, [])


@pytest.fixture
def seen(monkeypatch):
  from sdt_jax.data import synthetic_speaker

  performed = synthetic_speaker.perform(synthetic_speaker.make_speaker("ada"), 0, 64)
  pictures: list[float] = []
  monkeypatch.setattr(moment.mediapipe_env, "ensure", lambda _: None)
  monkeypatch.setattr(moment, "MediaPipe", Still(performed.keypoints[0], pictures))
  return pictures


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_moment_is_64_frames_with_their_sound(talk, seen, seconds):
  keypoints, sound = moment.read(talk, seconds)
  assert keypoints.shape == (64, 3, 137)
  np.testing.assert_allclose(seen[0], 2 * FPS * seconds, atol=4)
  assert len(sound) == audio.num_samples(64)
  assert abs(sound[8000] - seconds / 10) < 0.02


def test_a_moment_must_be_in_the_video(talk, seen):
  with pytest.raises(UserError, match="ends before 90 s; give an earlier moment"):
    moment.read(talk, 90)
  with pytest.raises(UserError, match=r"from 4 s on: .*; give another moment"):
    moment.read(talk, 4)
