"""Video files: probing, pictures with their times, sound. PyAV decodes and encodes.

The canvas is 1280x720, like the videos of the published packs; pictures of another
shape are scaled to fit and centred.
"""

import contextlib
import dataclasses
import fractions
import pathlib
from collections.abc import Iterator, Sequence

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from sdt_jax import audio, audio_file
from sdt_jax.errors import UserError

CANVAS_WIDTH, CANVAS_HEIGHT = 1280, 720

_TIME_BASE = fractions.Fraction(1, 90_000)  # exact for common frame rates


@dataclasses.dataclass(frozen=True)
class Canvas:
  """Position of the picture: canvas x = picture x * scale_x + x; likewise for y."""

  scale_x: float
  scale_y: float
  x: int
  y: int
  width: int
  height: int

  @classmethod
  def fit(cls, width: int, height: int, aspect: float = 1.0) -> "Canvas":
    """Largest centred position; pixels are `aspect` times as wide as they are high."""
    scale = min(CANVAS_WIDTH / (width * aspect), CANVAS_HEIGHT / height)
    w, h = round(width * aspect * scale), round(height * scale)
    x, y = (CANVAS_WIDTH - w) // 2, (CANVAS_HEIGHT - h) // 2
    return cls(w / width, h / height, x, y, w, h)

  @property
  def box(self) -> tuple[int, int, int, int]:
    """x, y, width, height of the picture in the canvas."""
    return self.x, self.y, self.width, self.height

  def draw(self, picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 picture -> (720, 1280, 3) canvas with black margins."""
    canvas = np.zeros((CANVAS_HEIGHT, CANVAS_WIDTH, 3), np.uint8)
    shrinks = self.scale_x < 1
    canvas[self.y : self.y + self.height, self.x : self.x + self.width] = cv2.resize(
      picture,
      (self.width, self.height),
      interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
    )
    return canvas

  def place(self, keypoints: np.ndarray) -> np.ndarray:
    """(..., 3, joints) from picture to canvas pixels; missing points stay 0, 0, 0."""
    scale = np.array([self.scale_x, self.scale_y, 1], np.float32)[:, None]
    offset = np.array([self.x, self.y, 0], np.float32)[:, None]
    return (keypoints * scale + offset) * (keypoints[..., 2:, :] > 0)


@dataclasses.dataclass(frozen=True)
class Probe:
  """Properties given by the container; rate and duration may be estimates."""

  width: int
  height: int
  aspect: float
  rotation: int
  fps: float
  seconds: float


def probe(path: pathlib.Path) -> Probe:
  """Opens a video and decodes its first picture.

  Raises:
    UserError: the file is not a video, or has no pictures or no sound track.
  """
  with _opened(path) as container:
    stream = _video_stream(container, path)
    if not container.streams.audio:
      raise UserError(f"{path.name}: has no sound track")
    first = next(audio_file.decoded_frames(container, stream), None)
    if first is None:
      raise UserError(f"{path.name}: no picture can be decoded")
    height, width = _upright(first).shape[:2]
    turned = first.rotation % 180 != 0
    aspect = float(stream.codec_context.sample_aspect_ratio or 1)
    return Probe(
      width=width,
      height=height,
      aspect=1 / aspect if turned else aspect,
      rotation=first.rotation % 360,
      fps=float(stream.average_rate or stream.guessed_rate or 0),
      seconds=(
        float(stream.duration * (stream.time_base or 0))
        if stream.duration
        else (container.duration or 0) / av.time_base
      ),
    )


@contextlib.contextmanager
def _opened(path: pathlib.Path):
  try:
    with av.open(str(path.absolute()), **audio_file.LENIENT) as container:
      yield container
  except FFmpegError as e:
    raise UserError(f"{path.name}: not a video that can be read ({e.strerror})") from e


def _video_stream(container, path: pathlib.Path):
  for stream in container.streams.video:
    if not stream.disposition & Disposition.attached_pic:
      stream.thread_type = "AUTO"
      return stream
  raise UserError(f"{path.name}: has no picture track")


def _upright(frame: av.VideoFrame) -> np.ndarray:
  """(H, W, 3) uint8, rotated as players show it."""
  return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def pictures(
  path: pathlib.Path, since: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
  """Yields the time, in seconds of the container's clock, and (H, W, 3) uint8 RGB.

  Pictures that are not later than the one before, or earlier than `since`, are skipped.
  """
  with _opened(path) as container:
    stream = _video_stream(container, path)
    step = 1 / float(stream.average_rate or 25)
    last = None if since is None else since - 1e-6
    if since is not None:
      with contextlib.suppress(FFmpegError):  # not all can seek; then all is decoded
        container.seek(max(0, int(min(since, 1e9) * av.time_base)))
    for frame in audio_file.decoded_frames(container, stream):
      time = frame.time
      if time is None:
        time = 0.0 if last is None else last + step
      if last is None or time > last:
        last = time
        yield time, _upright(frame)


def pictures_at(
  path: pathlib.Path, seconds: Sequence[float]
) -> Iterator[tuple[float, np.ndarray]]:
  """Yields, for each of the ascending times, the picture that a player shows then."""
  shown, wanted = None, list(seconds)
  for time, picture in pictures(path):
    while wanted and shown is not None and time > wanted[0] + 1e-3:
      yield wanted.pop(0), shown
    shown = picture
    if not wanted:
      return
  for second in wanted:
    if shown is not None:
      yield second, shown


def sound(path: pathlib.Path, start: float) -> np.ndarray:
  """The first sound track, resampled for the models and aligned with the pictures.

  Args:
    path: the video.
    start: time of its first picture on the container's clock.

  Returns:
    (samples,) float32, 16 kHz mono; sample 0 is at the first picture.

  Raises:
    UserError: no sound can be decoded.
  """
  with _opened(path) as container:
    stream = container.streams.audio[0]  # `probe` has checked that there is one
    rate = stream.codec_context.sample_rate
    blocks = [
      (f.time, audio_file.mono(f)) for f in audio_file.decoded_frames(container, stream)
    ]
  if not blocks or not rate:
    raise UserError(f"{path.name}: no sound can be decoded")
  samples = _in_place(blocks, rate, start)
  return audio_file.to_model_rate(samples, rate, name=path.name)


def _in_place(
  blocks: list[tuple[float | None, np.ndarray]], rate: int, start: float
) -> np.ndarray:
  """Joins blocks of sound at their times, with silence in between."""
  position = 0
  places = []
  for time, block in blocks:
    wanted = position if time is None else round((time - start) * rate)
    # Containers round times, so deviations of up to 20 ms are not gaps.
    if not places or abs(wanted - position) > rate // 50:
      position = wanted
    places.append(position)
    position += len(block)
  blocks_at = list(zip(places, (block for _, block in blocks), strict=True))
  samples = np.zeros(max(0, *(at + len(b) for at, b in blocks_at)), np.float32)
  for at, block in blocks_at:
    samples[max(0, at) : max(0, at + len(block))] = block[max(0, -at) :]
  return samples


def write_canvas_video(
  path: pathlib.Path, frames: Iterator[tuple[float, np.ndarray]]
) -> list[float]:
  """Writes (720, 1280, 3) pictures at their times, which may be uneven.

  Returns:
    The times.
  """
  times = []
  with av.open(str(path.absolute()), "w", format="mp4") as container:
    stream = container.add_stream(
      "libx264", options={"crf": "16", "preset": "veryfast"}
    )
    stream.width, stream.height, stream.pix_fmt = CANVAS_WIDTH, CANVAS_HEIGHT, "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    for time, picture in frames:
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.pts, frame.time_base = round(time / _TIME_BASE), _TIME_BASE
      container.mux(stream.encode(frame))
      times.append(time)
    container.mux(stream.encode(None))
  return times


def write_wav(path: pathlib.Path, samples: np.ndarray) -> None:
  """Writes (samples,) float32 at 16 kHz as a 16-bit wav file."""
  import soundfile  # slow to import

  soundfile.write(path, samples, audio.SAMPLE_RATE, subtype="PCM_16", format="WAV")
