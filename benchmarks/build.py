"""Speed of building a data set from a pack in the published layout.

python -m benchmarks.build [--num_clips=600]
"""

import pathlib
import tempfile

from benchmarks import measure, workloads
from sdt_jax.data import speech2gesture


def main() -> list[measure.Row]:
  with tempfile.TemporaryDirectory() as folder:
    pack = pathlib.Path(folder)
    workloads.write_pack(pack)

    def build():
      with tempfile.TemporaryDirectory() as data_dir:
        speech2gesture.prepare(pack, workloads.SPEAKER, data_dir)

    seconds = measure.interleave({"build": build})["build"]
  clips = workloads.NUM_CLIPS.value
  rates = measure.rates(clips, seconds)
  return [measure.Row(f"build, {clips} compressed clips", "clips/s", rates, 500)]


if __name__ == "__main__":
  measure.run(main)
