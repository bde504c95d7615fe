"""Writes small data packs in the published format, for tests."""

import csv
import pathlib

import numpy as np

from sdt_jax import audio
from sdt_jax import keypoints as kp

COLUMNS = "dataset,start,end,interval_id,pose_fn,audio_fn,video_fn,speaker"


def keypoints(seed: int) -> np.ndarray:
  """(64, dims + 1, joints) float32: a still person with noise of 5 px."""
  rng = np.random.default_rng(seed)
  person = np.random.default_rng(99).uniform(300, 600, kp.OPENPOSE.shape)
  for name, x in (("right_shoulder", 490), ("neck", 640), ("left_shoulder", 790)):
    person[:, kp.OPENPOSE.index[name]] = x, 300
  xy = person + rng.normal(0, 5, (audio.CLIP_FRAMES, *person.shape))
  confidence = rng.uniform(0.1, 1, (audio.CLIP_FRAMES, 1, person.shape[1]))
  return np.concatenate([xy, confidence], 1).astype(np.float32)


def sound(seed: int, num_samples: int = 68_266) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def write_clip(path: pathlib.Path, seed: int = 0, **arrays) -> None:
  """Writes a good clip, but with the given arrays; None omits an array."""
  content = {"pose": keypoints(seed), "audio": sound(seed)} | arrays
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **{key: value for key, value in content.items() if value is not None})


def write_pack(
  root: pathlib.Path, labels: str = "train train train dev dev", speaker: str = "zoe"
) -> pathlib.Path:
  """Writes a pack with one clip per label; returns the speaker's folder.

  A label may name another speaker: "train train:bob dev".
  """
  folder = root / speaker
  rows = []
  for i, (label, _, other) in enumerate(w.partition(":") for w in labels.split()):
    pose_fn = f"clips/npz/talk-{i}.npz"
    write_clip(folder / pose_fn, seed=i)
    rows.append(
      [label, 5 * i, 5 * i + 64, "talk", pose_fn, "", "talk", other or speaker]
    )
  write_csv(folder / "processed_137.csv", rows)
  return folder


def write_csv(path: pathlib.Path, rows: list, columns: str = COLUMNS) -> None:
  with path.open("w", newline="") as f:
    csv.writer(f).writerows([columns.split(","), *rows])
