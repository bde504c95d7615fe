"""What the fields of a run are; ml_collections knows no schema."""

import functools
import pathlib
import runpy
from typing import Any

Config = Any
"""An `ml_collections.ConfigDict` with the fields of `configs/common.py`."""

_COMMON = pathlib.Path(__file__).parents[1] / "configs" / "common.py"


@functools.cache
def defaults() -> Config:
  """Every field, with its default."""
  # By its path: in another folder, `configs` may be another package.
  return runpy.run_path(str(_COMMON))["get_config"]()
