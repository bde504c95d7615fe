"""Draws the skeleton over a stretch of the source video.

    python -m data_prep.inspect --root=DATA --speaker=NAME --clip=VIDEO[-START-END]
      [--output=FILE.mp4]

START and END are frames at 15 frames/s, as in the names of the clips; the default is
the whole video. Lines are green where points were found, yellow where a second pass
found them and red where they are interpolated.
"""

import pathlib
import re

import numpy as np
from absl import flags

from sdt_jax import audio, audio_file, cli
from sdt_jax.errors import UserError
from sdt_jax.synthesis.video import write_video
from . import media, overlay, workspace


def parse_stretch(work: pathlib.Path, clip: str) -> tuple[str, int, int | None]:
  """Splits `video` or `video-start-end` into video, start frame and end frame.

  Raises:
    UserError: no prepared video has that name.
  """
  if (work / clip / "clean.npz").is_file():
    return clip, 0, None
  match = re.fullmatch(r"(.+)-(\d{1,9})-(\d{1,9})", clip)
  if match and (work / match[1] / "clean.npz").is_file():
    return match[1], int(match[2]), int(match[3])
  known = sorted(path.parent.name for path in work.glob("*/clean.npz"))
  raise UserError(
    f"--clip={clip}: not VIDEO or VIDEO-START-END; videos: {', '.join(known) or 'none'}"
  )


def inspect(pack: pathlib.Path, clip: str, output: pathlib.Path) -> None:
  """Writes the video of a stretch.

  Raises:
    UserError: there is no such video, or the stretch exceeds it.
  """
  video, start, end = parse_stretch(pack / "work", clip)
  folder = pack / "work" / video
  keypoints, origin = workspace.read_keypoints(folder / "clean.npz")
  length = len(keypoints)
  end = length if end is None else end
  if not 0 <= start < end <= length:
    raise UserError(f"--clip={clip}: {video} has frames 0 to {length}")
  first, last = audio.num_samples(start), audio.num_samples(end)
  sound = audio_file.load_audio(folder / "audio.wav")[first:last]
  seconds = (np.arange(start, end) / audio.FPS).tolist()
  frames = (
    overlay.draw(picture, keypoints[i], origin[i])
    for i, (_, picture) in enumerate(
      media.pictures_at(folder / "video.mp4", seconds), start
    )
  )
  write_video(output, frames, audio.FPS, sound, audio.SAMPLE_RATE)


def main() -> None:
  values = flags.FLAGS
  output = pathlib.Path(values.output or f"{values.clip}.mp4")
  inspect(pathlib.Path(values.root) / values.speaker, values.clip, output)
  print(f"{output} ({overlay.LEGEND})")


if __name__ == "__main__":
  flags.DEFINE_string("root", None, "Folder of speaker packs.", required=True)
  flags.DEFINE_string("speaker", None, "Name of the speaker.", required=True)
  flags.DEFINE_string("clip", None, "VIDEO or VIDEO-START-END.", required=True)
  flags.DEFINE_string("output", None, "Output file; default: <clip>.mp4.")
  cli.run(main)
