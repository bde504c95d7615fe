"""Speed of drawing poses.

python -m benchmarks.drawing [--frames=120]
"""

import collections
import functools

from absl import flags

from benchmarks import measure, workloads
from sdt_jax.synthesis import render

_FRAMES = flags.DEFINE_integer("frames", 120, "Frames per timing.", lower_bound=1)

_GOALS = {(1280, 720): 800, (640, 360): None}


def main() -> list[measure.Row]:
  poses_px = workloads.motion(_FRAMES.value)

  def draw(size: render.Size):
    collections.deque(render.pose_frames(poses_px, size), maxlen=0)

  seconds = measure.interleave({size: functools.partial(draw, size) for size in _GOALS})
  return [
    measure.Row(
      f"drawing, {size[0]}x{size[1]}",
      "frames/s",
      measure.rates(len(poses_px), seconds[size]),
      goal,
    )
    for size, goal in _GOALS.items()
  ]


if __name__ == "__main__":
  measure.run(main)
