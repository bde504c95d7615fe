"""Data sets outside of the package: docs/own_data_set.py, and faults of such code."""

import pathlib
import sys

import numpy as np
import packs
import pytest
import soundfile
import tiny

from sdt_jax import pose, workdir
from sdt_jax.data import builder, own, pipeline
from sdt_jax.errors import UserError

EXAMPLE = "docs.own_data_set:WavAndNpz"
FRAMES = 94  # 7 clips


def write_recordings(root: pathlib.Path, split: str, *names: str) -> np.ndarray:
  """Writes a recording for each name; returns the keypoints of the last one."""
  (root / split).mkdir(parents=True, exist_ok=True)
  keypoints = np.concatenate([packs.keypoints(len(split)), packs.keypoints(1)])[:FRAMES]
  for name in names:
    sound = packs.sound(0, FRAMES * 16_000 // 15)
    soundfile.write(root / split / f"{name}.wav", sound, 16_000, "FLOAT")
    np.savez(root / split / f"{name}.npz", keypoints=keypoints)
  return keypoints


def build(folder: pathlib.Path, **fields) -> pipeline.Built:
  fields = {"name": EXAMPLE, "root": str(folder / "mine"), "speaker": ""} | fields
  return pipeline.build(**fields, data_dir=str(folder / "built"))


def test_the_example_yields_the_clips_of_its_recordings(tmp_path):
  keypoints = write_recordings(tmp_path / "mine", "train", "a", "b")
  write_recordings(tmp_path / "mine", "dev", "a")
  built = build(tmp_path)
  assert built.speaker == "wav_and_npz"
  assert {split: len(clips) for split, clips in built.sources.items()} == {
    "train": 14,
    "dev": 7,
  }
  clip = built.sources["train"][8]
  assert (clip["clip_id"], clip["video"]) == (b"train/b-5-69", b"train/b")
  np.testing.assert_array_equal(clip["poses"], pose.from_openpose(keypoints)[5:69])
  sound = packs.sound(0, FRAMES * 16_000 // 15)[5 * 16_000 // 15 :][:68_266]
  np.testing.assert_allclose(clip["audio"], sound, atol=1e-6)
  assert len(built.sources["train"].frames["poses"]) == 2 * FRAMES  # stored once


def test_rebuilt_only_if_the_data_changes(tmp_path):
  write_recordings(tmp_path / "mine", "train", "a")
  paths = [build(tmp_path).path, build(tmp_path).path]
  assert build(tmp_path, speaker="eve").speaker == "eve"
  write_recordings(tmp_path / "mine", "train", "b")
  paths.append(build(tmp_path).path)
  assert paths[0] == paths[1] != paths[2]


def test_the_example_trains(tmp_path):
  write_recordings(tmp_path / "mine", "train", "a", "b")
  write_recordings(tmp_path / "mine", "dev", "a")
  fields = {"name": EXAMPLE, "root": str(tmp_path / "mine"), "speaker": "eve"}
  fields = {f"dataset.{key}": value for key, value in fields.items()} | {
    "num_epochs": 1
  }
  assert tiny.train(tiny.config(tmp_path / "data", **fields), tmp_path / "run")
  assert workdir.read_clips(tmp_path / "run")[-1] == "train/b-30-94"
  assert workdir.read_speaker(tmp_path / "run").name == "eve"


def write_module(folder: pathlib.Path, name: str, body: str) -> None:
  code = "import numpy as np\nfrom sdt_jax.data import builder\n"
  code += f"class Mine(builder.ClipBuilder):\n  {body}\n"
  (folder / f"{name}.py").write_text(code)


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_module(tmp_path, "my_module_here", "def shards(self, split): return []")
  path = list(sys.path)
  assert own.load("my_module_here:Mine").choose_speaker("", "") == "mine"
  assert sys.path == path
  with pytest.raises(UserError, match="mine: no good clip in the train split"):
    build(tmp_path, name="my_module_here:Mine", root="")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("no_such_module:Mine", "cannot import 'no_such_module' .*run from its folder"),
    (":Mine", "cannot import ''"),
    ("bad_module:Mine", r"cannot import 'bad_module' \(ZeroDivisionError: "),
    ("sdt_jax.pose:Mine", "the module has no class 'Mine'"),
    ("sdt_jax.pose:", "the module has no class ''"),
    (
      "sdt_jax.pose:PoseTable",
      "derive PoseTable from sdt_jax.data.builder.ClipBuilder",
    ),
    ("sdt_jax.data.builder:ClipBuilder", "and define `shards`"),
  ],
)
def test_wrong_names(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bad_module.py").write_text("1 / 0\n")
  with pytest.raises(UserError, match=message) as raised:
    pipeline.resolve({"name": name, "root": "", "speaker": ""})
  assert str(raised.value).startswith(f"config.dataset.name is {name!r}: ")
  assert "\n" not in str(raised.value)


def test_wrong_folders(tmp_path):
  write_recordings(tmp_path / "mine", "train", "a")
  with pytest.raises(UserError, match=r"dataset.root='none' is not a folder"):
    pipeline.resolve({"name": EXAMPLE, "root": "none", "speaker": ""})
  with pytest.raises(UserError, match=r"data_dir='.*' is in dataset.root"):
    build(tmp_path, root=str(tmp_path))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"audio": np.zeros(9, np.float32)}, r"audio is float32 \(9,\), expected float32"),
    ({"poses": np.zeros((64, 2, 121))}, "poses is float64 .*, expected float32"),
    ({"detected": None}, r"detected is object \(\), expected bool \(64, 121\)"),
    ({"audio": np.full(68_266, np.nan, np.float32)}, "audio has values .* not finite"),
  ],
)
def test_wrong_clips_are_named(tmp_path, change, message):
  class WrongClips(builder.ClipBuilder):
    def shards(self, split):
      keypoints, sound = packs.keypoints(0), packs.sound(0)
      [clip] = builder.clips_of_video("a", keypoints, sound, [0])
      return [lambda: iter([clip | change])] if split == "train" else []

  with pytest.raises(UserError, match=f"^a-0-64: {message}"):
    own.CustomDataSet(WrongClips).prepare("", "eve", str(tmp_path / "built"))


def test_wrong_keypoints_are_named(tmp_path):
  write_recordings(tmp_path / "mine", "train", "a")
  np.savez(tmp_path / "mine/train/a.npz", keypoints=np.zeros((90, 2, 137)))
  with pytest.raises(UserError, match=r"train/a: keypoints have shape \(90, 2, 137\)"):
    build(tmp_path)
