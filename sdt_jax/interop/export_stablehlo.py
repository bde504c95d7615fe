"""Writes the generator of a run as one file that JAX runs without this package.

    python -m sdt_jax.interop.export_stablehlo --workdir=DIR --output=FILE \
      [--step=latest|best|N]

docs/interop.md has the program that loads and runs it.
"""

import pathlib

from absl import flags

from sdt_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")


def main() -> None:
  from sdt_jax.interop import portable

  exported = portable.export_model(
    pathlib.Path(_WORKDIR.value), pathlib.Path(_OUTPUT.value), _STEP.value
  )
  shapes = [f"({', '.join(map(str, aval.shape))})" for aval in exported.in_avals]
  print(f"inputs {' '.join(shapes)}, platforms {', '.join(exported.platforms)}")
  print(f"written: {_OUTPUT.value}")


if __name__ == "__main__":
  cli.run(main)
