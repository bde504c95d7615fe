"""Set-up of all tests: eight fake CPU devices, shape checks, the real data packs."""

import os

# Must be set before JAX is imported.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib

import jaxtyping

# In tests, every call of a function in these modules checks its annotated shapes.
jaxtyping.install_import_hook(
  ["sdt_jax.pose", "sdt_jax.audio", "sdt_jax.methods.losses"], "beartype.beartype"
)

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
  """Tests and the processes they start share one compilation cache."""
  folder = tmp_path_factory.getbasetemp().parent / "jax_cache"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # inherited by subprocesses
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module")
def compile_fast():
  """Turns off most compiler passes, where compiling takes longer than running."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def real_pack() -> pathlib.Path:
  """Folder of the real speaker packs, which are not shipped for licence reasons."""
  if not os.environ.get("SDT_REAL_PACK"):
    pytest.skip("SDT_REAL_PACK is not set")
  return pathlib.Path(os.environ["SDT_REAL_PACK"]).resolve()
