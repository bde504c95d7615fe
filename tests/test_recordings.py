"""Clips -> recordings -> arrays on disk -> clips: the same bits, for any overlap."""

import numpy as np
import pytest

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.data import clip_store, recordings

LAYOUT: clip_store.Layout = {
  "audio": ((), np.float32),
  "poses": (kp.UPPER_BODY.shape, np.float32),
  "detected": ((kp.UPPER_BODY.num_joints,), np.bool_),
  "template": ((3,), np.float32),
}
VIDEO_FRAMES = 400


def make_video(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  sound = rng.uniform(-1, 1, audio.num_samples(VIDEO_FRAMES) + 2).astype(np.float32)
  return {
    "audio": sound,
    "poses": rng.normal(size=(VIDEO_FRAMES, *kp.UPPER_BODY.shape)).astype(np.float32),
    "detected": rng.uniform(size=(VIDEO_FRAMES, kp.UPPER_BODY.num_joints)) < 0.9,
    "template": rng.normal(size=(VIDEO_FRAMES, 3)).astype(np.float32),
  }


def clip_at(video, name: str, start: int, rounding: int = 0) -> recordings.Example:
  """A clip whose audio starts `rounding` samples after the rounded-down start."""
  sample = max(0, audio.num_samples(start) + rounding)
  return {
    **{k: v[start : start + 64].copy() for k, v in video.items() if k != "audio"},
    "audio": video["audio"][sample : sample + 68_266].copy(),
    "clip_id": f"zoe/{name}-{start}",
    "start": start,
    "video": name,
  }


def as_read(recording: recordings.Example) -> recordings.Example:
  """The recording as TFDS returns it: text as bytes."""
  return recording | {
    "clip_id": [i.encode() for i in recording["clip_id"]],
    "video": recording["video"].encode(),
  }


def round_trip(folder, clips) -> tuple[clip_store.ClipStore, list[recordings.Example]]:
  """The clips as read from disk, and the recordings that they were joined into."""
  joined = [as_read(recording) for recording in recordings.join(iter(clips))]
  size = clip_store.Size()
  for recording in joined:
    size = size.plus(recording)
  (folder / "metadata.json").write_text("{}")
  return clip_store.open_or_build(folder, "train", joined, LAYOUT, size), joined


def assert_same_clips(found: clip_store.ClipStore, expected: list[recordings.Example]):
  assert len(found) == len(expected)
  for clip, original in zip(found, expected, strict=True):
    assert clip.keys() == original.keys()
    assert clip["clip_id"].decode() == original["clip_id"]
    assert clip["video"].decode() == original["video"]
    assert clip["start"] == original["start"]
    for key in LAYOUT:
      assert clip[key].dtype == original[key].dtype
      assert clip[key].shape == original[key].shape
      assert clip[key].tobytes() == original[key].tobytes(), key


@pytest.mark.parametrize("seed", range(12))
def test_round_trip_of_random_packs(tmp_path, seed):
  rng = np.random.default_rng(seed)
  videos = {name: make_video(i) for i, name in enumerate(("a", "über", ""))}
  clips, name, start = [], "a", 0
  for _ in range(25):
    match rng.integers(8):
      case 0:
        name, start = str(rng.choice(list(videos))), 0
      case 1:
        start = int(rng.integers(VIDEO_FRAMES - 64))  # backwards, or after a gap
      case _:
        start = min(start + int(rng.integers(0, 70)), VIDEO_FRAMES - 64)
    clip = clip_at(videos[name], name, start, int(rng.integers(-1, 2)))
    match rng.integers(8):
      case 0:
        key = str(rng.choice(list(LAYOUT)))
        bits = clip[key].reshape(-1).view(np.uint8)
        bits[rng.integers(len(bits))] ^= 1
      case 1:
        clip["start"] = -1
      case 2:
        clip["audio"][-500:] = 0  # like a truncated clip
    clips.append(clip)
  found, joined = round_trip(tmp_path, clips)
  assert_same_clips(found, clips)
  assert 1 < len(joined) < len(clips)


@pytest.mark.parametrize("stride", [0, 1, 5, 16, 63])
def test_overlaps_are_stored_once(tmp_path, stride):
  clips = [clip_at(make_video(0), "a", 7 + i * stride) for i in range(5)]
  found, joined = round_trip(tmp_path, clips)
  assert len(joined) == 1
  assert len(found.frames["poses"]) == 64 + 4 * stride
  assert abs(len(found.audio) - audio.num_samples(64 + 4 * stride)) <= 1
  assert_same_clips(found, clips)


def change(key, index, value):
  def changed(clip):
    clip[key][index] = value

  return changed


@pytest.mark.parametrize(
  "change_second",
  [
    lambda clip: clip.update(video="b"),
    lambda clip: clip.update(start=-1),
    lambda clip: clip.update(start=clip["start"] + 1),
    change("audio", 62_932, 2.0),  # the last sample of the overlap
    change("poses", (58, 1, 120), 1e6),  # its last frame
    change("detected", 10, ~make_video(0)["detected"][15]),
    change("template", (10, 0), 9),
  ],
)
def test_clips_that_differ_are_not_joined(tmp_path, change_second):
  clips = [clip_at(make_video(0), "a", start) for start in (0, 5, 10)]
  change_second(clips[1])
  found, joined = round_trip(tmp_path, clips)
  assert [len(r["start"]) for r in joined] == [1, 1, 1]
  assert_same_clips(found, clips)


@pytest.mark.parametrize("unknown", [{"video": ""}, {"start": -1}])
def test_clips_of_unknown_origin_are_not_joined(tmp_path, unknown):
  clips = [clip_at(make_video(0), "a", 0) | unknown for _ in range(3)]
  found, joined = round_trip(tmp_path, clips)
  assert len(joined) == 3
  assert_same_clips(found, clips)


def test_zero_and_minus_zero_differ(tmp_path):
  clips = [clip_at(make_video(0), "a", start) for start in (0, 5)]
  clips[0]["template"][:], clips[1]["template"][:] = 0.0, -0.0
  found, joined = round_trip(tmp_path, clips)
  assert len(joined) == 2
  assert_same_clips(found, clips)


def test_no_clips():
  assert list(recordings.join([])) == []
