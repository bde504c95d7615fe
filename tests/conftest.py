"""What every test stands on: eight fake CPU devices, and the real packs if any."""

import os

# Before JAX starts, so before the other imports.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib

import jaxtyping

# Annotated shapes are checked in every call that a test makes.
jaxtyping.install_import_hook(
  ["sdt_jax.pose", "sdt_jax.audio", "sdt_jax.training.losses"],
  "beartype.beartype",
)

import jax
import librosa
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
  """Programs that several tests (and test processes) compile are compiled once."""
  folder = tmp_path_factory.getbasetemp().parent / "jax_cache"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # for programs that tests start
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
