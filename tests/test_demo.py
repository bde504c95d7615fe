"""Rendering of sound files, with a model that needs no training."""

import functools
import itertools
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from sdt_jax import audio, exports, pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis import demo, video
from sdt_jax.templates import sources
from sdt_jax.templates.director import BLOCK, Director


class StillModel:
  """Holds the mean pose of a published speaker."""

  bank = np.arange(6, dtype=np.float32).reshape(3, 2)
  abilities = sources.Abilities()
  at_once = 2

  def generate_many(self, sounds, codes, seed, generation):
    """The template's first number is the first coordinate, and scales the rest."""
    del seed, generation
    table = speakers.published("oliver").hierarchical
    mean = pose.to_final(np.zeros_like(table.mean), table)
    poses_px = []
    for sound, code in zip(sounds, codes, strict=True):
      frames = np.repeat(mean[None], audio.num_frames(len(sound)), axis=0)
      first = np.ravel(code)[0]
      frames *= 1 + 0.1 * first
      frames[:, 0, 0] = first
      poses_px.append(frames)
    return poses_px


def _sound(path, seconds=0.5):
  soundfile.write(path, np.zeros(int(seconds * 16_000)) + 0.01, 16_000)
  return path


def test_each_sound_gets_three_files(tmp_path):
  sounds = [_sound(tmp_path / f"{name}.wav") for name in ("a", "b.c")]
  demo.render_files(StillModel(), sounds, tmp_path / "out")
  assert {p.name for p in (tmp_path / "out").iterdir()} == {
    f"{stem}.{suffix}" for stem in ("a", "b.c") for suffix in ("mp4", "npz", "png")
  }


def test_several_samples_are_numbered_and_compared(tmp_path):
  export = functools.partial(exports.export, ["csv"])
  options = {"num_samples": 2, "template": "0:2", "export": export}
  sounds = [_sound(tmp_path / "a.wav")]
  demo.render_files(StillModel(), sounds, tmp_path / "out", **options)
  names = {p.name for p in (tmp_path / "out").iterdir()}
  assert names == {
    *(f"a_{i}.{suffix}" for i in range(2) for suffix in ("mp4", "npz", "png", "csv")),
    *("a_overview.mp4", "a_overview.png"),
  }


def test_the_overview_video_shows_all_renderings_with_the_sound(tmp_path):
  sounds = [_sound(tmp_path / "a.wav", seconds=0.6)]
  options = {"template": "0:2", "num_samples": 3, "size": (640, 360)}
  written = demo.render_files(StillModel(), sounds, tmp_path / "out", **options)
  assert written[-1].name == "a_overview.mp4"
  with av.open(written[-1]) as file:
    frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
  with av.open(written[-1]) as file:
    sound = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
  assert np.shape(frames) == (9, 360, 640, 3)
  assert len(sound) == pytest.approx(0.6 * 16_000, abs=1024)
  assert np.abs(sound).max() > 0.005
  frame = frames[-1].astype(int)
  cells = [frame[y : y + 162, x : x + 320] for y in (0, 180) for x in (0, 320)]
  for i, cell in enumerate(cells[:3]):
    assert (cell < 128).any()
    assert all(np.abs(cell - other).max() > 100 for other in cells[:i])
  assert cells[3].min() > 240  # three renderings leave the last cell empty


def test_a_video_is_shown_beside_its_rendering(tmp_path):
  reds = [np.full((64, 64, 3), (200, 0, 0), np.uint8)] * 8
  sound = 0.1 * np.ones(8 * 16_000 // 15)
  video.write_video(tmp_path / "talk.mp4", reds, audio=sound)
  size = (640, 360)
  demo.render_files(StillModel(), [tmp_path / "talk.mp4"], tmp_path / "out", size=size)
  names = {p.name for p in (tmp_path / "out").iterdir()}
  assert names == {"talk.mp4", "talk.npz", "talk.png", "talk_overview.mp4"}
  with av.open(tmp_path / "out" / "talk_overview.mp4") as file:
    frame = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
  red, green, _ = frame[150, 160]
  assert red > 180 > 20 > green
  assert (frame[:320, 320:].min(-1) < 128).any()


@pytest.mark.parametrize("text", ["mp4", "npz", "png", "png,mp4"])
def test_only_the_outputs_that_are_asked_for_are_written(tmp_path, text):
  outputs = demo.parse_outputs(text)
  demo.render_files(
    StillModel(),
    [_sound(tmp_path / "a.wav", 0.1)],
    tmp_path / "out",
    outputs=outputs,
    num_samples=2,
  )
  expected = {f"a_{i}.{suffix}" for i in range(2) for suffix in outputs}
  expected |= {f"a_overview.{suffix}" for suffix in {"mp4", "png"} & set(outputs)}
  assert {p.name for p in (tmp_path / "out").iterdir()} == expected


@pytest.mark.parametrize(
  ("text", "complaint"),
  [("", "is empty"), (" , ", "is empty"), ("mp4,gif", "unknown 'gif'")],
)
def test_other_outputs_are_refused(text, complaint):
  with pytest.raises(UserError, match=f"--outputs={text}: {complaint}"):
    demo.parse_outputs(text)


def test_videos_have_the_size_that_is_asked_for(tmp_path):
  sounds = [_sound(tmp_path / "a.wav", 0.1)]
  size = demo.parse_size("320x642")
  options = {"template": "0", "size": size, "scale": 0.3}
  [path] = demo.render_files(StillModel(), sounds, tmp_path / "out", **options)
  with av.open(path) as file:
    frame = next(file.decode(video=0))
  assert (frame.width, frame.height) == (320, 642)
  shoulders = frame.to_ndarray(format="rgb24")[round(0.45 * 642)].min(-1)
  drawn = np.flatnonzero(shoulders < 160)
  assert drawn[-1] - drawn[0] == pytest.approx(0.3 * 316, abs=5)


@pytest.mark.parametrize(
  ("text", "complaint"),
  [
    *((text, "expected WIDTHxHEIGHT") for text in ("", "720", "1280*720", "-2x2")),
    *((text, "expected WIDTHxHEIGHT") for text in ("axb", "999999x2", "1280x720x")),
    *((text, "give sides of 64 to 7680 pixels") for text in ("62x720", "1280x7682")),
    ("1281x721", "H.264 needs even sides; give 1282x722"),
  ],
)
def test_other_sizes_are_refused(text, complaint):
  with pytest.raises(UserError, match=complaint) as e:
    demo.parse_size(text)
  assert str(e.value).startswith(f"--size={text}: ")


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-9, 1e9, float("nan"), float("inf")])
def test_other_scales_are_refused_before_anything_is_written(tmp_path, scale):
  with pytest.raises(UserError, match=r"--scale=.*: give 0\.01 to 100"):
    demo.render_files(
      StillModel(), [_sound(tmp_path / "a.wav")], tmp_path / "out", scale=scale
    )
  assert not (tmp_path / "out").exists()


def test_every_rendering_is_that_of_its_sound_and_template(tmp_path):
  seconds = {"a": 0.5, "b": 0.9, "c": 0.7}
  sounds = [_sound(tmp_path / f"{name}.wav", s) for name, s in seconds.items()]
  videos = demo.render_files(
    StillModel(), sounds, tmp_path / "out", num_samples=2, template="0:2"
  )
  expected = [f"{name}_{i}.mp4" for name in seconds for i in range(2)]
  expected += [f"{name}_overview.mp4" for name in seconds]
  assert [video.name for video in videos] == expected
  for (name, s), i in itertools.product(seconds.items(), range(2)):
    arrays = np.load(tmp_path / "out" / f"{name}_{i}.npz")
    poses_px = arrays["poses_pred_batch"][0]
    assert len(poses_px) == audio.num_frames(int(s * 16_000))
    assert (poses_px[:, 0, 0] == arrays["condition_code"][0, 0]).all()
    np.testing.assert_array_equal(arrays["condition_code"][0], StillModel.bank[2 * i])


class Counting(Director):
  """Templates whose first number is that of the frame."""

  def __init__(self):
    self._frame = 0

  def next(self, heard, coming):
    frames = np.arange(self._frame, self._frame + BLOCK, dtype=np.float32)
    self._frame += BLOCK
    return np.stack([frames, -frames], axis=1)


def test_templates_over_time_are_chosen_for_each_sound_and_saved(tmp_path):
  model = StillModel()
  model.abilities = sources.Abilities(sequence=lambda seed: Counting())
  sounds = [_sound(tmp_path / f"{name}.wav", s) for name, s in (("a", 6), ("b", 0.5))]
  written = demo.render_files(
    model,
    sounds,
    tmp_path / "out",
    template="sequence",
    num_samples=2,
    outputs=["npz", "png"],
  )
  assert all(path.is_file() for path in written)
  for name, frames in (("a", 90), ("b", 8)):
    code = np.load(tmp_path / "out" / f"{name}_1.npz")["condition_code"]
    assert code.shape == (1, frames, 2)
    np.testing.assert_array_equal(code[0, :, 0], np.arange(frames))


def test_starting_a_demo_imports_nothing_that_it_can_do_without():
  check = (
    "import sys, demo; from sdt_jax import exports;"
    "from sdt_jax.synthesis import demo, generate;"
    "print(*(name for name in sys.argv[1:] if name in sys.modules))"
  )
  heavy = "tensorflow_datasets grain numba librosa matplotlib tensorboardX clu scipy "
  heavy += "moviepy"
  result = subprocess.run(
    [sys.executable, "-c", check, *heavy.split()],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.split() == []


def test_a_sound_is_never_overwritten(tmp_path):
  video = demo.render_files(
    StillModel(), [_sound(tmp_path / "talk.wav")], tmp_path / "videos"
  )[0]
  before = video.read_bytes()
  with pytest.raises(UserError, match=r"talk\.mp4 there is one of the sounds"):
    demo.render_files(StillModel(), [video], tmp_path / "videos")
  assert video.read_bytes() == before


def test_an_overview_does_not_overwrite_the_rendering_of_another_sound(tmp_path):
  greys = [np.zeros((64, 64, 3), np.uint8)] * 8
  video.write_video(tmp_path / "a.mp4", greys, audio=0.1 * np.ones(8000))
  sounds = [tmp_path / "a.mp4", _sound(tmp_path / "a_overview.wav")]
  with pytest.raises(UserError, match=r"a_overview\.mp4; rename the sound"):
    demo.render_files(StillModel(), sounds, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_sound_is_not_overwritten_by_an_overview_either(tmp_path):
  sound = _sound(tmp_path / "talk.wav")
  videos = demo.render_files(StillModel(), [sound], tmp_path / "out", num_samples=2)
  sounds = [sound, videos[-1]]
  with pytest.raises(UserError, match=r"talk_overview\.mp4 there is one of the sounds"):
    demo.render_files(StillModel(), sounds, tmp_path / "out", num_samples=2)


def test_nothing_is_written_if_one_sound_is_bad(tmp_path):
  good, bad = _sound(tmp_path / "good.wav"), tmp_path / "bad.wav"
  bad.write_text("no sound")
  with pytest.raises(UserError, match=r"bad\.wav"):
    demo.render_files(StillModel(), [good, bad], tmp_path / "out")
  assert not (tmp_path / "out").exists()
