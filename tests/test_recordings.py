"""Clips -> recordings -> arrays on disk -> clips: the same bits, whatever overlaps."""

import numpy as np
import pytest

from sdt_jax import audio
from sdt_jax.data import cut, recordings

LAYOUT: cut.Layout = {
  "audio": ((), np.float32),
  "poses": ((2, 121), np.float32),
  "detected": ((121,), np.bool_),
  "template": ((3,), np.float32),
}
VIDEO_FRAMES = 400


def make_video(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  sound = rng.uniform(-1, 1, audio.num_samples(VIDEO_FRAMES) + 2).astype(np.float32)
  return {
    "audio": sound,
    "poses": rng.normal(size=(VIDEO_FRAMES, 2, 121)).astype(np.float32),
    "detected": rng.uniform(size=(VIDEO_FRAMES, 121)) < 0.9,
    "template": rng.normal(size=(VIDEO_FRAMES, 3)).astype(np.float32),
  }


def cut_clip(video, name: str, start: int, rounding: int = 0) -> recordings.Example:
  """`rounding`: so many samples later than the rounded-down start."""
  sample = max(0, audio.num_samples(start) + rounding)
  return {
    **{k: v[start : start + 64].copy() for k, v in video.items() if k != "audio"},
    "audio": video["audio"][sample : sample + 68_266].copy(),
    "clip_id": f"zoe/{name}-{start}",
    "start": start,
    "video": name,
  }


def as_read(recording: recordings.Example) -> recordings.Example:
  """As TFDS gives it back: text as bytes."""
  return recording | {
    "clip_id": [i.encode() for i in recording["clip_id"]],
    "video": recording["video"].encode(),
  }


def cut_again(folder, clips) -> tuple[cut.Clips, list[recordings.Example]]:
  """The clips from disk, and the recordings that they were joined into."""
  joined = [as_read(recording) for recording in recordings.join(iter(clips))]
  size = cut.Size()
  for recording in joined:
    size = size.plus(recording)
  (folder / "metadata.json").write_text("{}")
  return cut.open_or_cut(folder, "train", joined, LAYOUT, size), joined


def assert_same_clips(found: cut.Clips, expected: list[recordings.Example]):
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
def test_random_packs_come_back_bit_for_bit(tmp_path, seed):
  rng = np.random.default_rng(seed)
  videos = {name: make_video(i) for i, name in enumerate(("a", "über", ""))}
  clips, name, start = [], "a", 0
  for _ in range(25):
    match rng.integers(8):
      case 0:
        name, start = str(rng.choice(list(videos))), 0
      case 1:
        start = int(rng.integers(VIDEO_FRAMES - 64))  # back, or over a gap
      case _:
        start = min(start + int(rng.integers(0, 70)), VIDEO_FRAMES - 64)
    clip = cut_clip(videos[name], name, start, int(rng.integers(-1, 2)))
    match rng.integers(8):
      case 0:
        key = str(rng.choice(list(LAYOUT)))
        bits = clip[key].reshape(-1).view(np.uint8)
        bits[rng.integers(len(bits))] ^= 1
      case 1:
        clip["start"] = -1
      case 2:
        clip["audio"][-500:] = 0  # as of a clip that was cut short
    clips.append(clip)
  found, joined = cut_again(tmp_path, clips)
  assert_same_clips(found, clips)
  assert 1 < len(joined) < len(clips)


@pytest.mark.parametrize("stride", [0, 1, 5, 16, 63])
def test_what_overlaps_is_stored_once(tmp_path, stride):
  clips = [cut_clip(make_video(0), "a", 7 + i * stride) for i in range(5)]
  found, joined = cut_again(tmp_path, clips)
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
    change("poses", (58, 1, 120), 1e6),  # the last frame of it
    change("detected", 10, ~make_video(0)["detected"][15]),
    change("template", (10, 0), 9),
  ],
)
def test_what_disagrees_is_not_joined(tmp_path, change_second):
  clips = [cut_clip(make_video(0), "a", start) for start in (0, 5, 10)]
  change_second(clips[1])
  found, joined = cut_again(tmp_path, clips)
  assert [len(r["start"]) for r in joined] == [1, 1, 1]
  assert_same_clips(found, clips)


@pytest.mark.parametrize("unknown", [{"video": ""}, {"start": -1}])
def test_clips_of_unknown_origin_stay_alone(tmp_path, unknown):
  clips = [cut_clip(make_video(0), "a", 0) | unknown for _ in range(3)]
  found, joined = cut_again(tmp_path, clips)
  assert len(joined) == 3
  assert_same_clips(found, clips)


def test_zero_and_minus_zero_differ(tmp_path):
  clips = [cut_clip(make_video(0), "a", start) for start in (0, 5)]
  for clip, zero in zip(clips, (0.0, -0.0), strict=True):
    clip["template"][:] = zero
  found, joined = cut_again(tmp_path, clips)
  assert len(joined) == 2
  assert_same_clips(found, clips)


def test_no_clips():
  assert list(recordings.join([])) == []
