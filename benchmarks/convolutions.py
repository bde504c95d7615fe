"""Speed of 2-D convolutions on the CPU: `models.cpu` against plain XLA, by layer.

    PYTHONPATH=. python benchmarks/convolutions.py [--batch=2]

Prints GFLOP per second of processor time (which other programs disturb little) for the
forward pass and the gradients of input and kernel, in the 2-D layers of the full-size
audio encoder: the median and, in brackets, the lowest and highest repeat. The variants
take turns. The last line is JSON. To use one thread, run it under `taskset -c 0`.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import numpy as np

from sdt_jax.models import cpu, operations
from sdt_jax.training import parallel

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
_REPEATS = 5


def _passes(convolve, stride: int, padding: int):
  """The three passes of a layer: functions of map, kernel and the output's gradient."""

  def gradients(x, kernel, gradient):
    _, vjp = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, kernel)
    return vjp(gradient)

  return {
    "forward": lambda x, kernel, _: convolve(x, kernel, stride, padding),
    "input grad": lambda *inputs: gradients(*inputs)[0],
    "weight grad": lambda *inputs: gradients(*inputs)[1],
  }


def _measure(batch: int, size, channels, taps, stride: int, padding: int):
  """{pass: {variant: GFLOP/s per core of each repeat}} of one layer."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, *size, channels[0])).astype(np.float32)
  kernel = rng.normal(size=(*taps, *channels)).astype(np.float32)
  out = jax.eval_shape(
    functools.partial(operations.convolve, stride=stride, padding=padding), x, kernel
  )
  gradient = rng.normal(size=out.shape).astype(np.float32)
  gflop = 2e-9 * gradient.size * kernel.size / channels[1]
  inputs = jax.device_put((x, kernel, gradient))
  variants = {
    "ours": (cpu.convolve, parallel.compiler_options()),
    "plain XLA": (operations.convolve, {}),
  }
  results = {}
  for name in ("forward", "input grad", "weight grad"):
    compiled = {
      variant: jax.jit(_passes(f, stride, padding)[name], compiler_options=options)
      .lower(*inputs)
      .compile()
      for variant, (f, options) in variants.items()
    }
    speeds = {variant: [] for variant in variants}
    for _ in range(1 + _REPEATS):
      for variant, run in compiled.items():
        start = time.process_time()
        jax.block_until_ready(run(*inputs))
        speeds[variant].append(gflop / (time.process_time() - start))
    results[name] = {variant: s[1:] for variant, s in speeds.items()}
  return results


def main() -> None:
  parser = argparse.ArgumentParser(description="Speed of convolutions on the CPU")
  parser.add_argument("--batch", type=int, default=2, help="clips")
  batch = parser.parse_args().batch
  medians = {}
  for layer, shape in LAYERS.items():
    for name, variants in _measure(batch, *shape).items():
      cells = [
        f"{v} {statistics.median(s):4.0f} [{min(s):.0f} {max(s):.0f}]"
        for v, s in variants.items()
      ]
      print(f"{layer}  {name:11}  {'  '.join(cells)}", flush=True)
      medians[f"{layer} {name}"] = {
        v: round(statistics.median(s)) for v, s in variants.items()
      }
  print(json.dumps({"gflops_per_core": medians}))


if __name__ == "__main__":
  main()
