"""Rendering of sound files, with a model that needs no training."""

import functools
import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sdt_jax import audio, exports, pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis import demo


class StillModel:
  """Holds the mean pose of a published speaker."""

  bank = np.arange(6, dtype=np.float32).reshape(3, 2)
  at_once = 2

  def generate_many(self, sounds, codes, seed):
    """The first coordinate is the template's, so a test can tell which was used."""
    del seed
    table = speakers.published("oliver").hierarchical
    mean = pose.to_final(np.zeros_like(table.mean), table)
    poses_px = []
    for sound, code in zip(sounds, codes, strict=True):
      frames = np.repeat(mean[None], audio.num_frames(len(sound)), axis=0)
      frames[:, 0, 0] = code[0]
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
  assert {"a_0.mp4", "a_1.npz", "a_1.csv", "a_overview.png"} <= names


def test_every_rendering_is_that_of_its_sound_and_template(tmp_path):
  seconds = {"a": 0.5, "b": 0.9, "c": 0.7}
  sounds = [_sound(tmp_path / f"{name}.wav", s) for name, s in seconds.items()]
  videos = demo.render_files(
    StillModel(), sounds, tmp_path / "out", num_samples=2, template="0:2"
  )
  expected = [f"{name}_{i}.mp4" for name in seconds for i in range(2)]
  assert [video.name for video in videos] == expected
  for (name, s), i in itertools.product(seconds.items(), range(2)):
    arrays = np.load(tmp_path / "out" / f"{name}_{i}.npz")
    poses_px = arrays["poses_pred_batch"][0]
    assert len(poses_px) == audio.num_frames(int(s * 16_000))
    assert (poses_px[:, 0, 0] == arrays["template"][0, 0]).all()
    np.testing.assert_array_equal(arrays["template"][0], StillModel.bank[2 * i])


def test_starting_a_demo_imports_nothing_that_it_can_do_without():
  check = (
    "import sys, demo; from sdt_jax import exports;"
    "from sdt_jax.synthesis import demo, generate;"
    "print(*(name for name in sys.argv[1:] if name in sys.modules))"
  )
  heavy = "tensorflow_datasets grain numba librosa matplotlib tensorboardX clu scipy"
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


def test_nothing_is_written_if_one_sound_is_bad(tmp_path):
  good, bad = _sound(tmp_path / "good.wav"), tmp_path / "bad.wav"
  bad.write_text("no sound")
  with pytest.raises(UserError, match=r"bad\.wav"):
    demo.render_files(StillModel(), [good, bad], tmp_path / "out")
  assert not (tmp_path / "out").exists()
