"""The config of a run, for --resume: `--config=saved_config.py:WORKDIR`."""

import pathlib

from sdt_jax import workdir


def get_config(path: str):
  return workdir.read_config(pathlib.Path(path))
