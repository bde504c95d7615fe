import json
import pathlib
import re
import resource
import subprocess
import sys

import numpy as np
import packs
import pytest

from sdt_jax import audio, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import pack, speech2gesture, synthetic, synthetic_speaker
from sdt_jax.errors import UserError


def clip_ids(source) -> list[str]:
  return [example["clip_id"].decode() for example in source]


def prepare(root, **kwargs):
  return speech2gesture.prepare(root, "zoe", root / "built", **kwargs)


def test_examples_are_the_clips_in_the_order_of_the_csv(tmp_path, monkeypatch):
  monkeypatch.setattr(speech2gesture, "_CLIPS_PER_SHARD", 3)  # more than one file
  packs.write_pack(tmp_path, "train " * 8 + "dev " * 4)
  built = prepare(tmp_path)
  assert len(list(pathlib.Path(built.path).glob("*-train.*-of-00003"))) == 3
  index = pack.read_index(tmp_path, "zoe")
  for split, rows in index.rows.items():
    assert clip_ids(built.sources[split]) == [row.clip_id for row in rows]
  row = index.rows["train"][5]
  example, clip = built.sources["train"][5], pack.read_clip(row.path, "")
  np.testing.assert_array_equal(example["audio"], clip.audio)
  np.testing.assert_array_equal(example["poses"], clip.poses_px)
  np.testing.assert_array_equal(example["detected"], clip.detected)
  assert (example["start"], example["video"]) == (25, b"talk")
  assert example["poses"].dtype == example["audio"].dtype == np.float32


def test_statistics_are_those_of_the_train_split(tmp_path):
  folder = packs.write_pack(tmp_path)
  keypoints = packs.keypoints(7)
  # A finger is missing for a while, and the wrist of the other hand.
  keypoints[:30, :, kp.OPENPOSE.index["left_hand_index_1"]] = 0
  keypoints[10:20, :, kp.OPENPOSE.index["right_wrist"]] = 0
  packs.write_clip(folder / "clips/npz/talk-1.npz", pose=keypoints)
  built = prepare(tmp_path)
  clips = list(built.sources["train"])
  expected = speakers.from_poses(
    "zoe",
    np.concatenate([c["poses"] for c in clips]),
    np.concatenate([c["detected"] for c in clips]),
  )
  for form in (True, False):
    ours, theirs = built.statistics.table(form), expected.table(form)
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-3)
    np.testing.assert_allclose(ours.std, theirs.std, rtol=1e-4)
    assert ours.scale_factor == pytest.approx(theirs.scale_factor)


def test_points_that_were_never_detected_are_named(tmp_path):
  folder = packs.write_pack(tmp_path, "train dev")
  keypoints = packs.keypoints(0)
  keypoints[:, :, kp.OPENPOSE.part("left_hand")] = 0
  packs.write_clip(folder / "clips/npz/talk-0.npz", pose=keypoints)
  with pytest.raises(UserError, match=r"never detected .*: left_hand_root, .* 16 more"):
    prepare(tmp_path)


def test_rebuilt_only_if_the_pack_changes(tmp_path, monkeypatch):
  folder = packs.write_pack(tmp_path)
  first = prepare(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(pack, "read_clip", None)  # a call would fail
    again = prepare(tmp_path)
  assert again.path == first.path
  np.testing.assert_array_equal(
    again.statistics.hierarchical.mean, first.statistics.hierarchical.mean
  )
  packs.write_clip(folder / "clips/npz/talk-0.npz", seed=50)
  changed = prepare(tmp_path)
  assert changed.path != first.path
  np.testing.assert_array_equal(changed.sources["train"][0]["audio"], packs.sound(50))


def test_bad_clip_stops_the_build_and_leaves_no_files(tmp_path):
  bad = packs.write_pack(tmp_path) / "clips/npz/talk-2.npz"
  packs.write_clip(bad, pose=np.zeros((64, 3, 135)))
  with pytest.raises(UserError, match=r"^zoe/clips/npz/talk-2: pose has .*skip_bad"):
    prepare(tmp_path)
  assert not [path for path in (tmp_path / "built").rglob("*") if path.is_file()]
  packs.write_clip(bad, seed=2)
  assert len(prepare(tmp_path).sources["train"]) == 3


def test_killed_build_is_not_used(tmp_path):
  packs.write_pack(tmp_path)
  program = f"""
import os, pathlib
from sdt_jax.data import pack, speech2gesture
read_clip = pack.read_clip
def dies_in_the_second_split(path, clip_id):
  return os._exit(9) if "talk-4" in clip_id else read_clip(path, clip_id)
pack.read_clip = dies_in_the_second_split
speech2gesture.prepare({str(tmp_path)!r}, "zoe", {str(tmp_path / "built")!r})
"""
  killed = subprocess.run([sys.executable, "-c", program], capture_output=True)
  assert killed.returncode == 9
  assert list((tmp_path / "built").rglob("*train*"))  # it had started to write
  built = prepare(tmp_path)
  assert {split: len(clips) for split, clips in built.sources.items()} == {
    "train": 3,
    "dev": 2,
  }


def test_two_builds_at_once(tmp_path, monkeypatch):
  packs.write_pack(tmp_path)
  read_clip, others = pack.read_clip, []

  def another_process_is_faster(path, clip_id):
    if not others:
      others.append(None)
      others[0] = prepare(tmp_path)
    return read_clip(path, clip_id)

  monkeypatch.setattr(pack, "read_clip", another_process_is_faster)
  built = prepare(tmp_path)
  assert built.path == others[0].path
  assert len(clip_ids(built.sources["train"])) == 3


def test_skipped_clips_are_counted_and_leave_no_gaps(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(speech2gesture, "_CLIPS_PER_SHARD", 2)
  folder = packs.write_pack(tmp_path, "train " * 6 + "dev dev")
  for i in (2, 3, 6):  # all clips of a train file, and one of dev
    packs.write_clip(folder / f"clips/npz/talk-{i}.npz", audio=np.zeros(10))
  (folder / "clips/npz/talk-5.npz").unlink()
  for _ in range(2):  # built, then opened
    built = prepare(tmp_path, skip_bad_clips=True)
    assert built.num_skipped == 4
    ids = [f"zoe/clips/npz/talk-{i}" for i in (0, 1, 4)]
    assert clip_ids(built.sources["train"]) == ids
    assert len(built.sources["dev"]) == 1
  assert "zoe: 4 bad clips skipped" in caplog.text
  with pytest.raises(UserError, match="zoe/clips/npz/talk-2: audio"):
    prepare(tmp_path)  # not the data set that was built without them


def test_cut_and_padded_clips_are_counted(tmp_path, caplog):
  folder = packs.write_pack(tmp_path)
  keypoints = packs.keypoints(0)
  for i in (0, 3):
    longer = np.concatenate([keypoints, keypoints[:i]])
    packs.write_clip(folder / f"clips/npz/talk-{i}.npz", pose=longer)
  for i, seconds in ((1, 0.2), (2, 0.31), (4, 0.01)):
    sound = packs.sound(i, 68_266 - int(seconds * 16_000))
    packs.write_clip(folder / f"clips/npz/talk-{i}.npz", audio=sound)
  assert len(prepare(tmp_path).sources["train"]) == 3
  said = "1 clips cut to 64 frames, 2 clips padded with up to 0.31 s of silence"
  assert caplog.messages == [f"zoe: {said}"]
  prepare(tmp_path)  # says it only once
  assert len(caplog.messages) == 1


@pytest.mark.parametrize("labels", ["train train", "train test test", "train dev test"])
def test_splits_that_have_clips(tmp_path, labels):
  packs.write_pack(tmp_path, labels)
  for _ in range(2):  # built, then opened
    sources = prepare(tmp_path).sources
    assert {name: len(clips) for name, clips in sources.items()} == {
      name: labels.split().count(name) for name in labels.split()
    }


def test_a_data_set_of_the_previous_version_is_used(tmp_path, monkeypatch):
  """It has the same files, with one field less."""
  packs.write_pack(tmp_path)
  file = pathlib.Path(prepare(tmp_path).path, "metadata.json")
  metadata = json.loads(file.read_text())
  assert metadata.pop("others") == {}
  file.write_text(json.dumps(metadata))
  monkeypatch.setattr(pack, "read_clip", None)  # a call would fail
  built = prepare(tmp_path)
  assert file.parent.match("speech2gesture/zoe-*-stop/2.0.0")
  assert (built.others, len(built.sources["dev"])) == ({}, 2)


def test_no_clips_left_after_skipping(tmp_path):
  folder = packs.write_pack(tmp_path, "train dev")
  packs.write_clip(folder / "clips/npz/talk-1.npz", audio=np.zeros(10))
  with pytest.raises(UserError, match="zoe: no good clip in the dev split"):
    prepare(tmp_path, skip_bad_clips=True)


@pytest.mark.parametrize("name", ["two words", "über", "50%", "a{b}c", "v1.0-x"])
def test_any_folder_name_can_be_a_speaker(tmp_path, name):
  packs.write_pack(tmp_path, "train dev", speaker=name)
  for _ in range(2):
    built = speech2gesture.prepare(tmp_path, name, tmp_path / "built")
    assert clip_ids(built.sources["dev"]) == [f"{name}/clips/npz/talk-1"]


def test_full_disk(tmp_path):
  packs.write_pack(tmp_path)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
  try:
    with pytest.raises(UserError, match=r"cannot write the data set .* too large"):
      prepare(tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert not [path for path in (tmp_path / "built").rglob("*") if path.is_file()]
  assert len(prepare(tmp_path).sources["train"]) == 3


def test_progress_bar_is_the_only_output(tmp_path, capfd):
  packs.write_pack(tmp_path)
  prepare(tmp_path)
  out, err = capfd.readouterr()
  assert out == ""
  assert "clips of zoe: 100%" in err
  lines = filter(None, re.split("[\r\n]", err))
  assert {line.split(":")[0] for line in lines} == {"clips of zoe"}


def test_without_tensorflow(tmp_path):
  packs.write_pack(tmp_path)
  program = f"""
import sys
import sdt_jax.data
assert "tensorflow_datasets" not in sys.modules  # the registry is quick to import
from sdt_jax.data import pipeline, speech2gesture
built = speech2gesture.prepare({str(tmp_path)!r}, "zoe", {str(tmp_path / "built")!r})
split = pipeline.Split(built.sources["train"], built.statistics.hierarchical)
next(pipeline.train_batches(split, batch_size=2, seed=0))
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
  return synthetic.prepare("ada", 60, 3, tmp_path_factory.mktemp("data"))


def test_synthetic_clips_are_cut_from_performances(ada):
  source = ada.sources["train"]
  assert {k: len(clips) for k, clips in ada.sources.items()} == {"train": 60, "dev": 3}
  example = source[5]
  video, start = int(example["video"].decode().split("/")[1]), example["start"]
  performance = synthetic_speaker.perform(
    synthetic_speaker.make_speaker("ada"), video, 60 * audio.FPS
  )
  frames = slice(start, start + 64)
  first = audio.num_samples(start)
  for key, expected in {
    "audio": performance.audio[first : first + 68_266],
    "poses": pose.from_openpose(performance.keypoints)[frames],
    "template": performance.template[frames],
    "mouth_opening": performance.mouth_opening[frames],
    "prominence": performance.prominence[frames],
  }.items():
    np.testing.assert_array_equal(example[key], expected, err_msg=key)
  assert example["detected"].all()


def test_synthetic_splits_share_no_performance(ada):
  videos = {
    split: {example["video"] for example in clips}
    for split, clips in ada.sources.items()
  }
  assert len(videos["train"]) == 2  # a minute has 53 clips
  assert not videos["train"] & videos["dev"]
  ids = [i for clips in ada.sources.values() for i in clip_ids(clips)]
  assert len(set(ids)) == 63


def test_synthetic_is_reproducible_and_depends_on_the_name(ada, tmp_path):
  again = synthetic.prepare("ada", 2, 1, tmp_path)
  assert clip_ids(again.sources["dev"]) == clip_ids(ada.sources["dev"])[:1]
  other = synthetic.prepare("ben", 2, 1, tmp_path)
  assert not np.array_equal(
    other.sources["train"][0]["poses"], again.sources["train"][0]["poses"]
  )
  one_more = synthetic.prepare("ada", 2, 2, tmp_path)
  assert len({again.path, other.path, one_more.path}) == 3


def test_synthetic_without_dev_clips(ada, tmp_path):
  built = synthetic.prepare("ada", 2, 0, tmp_path)
  assert built.sources.keys() == {"train"}
  assert clip_ids(built.sources["train"]) == clip_ids(ada.sources["train"])[:2]
  for numbers, field in (((0, 1), "train"), ((1, -1), "dev")):
    with pytest.raises(UserError, match=f"dataset.num_{field}_clips=.*at least"):
      synthetic.prepare("ada", *numbers, tmp_path)


def test_synthetic_is_rebuilt_if_the_code_changes(ada, tmp_path, monkeypatch):
  first = synthetic.prepare("ada", 1, 1, tmp_path)
  perform = synthetic_speaker.perform

  def louder(*args):
    performance = perform(*args)
    return performance._replace(audio=2 * performance.audio)

  monkeypatch.setattr(synthetic_speaker, "perform", louder)
  assert synthetic.prepare("ada", 1, 1, tmp_path).path != first.path


def test_real_packs(real_pack, tmp_path):
  for speaker, width in (("oliver", 295.1), ("kubinec", 291.9)):
    built = speech2gesture.prepare(real_pack, speaker, tmp_path)
    scale = built.statistics.hierarchical.scale_factor
    # Shoulder widths from the pack's description, which are those of the whole video.
    measured = speakers.COMMON_SHOULDER_WIDTH_PX / scale
    assert measured == pytest.approx(width, rel=0.02)
