"""Clip stores: built once, rebuilt if damaged, safe with several processes."""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import resource

import numpy as np
import packs
import pytest

from sdt_jax.data import clip_store, speech2gesture
from sdt_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
  """Folder of a pack whose data set is built."""
  packs.write_pack(tmp_path)
  prepare(tmp_path)
  return tmp_path


def prepare(root):
  return speech2gesture.prepare(root, "zoe", root / "built")


def files_of(root) -> dict[str, pathlib.Path]:
  return {path.name: path for path in (root / "built").rglob("cut-*/*.npy")}


def assert_whole(built):
  assert [len(built.sources[split]) for split in ("train", "dev")] == [3, 2]
  for clips in built.sources.values():
    for clip in clips:
      seed = int(clip["clip_id"].decode().rpartition("-")[2])
      np.testing.assert_array_equal(clip["audio"], packs.sound(seed))


def test_arrays_are_built_once(root, monkeypatch):
  files = files_of(root)
  assert files.keys() == {
    f"{split}-{key}.npy"
    for split in ("train", "dev")
    for key in ("clips", "audio", "poses", "detected")
  }
  monkeypatch.setattr(clip_store, "_build", None)  # a call would fail
  assert_whole(prepare(root))


def test_clips_are_read_only_and_rows_are_checked(root):
  clips = prepare(root).sources["train"]
  with pytest.raises(ValueError, match="read-only"):
    clips[0]["poses"][0] = 0
  for row in (-1, 3):
    with pytest.raises(IndexError, match=f"row {row} of 3 clips"):
      clips[row]


@pytest.mark.parametrize("key", ["clips", "audio", "poses", "detected"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other", "text"])
def test_damaged_arrays_are_rebuilt(root, key, damage):
  file = files_of(root)[f"train-{key}.npy"]
  content = file.read_bytes()
  file.unlink()
  match damage:
    case "empty":
      file.write_bytes(b"")
    case "short":
      file.write_bytes(content[:-1])
    case "other":
      np.save(file, np.zeros(3))
    case "text":
      file.write_text("not an array")
  assert_whole(prepare(root))
  assert file.read_bytes() == content
  assert len(list(file.parent.iterdir())) == 8  # no temporary files


@pytest.mark.parametrize("column", ["frame_start", "audio_start"])
@pytest.mark.parametrize("start", [-3, 10**9])
def test_arrays_with_clips_out_of_range_are_rebuilt(root, column, start):
  file = files_of(root)["train-clips.npy"]
  content, clips = file.read_bytes(), np.load(file)
  clips[column][1] = start
  np.save(file, clips)
  assert_whole(prepare(root))
  assert file.read_bytes() == content


def test_arrays_of_another_data_set_are_not_used(root):
  for file in files_of(root).values():
    array = np.load(file)
    if array.dtype == np.float32:
      np.save(file, array + 1)
  path = next((root / "built").rglob("metadata.json"))
  metadata = json.loads(path.read_text())
  path.write_text(json.dumps(metadata | {"num_skipped": 1}))
  assert_whole(prepare(root))


def test_several_processes_build_at_once(root):
  for file in files_of(root).values():
    file.unlink()
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
    for done in [pool.submit(_open_and_check, root) for _ in range(4)]:
      done.result(60)
  assert_whole(prepare(root))
  assert not list((root / "built").rglob(".building-*"))


def _open_and_check(root):
  assert_whole(prepare(root))


def test_clips_stay_readable_while_arrays_are_rebuilt(root):
  built = prepare(root)
  for file in files_of(root).values():
    file.unlink()
  prepare(root)
  assert_whole(built)


def test_full_disk(root):
  for file in files_of(root).values():
    file.unlink()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
  try:
    with pytest.raises(UserError, match=r"cut-\w+: cannot be written .*too large"):
      prepare(root)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not files_of(root)
  assert not list((root / "built").rglob(".building-*"))
  assert_whole(prepare(root))


def test_old_files_of_killed_processes_are_removed(root):
  [folder] = {file.parent for file in files_of(root).values()}
  old, young = folder / ".building-old", folder / ".building-young"
  old.mkdir()
  young.mkdir()
  os.utime(old, (0, 0))
  files_of(root)["train-audio.npy"].unlink()
  prepare(root)
  assert not old.exists()
  assert young.exists()
