"""Writes frames and audio as mp4. The only module that uses the encoder.

PyAV passes the frames to x264, which encodes in its own threads while the next frame is
drawn. Each frame is muxed together with the audio samples of its duration, so both
streams have the same length for any number of frames.
"""

import concurrent.futures
import contextlib
import itertools
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from sdt_jax import audio as audio_lib
from sdt_jax.errors import UserError

# For drawings on a static background, no B-frames and a coarse motion search save over
# 40 % of the encoding time, and cost a third more bytes at the same quality.
_X264 = {"bf": "0", "subq": "1", "motion-est": "dia", "weightp": "0"}
_BT709 = 1  # code of the matrix, primaries and transfer function in H.273


def write_video(
  path: str | pathlib.Path,
  frames: Iterable[np.ndarray],
  fps: int = audio_lib.FPS,
  audio: np.ndarray | None = None,
  sample_rate: int = audio_lib.SAMPLE_RATE,
  preset: str = "veryfast",
) -> None:
  """Writes an H.264 mp4 of exactly the given frames, one frame at a time.

  Args:
    path: the mp4 file; it appears only once it is complete and replaces an older one.
    frames: (height, width, 3) uint8 RGB, at least one, all of the same size. If height
      or width is odd, the last row or column is repeated.
    fps: frames per second.
    audio: (samples,) floats in [-1, 1], or None for no sound; truncated or padded with
      silence to the duration of the frames.
    sample_rate: samples per second of `audio`.
    preset: preset of x264, from "ultrafast" to "veryslow": speed against file size.

  Raises:
    UserError: the folder is not writable, or the encoder fails.
    ValueError: there are no frames, or their sizes differ.
  """
  path = pathlib.Path(path)
  with _user_errors(path, OSError):
    # Absolute, because FFmpeg would read "10:30/talk.mp4" as a protocol and a path.
    beside = tempfile.TemporaryDirectory(prefix=".video-", dir=path.absolute().parent)
  with beside as folder:
    video = os.path.join(folder, "video.mp4")
    # Not OSError: such an error is raised by the caller's iterator of frames.
    with _user_errors(path, FFmpegError, UnknownCodecError):
      _encode(video, _same_size(frames), fps, audio, sample_rate, preset)
    with _user_errors(path, OSError):
      os.replace(video, path)


@contextlib.contextmanager
def _user_errors(path: pathlib.Path, *kinds: type[Exception]) -> Iterator[None]:
  """Raises errors of the file system or encoder as a `UserError` about `path`."""
  try:
    yield
  except kinds as e:
    log = getattr(e, "log", None)  # (level, component of FFmpeg, message)
    reason = log[2].strip() if log else getattr(e, "strerror", None) or e
    raise UserError(f"{path}: cannot be written ({reason})") from e


def _same_size(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  shape = None
  for i, frame in enumerate(frames):
    shape = shape or frame.shape
    if frame.shape != shape or frame.dtype != np.uint8:
      raise ValueError(f"frame {i} is {frame.dtype} {frame.shape}, not uint8 {shape}")
    yield frame


def _encode(
  video: str,
  frames: Iterator[np.ndarray],
  fps: int,
  audio: np.ndarray | None,
  sample_rate: int,
  preset: str,
) -> None:
  first = next(frames, None)
  if first is None:
    raise ValueError("a video needs at least one frame")
  # With this time scale, durations are exact; by default they are in milliseconds.
  ticks = math.lcm(fps, sample_rate)
  options = {"movflags": "+faststart", "movie_timescale": str(ticks)}
  with av.open(video, "w", options=options) as file:
    height, width = first.shape[:2]
    picture = file.add_stream("libx264", fps, options={"preset": preset, **_X264})
    picture.height, picture.width = height + height % 2, width + width % 2
    # Without these, players guess the colour matrix from the frame size, often wrongly.
    context = picture.codec_context
    context.color_range = ColorRange.MPEG
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    tracks: list = [(picture, _ahead(_yuv(itertools.chain([first], frames))))]
    if audio is not None:
      sound = file.add_stream("aac", rate=sample_rate, layout="mono")
      tracks.append((sound, _pieces(audio, fps, sample_rate)))
    streams, parts = zip(*tracks, strict=True)
    for step in zip(*parts, strict=False):  # ends with the frames; audio is endless
      for stream, part in zip(streams, step, strict=True):
        file.mux(stream.encode(part))
    for stream in streams:
      file.mux(stream.encode())  # flush the encoder


def _ahead(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
  """Yields the same frames, each computed while the one before it is in use."""
  with concurrent.futures.ThreadPoolExecutor(1, "frames") as thread:
    following = thread.submit(next, frames, None)
    while (frame := following.result()) is not None:
      following = thread.submit(next, frames, None)
      yield frame


def _yuv(frames: Iterable[np.ndarray]) -> Iterator[av.VideoFrame]:
  """Converts frames to yuv420p, padded to even sizes (it halves the chroma planes)."""
  to_yuv = VideoReformatter()
  for frame in frames:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
      frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    yield to_yuv.reformat(
      av.VideoFrame.from_ndarray(frame, format="rgb24"),
      format="yuv420p",
      dst_colorspace=Colorspace.ITU709,
      dst_color_range=ColorRange.MPEG,
    )


def _pieces(audio: np.ndarray, fps: int, rate: int) -> Iterator[av.AudioFrame]:
  """The samples of each frame in turn; after the end of `audio`, endless silence."""
  ends = (round(i / fps * rate) for i in itertools.count())
  for start, end in itertools.pairwise(ends):
    piece = np.zeros((1, end - start), np.float32)
    samples = np.clip(audio[start:end], -1, 1)
    piece[0, : len(samples)] = samples
    frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
    frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
    yield frame
