"""Rendering of sound files, with a model that needs no training."""

import numpy as np
import pytest
import soundfile

from sdt_jax import audio, pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis import demo


class StillModel:
  """Holds the mean pose of a published speaker."""

  bank = np.zeros((3, 2), np.float32)

  def generate(self, sound, sample_rate, template):
    assert sample_rate == audio.SAMPLE_RATE
    table = speakers.published("oliver").hierarchical
    mean = pose.to_final(np.zeros_like(table.mean), table, True)
    return np.repeat(mean[None], audio.num_frames(len(sound)), axis=0)


def _sound(path, seconds=0.5):
  soundfile.write(path, np.zeros(int(seconds * 16_000)) + 0.01, 16_000)
  return path


def test_each_sound_gets_three_files(tmp_path):
  sounds = [_sound(tmp_path / f"{name}.wav") for name in ("a", "b.c")]
  videos = demo.render_files(StillModel(), sounds, tmp_path / "out")
  assert [v.name for v in videos] == ["a.mp4", "b.c.mp4"]
  assert {p.name for p in (tmp_path / "out").iterdir()} == {
    f"{stem}.{suffix}" for stem in ("a", "b.c") for suffix in ("mp4", "npz", "png")
  }


def test_several_samples_are_numbered_and_compared(tmp_path):
  sound = _sound(tmp_path / "a.wav")
  demo.render_files(
    StillModel(),
    [sound],
    tmp_path / "out",
    num_samples=2,
    template="0:2",
    exports=["csv"],
  )
  names = {p.name for p in (tmp_path / "out").iterdir()}
  assert {"a_0.mp4", "a_1.npz", "a_1.csv", "a_overview.png"} <= names


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
