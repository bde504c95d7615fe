"""Speed of 2-D convolutions on the CPU: `models.cpu` against plain XLA, by layer.

    python -m benchmarks.convolutions [--batch=2]

Measures GFLOP per second of processor time, which other programs hardly affect, in the
2-D layers of the full-size audio encoder: the forward pass and the gradients of input
and kernel. To use one thread, run it under `taskset -c 0`.
"""

import functools
import time

import jax
import numpy as np
from absl import flags

from benchmarks import measure
from sdt_jax.models import cpu, operations
from sdt_jax.training import parallel

_BATCH = flags.DEFINE_integer("batch", 2, "Number of clips.", lower_bound=1)

# Size of the map, channels in and out, kernel, stride, padding.
LAYERS = {
  "stage0_a": ((80, 427), (1, 64), (3, 3), 1, 1),
  "stage0_b": ((80, 427), (64, 64), (4, 4), 2, 1),
  "stage1_a": ((40, 213), (64, 128), (3, 3), 1, 1),
  "stage1_b": ((40, 213), (128, 128), (4, 4), 2, 1),
  "stage2_a": ((20, 106), (128, 256), (3, 3), 1, 1),
  "stage2_b": ((20, 106), (256, 256), (4, 4), 2, 1),
  "stage3_a": ((10, 53), (256, 256), (3, 3), 1, 1),
  "stage3_b": ((10, 53), (256, 256), (6, 3), 1, 0),
}


def main() -> list[measure.Row]:
  return [row for layer in LAYERS for row in _measure(layer)]


def _measure(layer: str) -> list[measure.Row]:
  """One row for each pass and variant; the variants of a pass take turns."""
  size, channels, taps, stride, padding = LAYERS[layer]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(_BATCH.value, *size, channels[0])).astype(np.float32)
  kernel = rng.normal(size=(*taps, *channels)).astype(np.float32)
  plain = functools.partial(operations.convolve, stride=stride, padding=padding)
  ours = functools.partial(cpu.convolve, stride=stride, padding=padding)
  shape = jax.eval_shape(plain, x, kernel).shape
  gradient = rng.normal(size=shape).astype(np.float32)
  gflop = 2e-9 * gradient.size * kernel.size / channels[1]
  inputs = jax.device_put((x, kernel, gradient))
  rows = []
  for name in _passes(plain):
    compiled = {
      variant: jax.jit(_passes(convolve)[name], compiler_options=options)
      .lower(*inputs)
      .compile()
      for variant, convolve, options in (
        ("ours", ours, parallel.compiler_options()),
        ("plain XLA", plain, {}),
      )
    }
    calls = {v: functools.partial(run, *inputs) for v, run in compiled.items()}
    for variant, times in measure.interleave(calls, time.process_time).items():
      speeds = measure.rates(gflop, times)
      rows.append(measure.Row(f"{layer} {name}, {variant}", "GFLOP/s", speeds))
  return rows


def _passes(convolve):
  """The three passes of a layer: functions of map, kernel and the output's gradient."""

  def gradients(x, kernel, gradient):
    return jax.vjp(convolve, x, kernel)[1](gradient)

  return {
    "forward": lambda x, kernel, _: convolve(x, kernel),
    "input grad": lambda *inputs: gradients(*inputs)[0],
    "weight grad": lambda *inputs: gradients(*inputs)[1],
  }


if __name__ == "__main__":
  measure.run(main)
