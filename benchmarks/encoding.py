"""How fast poses become a 1280x720 video file with sound.

python -m benchmarks.encoding [--seconds=24]
"""

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
    seconds = measure.interleave(
      {
        "poses to file": lambda: video.write_video(
          mp4, render.pose_frames(poses_px), audio=sound
        ),
        "drawn frames to file": lambda: video.write_video(
          mp4, itertools.islice(itertools.cycle(drawn), count), audio=sound
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
