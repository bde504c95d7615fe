"""Speed of the whole training loop, and the share of time it waits for input.

    python -m benchmarks.training_loop [--epochs=3] [--set=FIELD=VALUE ...]

Trains `configs/quick.py`, which has the shortest step, on its synthetic speaker: with
the data on the device or streamed, and with one or more steps per dispatch. The figures
are those of metrics.jsonl, without the first line of a run, which includes compilation.
"""

import pathlib
import tempfile

from absl import flags

from benchmarks import measure, workloads
from sdt_jax import workdir
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.synthesis import samples
from sdt_jax.training import loop

_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of 16 steps.", lower_bound=1)

_VARIANTS = {
  "resident, 1 step at a time": {"steps_at_once": 1},
  "resident, 4 steps at a time": {"steps_at_once": 4},
  "streamed": {"dataset.cache_gb": 0.0},
}


def main() -> list[measure.Row]:
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for name, fields in _VARIANTS.items():
      lines = _train(pathlib.Path(folder), name, fields)
      speeds = [line["clips_per_s"] for line in lines]
      waits = [100 * line["input_wait"] for line in lines]
      rows.append(measure.Row(name, "clips/s", speeds))
      rows.append(measure.Row(f"{name}: waiting for input", "%", waits, 1))
  return rows


def _train(folder: pathlib.Path, name: str, fields: dict) -> list[dict]:
  """All metrics of training steps except the first line."""
  config = workloads.config("quick")
  config.update_from_flattened_dict(
    {
      "num_epochs": _EPOCHS.value,
      "dataset.data_dir": str(folder / "data"),
      "dataset.num_train_clips": 16 * config.batch_size,
      "dataset.num_dev_clips": config.batch_size,
      "log.every_steps": 8,
      "log.video_every_epochs": 0,
      **fields,
    }
  )
  loop.train(config, folder / name, Evaluator, samples.Gallery)
  lines = workdir.read_metrics(folder / name)
  return [line for line in lines if line["split"] == "train"][1:]


if __name__ == "__main__":
  measure.run(main)
