"""The recorded numbers of the original implementation, and its weights by recipe."""

import json
import pathlib
import zlib

import numpy as np

DATA = pathlib.Path(__file__).parent / "data"


def load(name: str) -> dict[str, np.ndarray]:
  with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
    return dict(arrays)


def recipe(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array that stands for the parameter `key` in every recording."""
  rng = np.random.default_rng(zlib.crc32(key.encode()))
  if key.endswith("running_var"):
    a = 1 + 0.2 * rng.random(shape)
  elif key.endswith("running_mean"):
    a = 0.1 * rng.standard_normal(shape)
  elif key.endswith("norm.weight"):
    a = 1 + 0.1 * rng.standard_normal(shape)
  elif key.endswith("bias"):
    a = 0.1 * rng.standard_normal(shape)
  elif key.endswith("weight"):
    a = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  else:
    a = 0.5 * rng.standard_normal(shape)
  return a.astype(np.float32)


def state_dict(experiment: str) -> dict[str, np.ndarray]:
  """State dict of the original, without its constant buffers and counters."""
  manifest = json.loads((DATA / "state_dict_manifest.json").read_text())
  return {
    name: recipe(name, tuple(shape))
    for name, (shape, _) in manifest[experiment].items()
    if not name.startswith("mel_transfm") and not name.endswith("num_batches_tracked")
  }


def relative_error(ours, theirs) -> float:
  """Largest deviation, relative to the largest value."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
