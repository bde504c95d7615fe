"""The type of a run's config."""

from typing import Any

Config = Any
"""A `ml_collections.ConfigDict` with the fields of `configs/common.py`, which no type
checker knows."""
