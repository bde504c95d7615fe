"""The keypoints of one moment of a video: as many frames as a clip has."""

import itertools
import pathlib
import tempfile

import numpy as np
import tqdm

from sdt_jax import audio
from sdt_jax.errors import UserError
from . import clean, clips, keypoints, media, mediapipe_env, rescale, workspace
from .mediapipe_backend import MediaPipe
from .options import DEFAULT_ENV
from .rules import Thresholds
from .transcode import write_source

_SECONDS = audio.CLIP_FRAMES / audio.FPS
_MARGIN = 0.2  # seconds of pictures after it, so that its last frame has neighbours


def read(path: pathlib.Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
  """Finds the keypoints with MediaPipe, as `prepare` does.

  Args:
    path: the video.
    seconds: start of the moment, from the first picture of the video.

  Returns:
    Keypoints (64, 3, joints), scaled to the common size; sound (samples,) at 16 kHz.

  Raises:
    UserError: the video cannot be read, ends too early, or the moment has no person
      with both hands and the face in view.
  """
  probe = media.probe(path)
  mediapipe_env.ensure(DEFAULT_ENV)
  with tempfile.TemporaryDirectory() as folder:
    video = workspace.Video(path.stem, path, pathlib.Path(folder))
    canvas = media.Canvas.fit(probe.width, probe.height, probe.aspect)
    wanted = next(media.pictures(path))[0] + seconds
    start, _ = next(media.pictures(path, wanted), (None, None))
    if start is None:
      raise UserError(f"ends before {seconds:g} s; give an earlier moment")
    placed = (
      (time - start, canvas.draw(picture))
      for time, picture in itertools.takewhile(
        lambda shown: shown[0] < start + _SECONDS + _MARGIN, media.pictures(path, start)
      )
    )
    times = media.write_canvas_video(video.folder / "video.mp4", placed)
    sound = media.sound(path, start)[: audio.num_samples(audio.CLIP_FRAMES)]
    write_source(video, probe, canvas, times, sound)
    shown = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm.tqdm(total=1.0, desc=path.name, bar_format=shown) as bar:

      def progress(share: float) -> None:
        bar.update(share - bar.n)

      detection = MediaPipe(DEFAULT_ENV, Thresholds()).detect(video, progress)
  found, origin = keypoints.to_grid(detection, np.array(times))
  found, _, _ = clean.clean(found, origin, canvas.box)
  found = found[: audio.CLIP_FRAMES]
  kept, dropped = clips.windows(found, len(sound))
  if not kept:
    reason = next((name for name, count in dropped.items() if count), "video ends")
    raise UserError(f"from {seconds:g} s on: {reason}; give another moment")
  return rescale.rescale(found)[0], sound
