"""Shows the skeletons of a speaker: over the source video, or clips of a data pack.

    python -m data_prep.inspect --root=DATA --speaker=NAME [--num_clips=N]
      [--clip=CLIP|VIDEO[-START-END]] [--output_dir=DIR]

Without --clip, clips from the whole pack are written as videos of the skeleton with
its sound; the pack may come from anywhere. --clip=CLIP shows one clip of a pack. If
the pack was made by `prepare`, --clip=VIDEO-START-END draws the skeleton over the
source video instead: START and END are frames at 15 frames/s, as in the names of the
clips; the default is the whole video. Lines are green where points were found, yellow
where a second pass found them and red where they are interpolated.
"""

import itertools
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from absl import flags

from sdt_jax import audio, audio_file, cli, files
from sdt_jax.data import pack
from sdt_jax.errors import UserError
from sdt_jax.synthesis import render
from sdt_jax.synthesis.video import write_video
from . import media, overlay, workspace


def parse_stretch(work: pathlib.Path, clip: str) -> tuple[str, int, int | None] | None:
  """Splits `video` or `video-start-end` into video, start frame and end frame.

  Returns:
    None if no prepared video has that name.
  """
  if (work / clip / "clean.npz").is_file():
    return clip, 0, None
  match = re.fullmatch(r"(.+)-(\d{1,9})-(\d{1,9})", clip)
  if match and (work / match[1] / "clean.npz").is_file():
    return match[1], int(match[2]), int(match[3])
  return None


def inspect(
  root: pathlib.Path,
  speaker: str,
  output_dir: pathlib.Path,
  clip: str | None = None,
  num_clips: int = 8,
) -> Iterator[pathlib.Path]:
  """Writes the videos; yields each of them.

  Args:
    root: folder of data packs.
    speaker: name of the speaker's folder.
    output_dir: folder for the videos.
    clip: name of a clip, or a stretch of a source video, see `parse_stretch`; None for
      clips from the whole pack.
    num_clips: how many of them.

  Raises:
    UserError: the pack, the clip or the source video cannot be read.
  """
  work = root / speaker / "work"
  stretch = None if clip is None else parse_stretch(work, clip)
  if stretch:
    output = output_dir / f"{clip}.mp4"
    draw_stretch(work / stretch[0], *stretch[1:], output)
    yield output
    return
  for row in _rows(root, speaker, clip, num_clips):
    output = output_dir / f"{row.path.stem}.mp4"
    draw_clip(row, output)
    yield output


def _rows(
  root: pathlib.Path, speaker: str, clip: str | None, num_clips: int
) -> list[pack.Row]:
  """The clip of this name, or clips spread over the pack."""
  index = pack.read_index(root, speaker)
  rows = [row for split in index.rows.values() for row in split]
  if clip is None:
    places = np.linspace(0, len(rows) - 1, min(num_clips, len(rows)))
    return [rows[round(place)] for place in places]
  found = [row for row in rows if clip in (row.clip_id, row.path.stem)]
  if not found:
    videos = sorted(p.parent.name for p in (root / speaker).glob("work/*/clean.npz"))
    more = f"; videos: {', '.join(videos)}" if videos else ""
    raise UserError(
      f"--clip={clip}: no such clip in {root / speaker}; the first is "
      f"{rows[0].path.stem}{more}"
    )
  return found[:1]


def draw_clip(row: pack.Row, output: pathlib.Path) -> None:
  """Writes a clip of a pack as a skeleton with sound; undetected points are left out.

  Raises:
    UserError: the clip is damaged, or the video cannot be written.
  """
  clip = pack.read_clip(row.path, row.clip_id)
  poses_px = np.where(clip.detected[:, None], clip.poses_px, np.nan)
  frames = render.pose_frames(poses_px)
  files.check_writable(output.parent, "--output_dir")
  write_video(output, frames, audio.FPS, clip.audio, audio.SAMPLE_RATE)


def draw_stretch(
  folder: pathlib.Path, start: int, end: int | None, output: pathlib.Path
) -> None:
  """Draws the skeleton over a stretch of a prepared video.

  Args:
    folder: results of the stages for the video.
    start, end: frames at 15 frames/s; None for the end of the video.
    output: the video to write.

  Raises:
    UserError: the results are damaged, or the stretch exceeds the video.
  """
  keypoints, origin = workspace.read_keypoints(folder / "clean.npz")
  length = len(keypoints)
  end = length if end is None else end
  if not 0 <= start < end <= length:
    raise UserError(
      f"--clip={folder.name}-{start}-{end}: {folder.name} has frames 0 to {length}"
    )
  first, last = audio.num_samples(start), audio.num_samples(end)
  sound = audio_file.load_audio(folder / "audio.wav")[first:last]
  seconds = (np.arange(start, end) / audio.FPS).tolist()
  frames = (
    overlay.draw(picture, keypoints[i], origin[i])
    for i, (_, picture) in enumerate(
      media.pictures_at(folder / "video.mp4", seconds), start
    )
  )
  first_frame = next(frames)  # before anything is written
  files.check_writable(output.parent, "--output_dir")
  frames = itertools.chain([first_frame], frames)
  write_video(output, frames, audio.FPS, sound, audio.SAMPLE_RATE)


def main() -> None:
  values = flags.FLAGS
  output_dir = pathlib.Path(values.output_dir)
  root = pathlib.Path(values.root)
  for output in inspect(
    root, values.speaker, output_dir, values.clip, values.num_clips
  ):
    print(f"written: {output}")


if __name__ == "__main__":
  flags.DEFINE_string("root", None, "Folder of speaker packs.", required=True)
  flags.DEFINE_string("speaker", None, "Name of the speaker.", required=True)
  flags.DEFINE_string("clip", None, "CLIP, or VIDEO or VIDEO-START-END of a source.")
  flags.DEFINE_integer("num_clips", 8, "Clips to show without --clip.", lower_bound=1)
  flags.DEFINE_string("output_dir", ".", "Output folder.")
  cli.run(main)
