"""The programs as a user calls them; `test_bad_inputs.py` has what they refuse."""

import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
SPEECH = ROOT / "sdt_jax" / "assets" / "sample_speech.flac"

_TINY = [
  "--config=configs/quick.py",
  "--config.num_epochs=1",
  "--config.batch_size=8",
  "--config.dataset.num_train_clips=16",
  "--config.dataset.num_dev_clips=8",
  "--config.generator.channels=8",
  "--config.generator.audio_channels=(4, 4, 8, 8)",
  "--config.log.video_every_epochs=0",
]


def _run(program: str, *flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, program, *flags], cwd=ROOT, capture_output=True, text=True
  )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("programs")
  data = f"--config.dataset.data_dir={folder / 'data'}"
  done = _run("train.py", *_TINY, data, f"--workdir={folder / 'run'}")
  assert done.returncode == 0, done.stderr
  return folder / "run"


@pytest.mark.slow
def test_eval_writes_and_prints_scores(trained):
  done = _run("eval.py", f"--workdir={trained}", "--step=best")
  assert done.returncode == 0, done.stderr
  assert "lip_sync" in done.stdout
  assert (trained / "eval_dev_2.json").exists()


@pytest.mark.slow
def test_demo_renders_each_sound_twice(trained, tmp_path):
  done = _run(
    "demo.py",
    f"--workdir={trained}",
    f"--audio={SPEECH}",
    f"--output_dir={tmp_path}",
    "--template=0:3",
    "--num_samples=2",
  )
  assert done.returncode == 0, done.stderr
  names = {p.name for p in tmp_path.iterdir()}
  suffixes = ("mp4", "npz", "png")
  assert names == {f"sample_speech_{i}.{s}" for i in range(2) for s in suffixes} | {
    "sample_speech_overview.png"
  }
  with np.load(tmp_path / "sample_speech_0.npz", allow_pickle=False) as arrays:
    poses, template = arrays["poses_pred_batch"], arrays["template"]
  assert poses.dtype == np.float32
  assert poses.shape[0] == 1
  assert poses.shape[2:] == (2, 121)
  assert template.shape == (1, 32)
  with av.open(tmp_path / "sample_speech_0.mp4") as video:
    stream = video.streams.video[0]
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert (stream.frames, stream.average_rate) == (poses.shape[1], 15)
    assert video.streams.audio


@pytest.mark.slow
def test_the_real_packs_train_and_render(real_pack, tmp_path):
  done = _run(
    "train.py",
    *_TINY,
    "--config.dataset.name=speech2gesture",
    f"--config.dataset.root={real_pack}",
    "--config.dataset.speaker=kubinec",
    f"--config.dataset.data_dir={tmp_path / 'data'}",
    f"--workdir={tmp_path / 'run'}",
  )
  assert done.returncode == 0, done.stderr
  sound = real_pack.parent / "sources" / "demo_audio.wav"
  flags = [f"--workdir={tmp_path / 'run'}", f"--audio={sound}"]
  done = _run("demo.py", *flags, f"--output_dir={tmp_path / 'out'}")
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "out" / "demo_audio.mp4").exists()
