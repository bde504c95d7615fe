"""Numbers recorded from the original implementation, and how to rebuild its inputs.

The weights are not stored: `recipe` draws every array from its name. The audio is the
sample that is shipped with the project. See tests/data/README.md.
"""

import functools
import json
import pathlib
import zlib

import numpy as np

from sdt_jax import audio_file

DATA = pathlib.Path(__file__).parent / "data"
SPEECH = pathlib.Path(audio_file.__file__).parent / "assets" / "sample_speech.flac"


@functools.cache
def speech() -> np.ndarray:
  """(samples,) float32, 16 kHz: 11 s of speech."""
  return audio_file.load_audio(SPEECH)


def load(name: str) -> dict[str, np.ndarray]:
  """The arrays of `tests/data/<name>.npz`."""
  with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
    return dict(arrays)


def recipe(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array named `key` in every recording, such as a parameter of the original."""
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
  """State dict of the original by its names, without constant buffers and counters.

  "sequence" is SDT-VAE of the first public version.
  """
  is_first = experiment == "sequence"
  file = "sequence_manifest.json" if is_first else "state_dict_manifest.json"
  manifest = json.loads((DATA / file).read_text())
  return {
    # The pose encoder is drawn as in the pose VAE.
    name: recipe(name.replace("pose_encoder.", "ae.encoder."), tuple(shape))
    for name, (shape, _) in (manifest if is_first else manifest[experiment]).items()
    if not name.startswith("mel_transfm") and not name.endswith("num_batches_tracked")
  }


def relative_error(ours, theirs) -> float:
  """Largest absolute difference, divided by the largest absolute value."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
