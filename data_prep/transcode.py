"""Stage 1: converts any video to a 1280x720 canvas, picture times and 16 kHz sound.

Writes `video.mp4` (every picture of the source, at its time), `audio.wav` (sample 0 is
at the first picture) and `source.json`, and a copy of the wav to the pack.
"""

import dataclasses
import shutil

import numpy as np

from sdt_jax import audio
from sdt_jax.files import replacing
from . import media, workspace
from .options import Options, command
from .workspace import Progress, Video


def read_canvas(video: Video) -> media.Canvas:
  return media.Canvas(**workspace.read_source(video)["canvas"])


def _transcode(options: Options, video: Video, progress: Progress) -> None:
  probe = media.probe(video.path)
  canvas = media.Canvas.fit(probe.width, probe.height, probe.aspect)
  start = next(media.pictures(video.path))[0]

  def placed():
    for time, picture in media.pictures(video.path):
      progress(0.95 * min(1, (time - start) / max(probe.seconds, 1e-3)))
      yield time - start, canvas.draw(picture)

  with replacing(video.folder / "video.mp4") as temporary:
    times = media.write_canvas_video(temporary, placed())
  samples = media.sound(video.path, start)
  wav = video.folder / "audio.wav"
  with replacing(wav) as temporary:
    media.write_wav(temporary, samples)
  workspace.remove_unfinished(pack_wav(options, video).parent, f"{video.name}.wav")
  with replacing(pack_wav(options, video)) as temporary:
    shutil.copyfile(wav, temporary)
  write_source(video, probe, canvas, times, samples)


def write_source(
  video: Video,
  probe: media.Probe,
  canvas: media.Canvas,
  times: list[float],
  samples: np.ndarray,
) -> None:
  """Writes source.json, see `workspace.read_source`."""
  source = {
    "file": video.path.name,
    "probe": dataclasses.asdict(probe),
    "canvas": dataclasses.asdict(canvas),
    "sound_seconds": len(samples) / audio.SAMPLE_RATE,
    "times": times,
  }
  workspace.write_json(video.folder / "source.json", source)


def pack_wav(options: Options, video: Video):
  return workspace.pack_folder(options) / "clips" / "audio" / f"{video.name}.wav"


# All videos are probed before the first is transcoded.
run = workspace.VideoStage(
  name="transcode",
  previous=None,
  outputs=("video.mp4", "audio.wav", "source.json"),
  parameters=lambda _, video: workspace.file_digest(video.path),
  work=_transcode,
  seconds=lambda video: media.probe(video.path).seconds,
).run


if __name__ == "__main__":
  command(run)
