"""Videos: every frame once and in order, audio in sync, no partial files."""

import os
import resource
import weakref

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from sdt_jax.errors import UserError
from sdt_jax.synthesis.video import write_video

RATE = 16_000


def grey_frames(count, height=48, width=64):
  """Frames in shades of grey that repeat after 24 frames."""
  for i in range(count):
    yield np.full((height, width, 3), grey(i), np.uint8)


def grey(i):
  return 10 + 10 * (i % 24)


def tone(seconds):
  return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)


def decode(path):
  """Frames (T, h, w, 3), and audio samples or None."""
  with av.open(str(path)) as file:
    frames = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
  with av.open(str(path)) as file:
    if not file.streams.audio:
      return frames, None
    sound = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
  return frames, sound


def duration(stream):
  return float(stream.duration * stream.time_base)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 361])
def test_every_frame_once_and_in_order(tmp_path, count):
  write_video(tmp_path / "a.mp4", grey_frames(count))
  frames, _ = decode(tmp_path / "a.mp4")
  assert len(frames) == count
  seen = frames.mean((1, 2, 3))
  np.testing.assert_allclose(seen, [grey(i) for i in range(count)], atol=4)


@pytest.mark.parametrize("count", [1, 7, 64, 181])
@pytest.mark.parametrize("seconds", [0.01, 3.0, 30.0])
def test_audio_is_as_long_as_the_frames(tmp_path, count, seconds):
  write_video(tmp_path / "a.mp4", grey_frames(count), audio=tone(seconds))
  with av.open(str(tmp_path / "a.mp4")) as file:
    (picture,), (sound,) = file.streams.video, file.streams.audio
    assert picture.frames == count
    assert picture.average_rate == 15
    assert duration(picture) == pytest.approx(count / 15)
    assert duration(sound) == pytest.approx(count / 15, abs=1 / RATE)
    assert picture.start_time == sound.start_time == 0


def test_audio_starts_with_the_first_frame(tmp_path):
  audio = np.zeros(2 * RATE)
  audio[RATE : RATE + 1600] = 0.5  # begins with frame 15
  write_video(tmp_path / "a.mp4", grey_frames(30), audio=audio)
  _, sound = decode(tmp_path / "a.mp4")
  assert sound is not None
  first = np.flatnonzero(np.abs(sound) > 0.2)[0]
  assert abs(first - RATE) < 32


def test_short_audio_is_followed_by_silence(tmp_path):
  write_video(tmp_path / "a.mp4", grey_frames(30), audio=tone(1.0))
  _, sound = decode(tmp_path / "a.mp4")
  assert sound is not None
  assert np.abs(sound[: RATE // 2]).max() > 0.3
  assert np.abs(sound[RATE + 2048 :]).max() < 0.01
  write_video(tmp_path / "a.mp4", grey_frames(5))
  assert decode(tmp_path / "a.mp4")[1] is None


def test_format_is_widely_playable(tmp_path):
  path = tmp_path / "a.mp4"
  write_video(path, grey_frames(20), audio=tone(2))
  with av.open(str(path)) as file:
    picture = file.streams.video[0].codec_context
    sound = file.streams.audio[0].codec_context
    assert (picture.name, picture.pix_fmt) == ("h264", "yuv420p")
    assert (sound.name, sound.sample_rate) == ("aac", RATE)
  data = path.read_bytes()
  assert data.index(b"moov") < data.index(b"mdat")  # can play before it is loaded


def test_colours_are_preserved(tmp_path):
  colours = np.array([[226, 106, 44], [38, 122, 196], [40, 196, 170]], np.uint8)
  frame = np.repeat(colours, 32, axis=0)[None].repeat(64, axis=0)
  write_video(tmp_path / "a.mp4", [frame] * 3)
  with av.open(str(tmp_path / "a.mp4")) as file:
    decoded = next(file.decode(video=0))
    assert decoded.colorspace == Colorspace.ITU709
    seen = decoded.to_ndarray(format="rgb24")
  np.testing.assert_allclose(seen[32, 16::32], colours, atol=8)


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (49, 65)])
def test_odd_sizes_are_padded(tmp_path, height, width):
  write_video(tmp_path / "a.mp4", grey_frames(3, height, width))
  frames, _ = decode(tmp_path / "a.mp4")
  assert frames.shape == (3, height + height % 2, width + width % 2, 3)
  np.testing.assert_allclose(frames[0], grey(0), atol=4)


def test_frames_are_requested_as_they_are_encoded(tmp_path):
  """So long videos need no more memory than short ones."""
  given, alive = [], []

  def frames():
    for frame in grey_frames(40):
      given.append(weakref.ref(frame))
      alive.append(sum(ref() is not None for ref in given))
      yield frame

  write_video(tmp_path / "a.mp4", frames())
  assert max(alive) < 6


def test_an_older_file_is_replaced(tmp_path, capfd):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"older")
  write_video(path, grey_frames(3), audio=tone(1))
  assert len(decode(path)[0]) == 3
  assert os.listdir(tmp_path) == ["a.mp4"]
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("after", [0, 1, 20])
@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError])
def test_failing_frames_leave_nothing_and_keep_their_error(tmp_path, after, error):
  def frames():
    yield from grey_frames(after)
    raise error("no more")

  with pytest.raises(error, match="no more"):
    write_video(tmp_path / "a.mp4", frames(), audio=tone(1))
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  "frames",
  [
    [],
    [np.zeros((48, 64, 3), np.uint8), np.zeros((64, 48, 3), np.uint8)],
    [np.zeros((48, 64, 3))],
  ],
)
def test_wrong_frames_leave_nothing(tmp_path, frames):
  with pytest.raises(ValueError, match="frame"):
    write_video(tmp_path / "a.mp4", frames)
  assert os.listdir(tmp_path) == []


def failure(path, **kwargs):
  with pytest.raises(UserError) as e:
    write_video(path, grey_frames(40), **kwargs)
  message = str(e.value)
  assert message.startswith(f"{path}: cannot be written (")
  assert "\n" not in message
  return message


def test_target_that_cannot_be_written(tmp_path):
  (tmp_path / "a.mp4").mkdir()
  assert "irectory" in failure(tmp_path / "a.mp4")
  assert "No such file" in failure(tmp_path / "no" / "a.mp4")
  assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("wrong", [{"preset": "nonsense"}, {"sample_rate": 12_345}])
def test_encoder_failure_names_the_reason(tmp_path, wrong):
  message = failure(tmp_path / "a.mp4", audio=tone(1), **wrong)
  assert "Invalid argument" in message
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_full_disk_leaves_nothing(tmp_path, size):
  noise = np.random.default_rng(0).uniform(-1, 1, 10 * RATE)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    message = failure(tmp_path / "a.mp4", audio=noise)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert "File too large" in message
  assert os.listdir(tmp_path) == []
