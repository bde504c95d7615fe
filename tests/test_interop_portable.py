"""The portable model: the run's poses, from a program without this package."""

import functools
import pathlib
import re
import subprocess
import sys

import jax.export
import numpy as np
import packs
import pytest
import test_interop_convert

import sdt_jax
from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.interop import convert, portable, torch_zip

KINDS = ("sdt_bp", "s2g", "frame_wise", "pose2pose")
DOCS = pathlib.Path(__file__).parents[1] / "docs" / "interop.md"

# Runs the program of the documentation where this package cannot be imported.
_ALONE = """
import runpy, sys
sys.modules["sdt_jax"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A workdir of each kind, with random weights, and <kind>.bin."""
  path = tmp_path_factory.mktemp("portable")
  for kind in KINDS:
    frame_wise = kind == "frame_wise"
    config = test_interop_convert.small_config("sdt_bp" if frame_wise else kind)
    config.template.frame_wise = frame_wise
    torch_zip.write(path / "a.pth", test_interop_convert.exported(config))
    convert.import_checkpoint(path / "a.pth", "oliver", path / kind)
    if kind != "pose2pose":
      portable.export_model(path / kind, path / f"{kind}.bin")
  return path


def _load(folder, kind) -> jax.export.Exported:
  return jax.export.deserialize((folder / f"{kind}.bin").read_bytes())


@pytest.fixture(scope="module")
def load_model(folder):
  return functools.cache(lambda kind: sdt_jax.load(folder / kind))


@pytest.mark.parametrize("num_frames", [64, 101])
@pytest.mark.parametrize("kind", ["sdt_bp", "s2g", "frame_wise"])
def test_it_gives_the_poses_of_the_run(folder, load_model, kind, num_frames):
  model, exported = load_model(kind), _load(folder, kind)
  num_samples = audio.num_samples(num_frames)
  sounds = np.stack([packs.sound(seed, num_samples + 1) for seed in range(2)])
  inputs = [audio.mel_spectrogram(sounds[:, :num_samples])]
  if model.bank is not None:
    inputs.append(model.bank[:2])
    if kind == "frame_wise":  # as long as the sound
      at = np.arange(num_frames) % 64
      inputs[1] = inputs[1][:, at]
  poses = np.asarray(exported.call(*inputs))
  assert poses.shape == (2, num_frames, *kp.UPPER_BODY.shape)
  for i, sound in enumerate(sounds):
    template = inputs[1][i] if len(inputs) > 1 else "random"
    expected = model.generate(sound, audio.SAMPLE_RATE, template, generation="whole")
    np.testing.assert_allclose(poses[i], expected, rtol=1e-4, atol=1e-2)


def test_it_is_for_cpu_and_cuda_and_any_size_from_32_frames(folder):
  exported = _load(folder, "sdt_bp")
  assert exported.platforms == ("cpu", "cuda")
  mel, template = exported.in_avals
  assert [str(n) for n in mel.shape] == ["b", "80", "m"]
  assert [str(n) for n in template.shape] == ["b", "6"]

  exported, mel = _load(folder, "s2g"), np.ones((1, 80, 214), np.float32)
  assert exported.call(mel).shape == (1, 32, *kp.UPPER_BODY.shape)
  with pytest.raises(ValueError, match="shapes"):
    exported.call(mel[..., :213])


@pytest.mark.parametrize("kind", ["sdt_bp", "s2g"])
def test_the_program_of_the_documentation_runs_alone(
  folder, load_model, tmp_path, kind
):
  (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
  (tmp_path / "run_gestures.py").write_text(program)
  sound = test_interop_convert.write_wav(tmp_path / "sound.wav", seconds=5)
  model = load_model(kind)
  arguments = [str(folder / f"{kind}.bin"), "sound.wav", "poses.npy"]
  if model.bank is not None:
    np.savez(tmp_path / "demo.npz", condition_code=model.bank[3:4])
    arguments.append("demo.npz")
  command = [sys.executable, "-c", _ALONE, "run_gestures.py", *arguments]
  subprocess.run(command, cwd=tmp_path, check=True)
  poses = np.load(tmp_path / "poses.npy", allow_pickle=False)
  template = 3 if model.bank is not None else "random"
  expected = model.generate(sound, 16_000, template, generation="whole")
  assert poses.shape == (75, *kp.UPPER_BODY.shape)
  np.testing.assert_allclose(poses, expected, rtol=1e-3, atol=0.05)
