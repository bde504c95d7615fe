"""How long the full-size model takes to make the motion for a sound.

    python -m benchmarks.generation [--lengths=4,24,60]

The first call compiles. The one after it, of a sound that is a second shorter, tells
whether another length compiles again.
"""

import pathlib
import tempfile
import time

from absl import flags

import sdt_jax
from benchmarks import measure, workloads
from sdt_jax import audio
from sdt_jax.errors import UserError

_LENGTHS = flags.DEFINE_list("lengths", "4,24,60", "Seconds of speech.")

_ORIGINAL = {24: 0.2}  # seconds that the original takes on two CPU cores


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

  def first(title: str, sound) -> measure.Row:
    start = time.perf_counter()
    generate(sound)
    return measure.Row(title, "s", [time.perf_counter() - start])

  firsts = []
  for length, sound in sounds.items():
    shorter = sound[: -audio.SAMPLE_RATE]
    firsts.append(first(f"{length} s of speech, first call", sound))
    firsts.append(first(f"{length - 1} s of speech, first call after it", shorter))
  seconds = measure.interleave(
    {length: lambda sound=sound: generate(sound) for length, sound in sounds.items()}
  )
  return [
    *(
      measure.Row(f"{n} s of speech, warm", "s", times, _ORIGINAL.get(n))
      for n, times in seconds.items()
    ),
    *firsts,
  ]


if __name__ == "__main__":
  measure.run(main)
