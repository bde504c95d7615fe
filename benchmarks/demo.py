"""Duration of demo.py with a full-size model, by stage.

    python -m benchmarks.demo

Each run is a process of its own. The first run starts with an empty cache of compiled
programs.
"""

import pathlib
import tempfile

from benchmarks import measure, stages, workloads

_SPEECH = "sdt_jax/assets/sample_speech.flac"


def main() -> list[measure.Row]:
  measure.time_programs()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    workloads.untrained_run(folder / "run", workloads.config("sdt_bp"))
    first, *others = [
      stages.timed(
        folder / "cache",
        "demo.py",
        f"--workdir={folder / 'run'}",
        f"--audio={_SPEECH}",
        f"--output_dir={folder / 'out'}",
      )
      for _ in range(1 + measure.REPEATS.value)
    ]
  begins = [t.begins["generate"] for t in others]
  return [
    measure.Row("first run", "s", [sum(first.stages.values())]),
    measure.Row("later runs", "s", [sum(t.stages.values()) for t in others]),
    measure.Row("until the model runs", "s", begins, 2.5),
    *(
      measure.Row(f"stage: {stage}", "s", [t.stages[stage] for t in others])
      for stage in first.stages
    ),
  ]


if __name__ == "__main__":
  measure.run(main)
