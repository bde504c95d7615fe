import io
import os
import re
import shutil

import numpy as np
import packs
import pytest

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.data import pack
from sdt_jax.errors import UserError


def read(folder, name="talk-0"):
  return pack.read_clip(folder / f"clips/npz/{name}.npz", f"zoe/clips/npz/{name}")


def test_index_keeps_the_order_of_the_csv_and_the_splits(tmp_path):
  packs.write_pack(tmp_path, "train idle dev train idle val train")
  index = pack.read_index(tmp_path, "zoe")
  ids = {split: [r.clip_id for r in rows] for split, rows in index.rows.items()}
  assert ids == {
    "train": [f"zoe/clips/npz/talk-{i}" for i in (0, 3, 6)],
    "dev": [f"zoe/clips/npz/talk-{i}" for i in (2, 5)],
  }
  assert index.rows["train"][1].start == 15
  assert index.rows["train"][1].video == "talk"


def test_splits_without_rows_are_left_out(tmp_path):
  packs.write_pack(tmp_path, "train test test")
  rows = pack.read_index(tmp_path, "zoe").rows
  assert {split: len(r) for split, r in rows.items()} == {"train": 1, "test": 2}


@pytest.mark.parametrize("csv_name", ["train_zoe_137.csv", "train_zoe_137_3.csv"])
@pytest.mark.parametrize("pose_fn", ["{i}.npz", "{root}/{i}.npz", "{here}/{i}.npz"])
def test_names_of_the_first_public_version(tmp_path, monkeypatch, csv_name, pose_fn):
  monkeypatch.chdir(tmp_path.parents[1])
  here = tmp_path.relative_to(tmp_path.parents[1])
  rows = []
  for i, label in enumerate(("train", "dev")):
    packs.write_clip(tmp_path / f"{i}.npz", seed=i)
    path = pose_fn.format(i=i, root=tmp_path, here=here)
    rows.append([label, path, "zoe"])
  packs.write_csv(tmp_path / csv_name, rows, "dataset,pose_fn,speaker")
  assert pack.choose_speaker(tmp_path, "") == "zoe"
  row = pack.read_index(tmp_path, "zoe").rows["dev"][0]
  assert row.path.samefile(tmp_path / "1.npz")
  assert row.clip_id == (f"zoe/{here}/1" if "here" in pose_fn else "zoe/1")


def test_the_newest_csv_counts(tmp_path):
  folder = packs.write_pack(tmp_path)
  for name in ("train_zoe_137.csv", "train_zoe_137_3.csv", "zoe/clips.csv"):
    packs.write_csv(tmp_path / name, [])
  assert pack.find_packs(tmp_path) == {"zoe": folder / "processed_137.csv"}
  (folder / "processed_137.csv").unlink()
  assert pack.find_packs(tmp_path) == {"zoe": folder / "clips.csv"}
  (folder / "clips.csv").unlink()
  assert pack.find_packs(tmp_path) == {"zoe": tmp_path / "train_zoe_137.csv"}


def test_the_root_may_be_a_pack(tmp_path, monkeypatch):
  folder = packs.write_pack(tmp_path)
  expected = pack.read_index(tmp_path, "zoe")
  monkeypatch.chdir(folder)
  for root in (folder, ".", "../zoe"):
    assert pack.choose_speaker(root, "") == "zoe"
    index = pack.read_index(root, "zoe")
    assert index.fingerprint == expected.fingerprint
    ids = [row.clip_id for row in index.rows["train"]]
    assert ids == [row.clip_id for row in expected.rows["train"]]


def test_the_column_speaker(tmp_path):
  packs.write_pack(tmp_path, "train:bob train:bob train train:al dev test:oliver")
  index = pack.read_index(tmp_path, "zoe")
  assert index.speakers == ("bob", "al", "oliver", "zoe")  # oliver is published
  assert [row.speaker for row in index.rows["train"]] == ["bob", "bob", "zoe", "al"]
  # Data sets of versions that ignored the column are not taken for this one.
  csv_path = tmp_path / "zoe/processed_137.csv"
  assert index.fingerprint != pack._fingerprint(csv_path, index.rows, 1)
  packs.write_pack(tmp_path, "train dev:bob")
  with pytest.raises(
    UserError, match=r"csv: speaker 'bob' has no train row and no pub"
  ):
    pack.read_index(tmp_path, "zoe")


def test_alternative_csv_with_only_the_required_columns(tmp_path):
  folder = packs.write_pack(tmp_path)
  (folder / "processed_137.csv").unlink()
  rows = [["clips/npz/talk-0.npz", "train"], ["clips/npz/talk-1.npz", "dev"]]
  packs.write_csv(folder / "clips.csv", rows, "pose_fn,dataset")
  row = pack.read_index(tmp_path, "zoe").rows["train"][0]
  assert (row.start, row.video, row.speaker) == (-1, "", "zoe")
  assert row.path.is_file()


def test_csv_with_a_byte_order_mark(tmp_path):
  csv_path = packs.write_pack(tmp_path) / "processed_137.csv"
  csv_path.write_bytes(b"\xef\xbb\xbf" + csv_path.read_bytes())
  assert len(pack.read_index(tmp_path, "zoe").rows["train"]) == 3


@pytest.mark.parametrize("form", ["zoe/{}", "{folder}/{}", "./{}"])
def test_forms_of_pose_fn(tmp_path, form):
  folder = packs.write_pack(tmp_path)
  names = [form.format(f"clips/npz/talk-{i}.npz", folder=folder) for i in (0, 1)]
  rows = [["train", names[0]], ["dev", names[1]]]
  packs.write_csv(folder / "processed_137.csv", rows, "dataset,pose_fn")
  row = pack.read_index(tmp_path, "zoe").rows["train"][0]
  assert row.clip_id == "zoe/clips/npz/talk-0"
  assert row.path.samefile(folder / "clips/npz/talk-0.npz")


def test_fingerprint_changes_with_a_clip_or_the_csv_only(tmp_path):
  folder = packs.write_pack(tmp_path)

  def fingerprint():
    return pack.read_index(tmp_path, "zoe").fingerprint

  first = fingerprint()
  (folder / "notes.txt").write_text("not part of the pack")
  assert fingerprint() == first
  os.utime(folder / "clips/npz/talk-4.npz", ns=(0, 0))
  second = fingerprint()
  assert second != first
  with (folder / "processed_137.csv").open("a") as f:
    f.write("idle,,,,,,,\n")
  assert fingerprint() not in {first, second}


def test_clip_is_neck_relative_and_fitted(tmp_path):
  clip = read(packs.write_pack(tmp_path))
  keypoints = packs.keypoints(0)
  np.testing.assert_array_equal(clip.poses_px, pose.from_openpose(keypoints))
  np.testing.assert_array_equal(clip.audio, packs.sound(0))
  assert clip.detected.all()
  assert clip.detected.shape == (64, kp.UPPER_BODY.num_joints)


def test_longer_clips_are_cut(tmp_path):
  keypoints, sound = packs.keypoints(0), packs.sound(0, 80_000)
  longer = np.concatenate([keypoints, keypoints[:9]])
  packs.write_clip(tmp_path / "a.npz", pose=longer, audio=sound)
  clip = pack.read_clip(tmp_path / "a.npz", "a")
  np.testing.assert_array_equal(clip.poses_px, pose.from_openpose(keypoints))
  np.testing.assert_array_equal(clip.audio, sound[:68_266])
  assert (clip.was_longer, clip.silence) == (True, 0)


@pytest.mark.parametrize("missing", [0, 1, 8000])
def test_sound_half_a_second_short_is_padded(tmp_path, missing):
  sound = packs.sound(0, 68_266 - missing)
  packs.write_clip(tmp_path / "a.npz", audio=sound)
  clip = pack.read_clip(tmp_path / "a.npz", "a")
  np.testing.assert_array_equal(clip.audio, np.append(sound, np.zeros(missing)))
  assert (clip.was_longer, clip.silence) == (False, missing)


@pytest.mark.parametrize("length", [67_000, 68_267, 69_000])
def test_audio_is_fitted_to_64_frames(tmp_path, length):
  samples = packs.sound(1, length)
  packs.write_clip(tmp_path / "a.npz", audio=samples)
  fitted = pack.read_clip(tmp_path / "a.npz", "a").audio
  np.testing.assert_array_equal(fitted, audio.fit_to_frames(samples, 64))


def test_integer_audio_is_scaled(tmp_path):
  samples = np.full(68_266, -(2**15), np.int16)
  samples[1] = 2**14
  packs.write_clip(tmp_path / "a.npz", audio=samples)
  fitted = pack.read_clip(tmp_path / "a.npz", "a").audio
  assert fitted.dtype == np.float32
  np.testing.assert_array_equal(fitted[:2], [-1, 0.5])


def test_undetected_points(tmp_path):
  keypoints = packs.keypoints(0)
  keypoints[3, 2, kp.OPENPOSE.index["nose"]] = 0  # no confidence
  keypoints[4, :2, kp.OPENPOSE.index["left_wrist"]] = 0  # at the image origin
  keypoints[5, 0, kp.OPENPOSE.index["left_elbow"]] = 0  # only x is 0: detected
  keypoints[6, 2, kp.OPENPOSE.index["neck"]] = 0  # the origin of the frame
  packs.write_clip(tmp_path / "a.npz", pose=keypoints)
  detected = pack.read_clip(tmp_path / "a.npz", "a").detected
  assert [tuple(missing) for missing in np.argwhere(~detected[:6])] == [
    (3, kp.UPPER_BODY.index["nose"]),
    (4, kp.UPPER_BODY.index["left_wrist"]),
  ]
  assert not detected[6].any()
  assert detected[7:].all()


def test_pickled_frame_names_are_never_loaded(tmp_path):
  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "executed"),)

  packs.write_clip(tmp_path / "a.npz", imgs=np.array([Bomb()], object))
  pack.read_clip(tmp_path / "a.npz", "a")
  assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"pose": None}, "has no pose; found: audio"),
    (
      {"pose": np.zeros((64, 3, 135))},
      r"shape \(64, 3, 135\), expected \(64, 3, 137\)",
    ),
    ({"pose": np.full((64, 3, 137), np.nan)}, "pose has values .* finite"),
    ({"pose": np.zeros((63, 3, 137))}, r"pose has shape \(63, 3, 137\)"),
    ({"audio": np.zeros(60_265)}, r"audio has shape \(60265,\)"),
    ({"audio": np.zeros(136_532)}, r"audio has shape \(136532,\)"),
    ({"audio": np.zeros((2, 68_266))}, r"audio has shape \(2, 68266\)"),
    ({"audio": np.zeros(68_266, np.uint8)}, "audio has type uint8"),
    ({"audio": np.full(68_266, np.inf)}, "audio has values .* finite"),
  ],
)
def test_bad_clip(tmp_path, arrays, message):
  packs.write_clip(tmp_path / "a.npz", **arrays)
  with pytest.raises(UserError, match=f"^zoe/a: .*{message}") as raised:
    pack.read_clip(tmp_path / "a.npz", "zoe/a")
  assert "\n" not in str(raised.value)


def test_bad_file(tmp_path):
  path = tmp_path / "a.npz"
  with pytest.raises(UserError, match=r"zoe/a: .*no such file"):
    pack.read_clip(path, "zoe/a")
  np.savez_compressed(path, pose=packs.keypoints(0), audio=packs.sound(0))
  flipped = bytearray(path.read_bytes())
  flipped[1000:1050] = (byte ^ 255 for byte in flipped[1000:1050])
  array = io.BytesIO()
  np.save(array, packs.sound(0))
  half = flipped[: len(flipped) // 2]
  for content in (b"pose,audio\n", b"", array.getvalue(), half, flipped):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"zoe/a: .*not a readable npz"):
      pack.read_clip(path, "zoe/a")


def test_missing_root_and_speaker(tmp_path):
  with pytest.raises(UserError, match=r"dataset.root='.*nowhere' is not a folder"):
    pack.read_index(tmp_path / "nowhere", "zoe")
  packs.write_pack(tmp_path)
  packs.write_pack(tmp_path, speaker="bob")
  (tmp_path / "no_pack").mkdir()
  for name in ("eve", "", "..", "zoe/clips"):
    message = f"no speaker {re.escape(repr(name))}; found: bob, zoe$"
    with pytest.raises(UserError, match=message):
      pack.read_index(tmp_path, name)
  with pytest.raises(UserError, match=r"no_pack: has neither processed_137.csv nor"):
    pack.read_index(tmp_path, "no_pack")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "column dataset, pose_fn missing; found: nothing"),
    (b"dataset,pose_fn\nidle,a.npz\n", "no row has 'train' .*found 'idle'"),
    (b"dataset,pose_fn\ntrain\n", "a train row has an empty pose_fn"),
  ],
)
def test_bad_csv(tmp_path, content, message):
  path = packs.write_pack(tmp_path) / "processed_137.csv"
  path.write_bytes(content)
  with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*{message}"):
    pack.read_index(tmp_path, "zoe")


def test_real_packs(real_pack):
  for speaker, counts in (("oliver", (29, 7)), ("kubinec", (20, 8))):
    index = pack.read_index(real_pack, speaker)
    assert tuple(len(index.rows[s]) for s in ("train", "dev")) == counts
    for row in index.rows["train"] + index.rows["dev"]:
      clip = pack.read_clip(row.path, row.clip_id)
      assert clip.detected.all()  # clips with a missing point were dropped


def test_index_of_a_pack_that_moved(tmp_path):
  packs.write_pack(tmp_path / "before")
  shutil.move(tmp_path / "before", tmp_path / "after")
  row = pack.read_index(tmp_path / "after", "zoe").rows["dev"][0]
  pack.read_clip(row.path, row.clip_id)
