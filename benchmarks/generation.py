"""Time that the full-size model takes to generate the motion for a sound.

    python -m benchmarks.generation [--lengths=4,24,60]

The first call for each length compiles. It is followed by a call with a sound that is
one second shorter, which shows whether another length compiles again.
"""

import pathlib
import tempfile
import time

from absl import flags

import sdt_jax
from benchmarks import measure, workloads
from sdt_jax import audio
from sdt_jax.errors import UserError

_LENGTHS = flags.DEFINE_list("lengths", "4,24,60", "Lengths of the sounds in seconds.")

_ORIGINAL = {24: 0.2}  # length -> seconds of the original on two CPU cores


def main() -> list[measure.Row]:
  try:
    lengths = [int(length) for length in _LENGTHS.value]
  except ValueError as e:
    raise UserError(f"--lengths={','.join(_LENGTHS.value)}: {e}") from e
  with tempfile.TemporaryDirectory() as folder:
    workloads.untrained_run(pathlib.Path(folder), workloads.config("sdt_bp"))
    model = sdt_jax.load(folder)
  sounds = {length: workloads.speech(length) for length in lengths}

  def generate(sound):
    return model.generate(sound, audio.SAMPLE_RATE, template=0)

  firsts = []
  for length, sound in sounds.items():
    for seconds, title in ((length, "first call"), (length - 1, "first call after it")):
      start = time.perf_counter()
      generate(sound[: seconds * audio.SAMPLE_RATE])
      times = [time.perf_counter() - start]
      firsts.append(measure.Row(f"{seconds} s of speech, {title}", "s", times))
  warm = measure.interleave(
    {length: lambda sound=sound: generate(sound) for length, sound in sounds.items()}
  )
  return [
    *(
      measure.Row(f"{n} s of speech, warm", "s", times, _ORIGINAL.get(n))
      for n, times in warm.items()
    ),
    *firsts,
  ]


if __name__ == "__main__":
  measure.run(main)
