"""Eight fake CPU devices, and shapes checked at run time, for every test."""

import os

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib

import librosa
import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_pack() -> pathlib.Path:
  """Folder of the real speaker packs, which the project may not ship."""
  if not os.environ.get("SDT_REAL_PACK"):
    pytest.skip("SDT_REAL_PACK is not set")
  return pathlib.Path(os.environ["SDT_REAL_PACK"]).resolve()


@pytest.fixture(scope="session")
def speech(real_pack) -> np.ndarray:
  """The 12 s of speech that the golden numbers were recorded with."""
  path = real_pack.parent / "sources" / "demo_audio.wav"
  return librosa.load(path, sr=None)[0]
