"""Probing, canvas, times and sound of generated videos."""

import subprocess

import data_prep_helpers
import imageio_ffmpeg
import numpy as np
import pytest
from data_prep_helpers import HEIGHT, WIDTH, make_source, noise, options, write_video

from data_prep import clean, clips, keypoints, media, rescale, transcode, workspace
from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.exports import openpose


def _ffmpeg(*arguments):
  command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *arguments]
  subprocess.run([str(a) for a in command], check=True)


def _picture(width=WIDTH, height=HEIGHT):
  """White corner at the top left, dark elsewhere."""
  picture = np.full((height, width, 3), 30, np.uint8)
  picture[: height // 3, : width // 3] = 250
  return picture


def _video(path, width=WIDTH, height=HEIGHT, frames=15, **more):
  pictures = [_picture(width, height)] * frames
  sound = noise(frames / 15)
  write_video(path, np.arange(frames) / 15, pictures, sound=sound, **more)
  return path


def test_a_picture_of_any_shape_is_fitted_into_the_middle():
  wide, tall = media.Canvas.fit(640, 360), media.Canvas.fit(360, 640)
  assert wide.box == (0, 0, 1280, 720)
  assert tall.box == (437, 0, 405, 720)
  anamorphic = media.Canvas.fit(720, 576, aspect=16 / 15)
  assert anamorphic.box == (160, 0, 960, 720)
  points = np.zeros((3, kp.OPENPOSE.num_joints))
  points[:, 0] = (360, 640, 1)  # the lower right corner
  placed = tall.place(points)
  np.testing.assert_allclose(placed[:, 0], (437 + 405, 720, 1))
  assert (placed[:, 1:] == 0).all()
  drawn = tall.draw(_picture(360, 640))
  assert drawn.shape == (720, 1280, 3)
  assert drawn[5, 445].min() > 240
  assert drawn[5, 430].max() == 0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_is_upright_as_players_show_it(tmp_path, degrees):
  source = _video(tmp_path / "a.mp4")
  turned, shown = tmp_path / "turned.mp4", tmp_path / "shown.mp4"
  _ffmpeg("-display_rotation", degrees, "-i", source, "-c", "copy", turned)
  _ffmpeg("-i", turned, "-crf", "10", shown)  # FFmpeg turns it itself
  ours = next(media.pictures(turned))[1]
  theirs = next(media.pictures(shown))[1]
  assert ours.shape == theirs.shape
  assert np.abs(ours.astype(int) - theirs).mean() < 3
  probe = media.probe(turned)
  assert (probe.height, probe.width) == ours.shape[:2]
  assert probe.rotation == degrees


def test_pixels_that_are_not_square_are_known(tmp_path):
  source = _video(tmp_path / "a.mp4")
  _ffmpeg("-i", source, "-vf", "setsar=4/3", tmp_path / "b.mp4")
  assert media.probe(tmp_path / "b.mp4").aspect == pytest.approx(4 / 3)


def test_sound_without_pictures_is_named(tmp_path):
  _ffmpeg("-i", _video(tmp_path / "a.mp4"), "-vn", "-c", "copy", tmp_path / "only.m4a")
  with pytest.raises(UserError, match=r"only.m4a: has no picture track"):
    media.probe(tmp_path / "only.m4a")


def test_a_truncated_stream_gives_what_there_is(tmp_path):
  source = _video(tmp_path / "a.mkv", frames=150)
  data = source.read_bytes()
  (tmp_path / "b.mkv").write_bytes(data[: len(data) // 2])
  assert 0 < len(list(media.pictures(tmp_path / "b.mkv"))) < 150


def test_pictures_keep_their_uneven_times(tmp_path):
  times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 40))
  canvas = np.zeros((720, 1280, 3), np.uint8)
  frames = ((t, canvas) for t in times - times[0])
  written = media.write_canvas_video(tmp_path / "a.mp4", frames)
  read = [time for time, _ in media.pictures(tmp_path / "a.mp4")]
  np.testing.assert_allclose(np.array(read) - read[0], times - times[0], atol=1e-4)
  np.testing.assert_allclose(written, times - times[0])


def test_a_player_shows_the_picture_before_the_time(tmp_path):
  pictures = [np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8) for i in range(10)]
  write_video(tmp_path / "a.mp4", np.arange(10) / 10, pictures)
  shown = media.pictures_at(tmp_path / "a.mp4", [0, 0.05, 0.1, 0.55, 3])
  values = [round(picture.mean() / 20) for _, picture in shown]
  assert values == [0, 0, 1, 5, 9]


def test_sound_of_any_form_becomes_16_khz_mono(tmp_path):
  seconds = np.arange(3 * 48_000) / 48_000
  tone = 0.5 * np.sin(2 * np.pi * 440 * seconds)
  times = np.arange(45) / 15
  write_video(tmp_path / "a.mp4", times, sound=tone)
  for codec, rate in (("pcm_s16le", 22_050), ("flac", 44_100), ("libopus", 48_000)):
    other = tmp_path / f"{codec}.mkv"
    _ffmpeg("-i", tmp_path / "a.mp4", "-c:v", "copy", "-c:a", codec, "-ar", rate,
            "-af", "pan=stereo|c0=c0|c1=c0", other)  # fmt: skip
    samples = media.sound(other, 0.0)
    assert abs(len(samples) - 3 * 16_000) < 1700
    loudness = np.sqrt(2 * np.square(samples[1000:40_000]).mean())
    assert loudness == pytest.approx(0.5, abs=0.03)  # the tone's amplitude


# --- picture and sound stay together ---


def _prepared(folder):
  """Runs all stages up to the clips; returns the options and the folder of video a."""
  opts = options(folder)
  for stage in (transcode, keypoints, clean, rescale, clips):
    stage.run(opts)
  return opts, folder / "data" / "eve" / "work" / "a"


def _times(kind, seconds=8):
  if kind == "variable":
    steps = np.random.default_rng(0).uniform(0.015, 0.06, 2000)
    times = np.concatenate([[0], np.cumsum(steps)])
    return times[times < seconds]
  return np.arange(int(seconds * kind)) / kind


_EVENTS = (2.0, 3.5, 5.13, 6.71)  # seconds
_LENGTH = 0.4


def _lit(time):
  return any(event <= time < event + _LENGTH for event in _EVENTS)


def _flashes_and_clicks(path, times, start):
  """White pictures and loud sound for 0.4 s after each event."""
  white, black = (np.full((HEIGHT, WIDTH, 3), v, np.uint8) for v in (230, 20))
  seconds = np.arange(int(8.5 * 48_000)) / 48_000
  loud = np.zeros(len(seconds))
  for event in _EVENTS:
    loud[(seconds >= event) & (seconds < event + _LENGTH)] = 0.5
  sound = loud * np.sin(2 * np.pi * 1000 * seconds)
  pictures = [white if _lit(t) else black for t in times]
  write_video(path, times + start, pictures, sound=sound[int(start * 48_000) :])


def _write_flash_keypoints(path, times):
  """The right index finger is raised slightly in white pictures."""
  points = np.repeat(data_prep_helpers.person(1, WIDTH, HEIGHT), len(times), 0)
  lit = np.array([_lit(t) for t in times])
  points[lit, 1, kp.OPENPOSE.index["right_hand_index_4"]] -= 2
  openpose.write_openpose_folder(points, path)


def _rises(values, threshold):
  high = np.asarray(values) > threshold
  return np.flatnonzero(high[1:] & ~high[:-1]) + 1


def _crossings(values):
  """Fractional frames at which the values rise through the middle of their range."""
  middle = (values.max() + values.min()) / 2
  after = _rises(values, middle)
  before = values[after - 1]
  return after - 1 + (middle - before) / (values[after] - before)


@pytest.mark.parametrize("kind", [25, 29.97, "variable"])
def test_flash_and_click_come_out_within_one_frame(tmp_path, kind):
  times = _times(kind)
  (tmp_path / "videos").mkdir()
  _flashes_and_clicks(tmp_path / "videos" / "a.mp4", times, start=0.0)
  _write_flash_keypoints(tmp_path / "json" / "a", times)
  opts, work = _prepared(tmp_path)

  shown = [
    (time, picture.mean() / 256) for time, picture in media.pictures(work / "video.mp4")
  ]
  flashes = np.array([shown[i][0] for i in _rises([v for _, v in shown], 0.4)])
  np.testing.assert_allclose(flashes, _EVENTS, atol=0.07)  # the source's own pictures

  compared = 0
  for start in workspace.read_json(work / "clips.json")["kept"]:
    with np.load(clips.clip_path(opts, "a", start)) as clip:
      finger = -clip["pose"][:, 1, kp.OPENPOSE.index["right_hand_index_4"]]
      loud = np.abs(clip["audio"])
    clicks = _rises(np.maximum.reduceat(loud, np.arange(0, len(loud), 32)), 0.2)
    clicks = clicks * 32 * audio.FPS / audio.SAMPLE_RATE
    for frame in _crossings(finger):
      if 1 < frame < 62:
        assert np.abs(clicks - frame).min() < 1
        compared += 1
  assert compared > 20


def test_sound_that_begins_later_stays_in_step(tmp_path):
  times = _times(25, 8)
  pictures = [np.full((HEIGHT, WIDTH, 3), 50, np.uint8)] * len(times)
  seconds = np.arange(8 * 48_000) / 48_000
  click = np.where((seconds > 3) & (seconds < 3.2), 0.5, 0) * np.sin(6000 * seconds)
  write_video(tmp_path / "a.mkv", times, pictures, sound=click)
  _ffmpeg("-i", tmp_path / "a.mkv", "-itsoffset", "0.75", "-i", tmp_path / "a.mkv",
          "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / "b.mkv")  # fmt: skip
  _ffmpeg("-itsoffset", "0.5", "-i", tmp_path / "a.mkv", "-i", tmp_path / "a.mkv",
          "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / "c.mkv")  # fmt: skip
  for name, expected in (("a", 3), ("b", 3.75), ("c", 2.5)):
    path = tmp_path / f"{name}.mkv"
    start = next(media.pictures(path))[0]
    samples = media.sound(path, start)
    first = np.flatnonzero(np.abs(samples) > 0.2)[0] / audio.SAMPLE_RATE
    assert first == pytest.approx(expected, abs=0.03)


def test_sound_shorter_than_the_picture_gives_fewer_windows(tmp_path):
  make_source(tmp_path, "a", frames=200)
  times = np.arange(200) / 15
  write_video(tmp_path / "videos" / "a.mp4", times, sound=noise(8))
  result = workspace.read_json(_prepared(tmp_path)[1] / "clips.json")
  assert max(result["kept"]) + 64 <= 8 * 15 + 1
  assert result["dropped"]["no sound"] > 0
