"""Duration of `make quickstart` after installation, by stage; measured once.

python -m benchmarks.quickstart [--train_flag=--config.num_epochs=1 ...]
"""

import pathlib
import tempfile

from absl import flags

from benchmarks import measure, stages
from sdt_jax import quickstart

_TRAIN_FLAGS = flags.DEFINE_multi_string(
  "train_flag", [], "Flags added to those of train.py."
)

_SHORTEST = 0.05  # seconds; shorter stages are omitted


def main() -> list[measure.Row]:
  measure.time_programs()
  rows, whole = [], 0.0
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for _, program, *given in quickstart.commands(folder / "run"):
      if program == "train.py":
        given += [f"--config.dataset.data_dir={folder / 'data'}", *_TRAIN_FLAGS.value]
      times = stages.timed(folder / "cache", program, *given).stages
      whole += sum(times.values())
      rows.append(measure.Row(program, "s", [sum(times.values())]))
      rows += [
        measure.Row(f"{program}: {stage}", "s", [seconds])
        for stage, seconds in times.items()
        if seconds > _SHORTEST
      ]
  return [measure.Row("whole quickstart", "s", [whole]), *rows]


if __name__ == "__main__":
  measure.run(main)
