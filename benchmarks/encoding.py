"""Speed of making a 1280x720 video file with sound from poses.

python -m benchmarks.encoding [--seconds=24]
"""

import functools
import itertools
import pathlib
import tempfile

from absl import flags

from benchmarks import measure, workloads
from sdt_jax import audio
from sdt_jax.synthesis import render, video

_SECONDS = flags.DEFINE_float("seconds", 24, "Length of the video.", lower_bound=0.1)

_FRAMES_IN_MEMORY = 60


def main() -> list[measure.Row]:
  count = round(_SECONDS.value * audio.FPS)
  poses_px, sound = workloads.motion(count), workloads.speech(_SECONDS.value)
  drawn = list(render.pose_frames(poses_px[:_FRAMES_IN_MEMORY]))
  with tempfile.TemporaryDirectory() as folder:
    mp4 = pathlib.Path(folder) / "video.mp4"
    write = functools.partial(video.write_video, mp4, audio=sound)
    seconds = measure.interleave(
      {
        "poses to file": lambda: write(render.pose_frames(poses_px)),
        "drawn frames to file": lambda: write(
          itertools.islice(itertools.cycle(drawn), count)
        ),
      }
    )
  goals = {"poses to file": 250}
  return [
    measure.Row(name, "frames/s", measure.rates(count, times), goals.get(name))
    for name, times in seconds.items()
  ]


if __name__ == "__main__":
  measure.run(main)
