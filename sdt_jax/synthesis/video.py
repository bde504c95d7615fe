"""Frames and sound -> mp4. The only file that knows the encoder.

moviepy's writer drives the ffmpeg binary that imageio-ffmpeg carries, frame by frame;
moviepy's clips would ask for frames by time instead, and lose or double some. The sound
comes in a second pass, without encoding the picture again: only then is the number of
frames, and with it the duration, known.
"""

import contextlib
import itertools
import os
import pathlib
import re
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
from moviepy.config import FFMPEG_BINARY
from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

from sdt_jax import audio as audio_lib
from sdt_jax.errors import UserError

_FASTSTART = ("-movflags", "+faststart")
# Players guess an untold colour matrix from the picture size, and shift the colours.
# The pixel format goes by a filter, since moviepy appends a `-pix_fmt` of its own.
_PICTURE = (
  *("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
  *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
  *("-color_range", "tv"),
)


def write_video(
  path: str | pathlib.Path,
  frames: Iterable[np.ndarray],
  fps: int = audio_lib.FPS,
  audio: np.ndarray | None = None,
  sample_rate: int = audio_lib.SAMPLE_RATE,
  preset: str = "veryfast",
) -> None:
  """Writes an H.264 mp4 of exactly the given frames, encoding them as they come.

  Args:
    path: the mp4; it appears there once it is complete, over an older one.
    frames: (height, width, 3) uint8 RGB, at least one, all of one size. The last row
      or column is doubled where height or width is odd.
    fps: frames per second.
    audio: (samples,) floats in [-1, 1], or None for no sound; cut or padded with
      silence to the duration of the frames.
    sample_rate: of `audio`, in Hz.
    preset: of x264: "ultrafast" to "veryslow", speed against file size.

  Raises:
    UserError: the folder cannot be written to, or the encoder fails.
    ValueError: there are no frames, or their sizes differ.
  """
  path = pathlib.Path(path)
  with _user_errors(path):
    # Absolute: FFmpeg takes "10:30/talk.mp4" for a protocol and "-out/..." for a flag.
    beside = tempfile.TemporaryDirectory(prefix=".video-", dir=path.absolute().parent)
  with beside as folder:
    video, count = _encode(folder, frames, fps, preset, path)
    with _user_errors(path):
      if audio is not None:
        samples = round(count / fps * sample_rate)
        video = _add_sound(video, _fit(audio, samples), sample_rate)
      os.replace(video, path)


@contextlib.contextmanager
def _user_errors(path: pathlib.Path) -> Iterator[None]:
  """Failures of the file system and of the encoder, as one line about `path`."""
  try:
    yield
  except OSError as e:
    reason = e.strerror or _last_line(str(e))
    raise UserError(f"{path}: cannot be written ({reason})") from e


def _last_line(text: str) -> str:
  line = (text.strip() or "the encoder gave no reason").splitlines()[-1]
  return re.sub(r"^\[.* @ 0x\w+\]", "", line).strip()  # which part of ffmpeg speaks


def _encode(
  folder: str,
  frames: Iterable[np.ndarray],
  fps: int,
  preset: str,
  target: pathlib.Path,
) -> tuple[str, int]:
  """Silent video in `folder`, and its number of frames. `target` is for messages."""
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise ValueError("a video needs at least one frame")
  height, width = first.shape[:2]
  video = os.path.join(folder, "video.mp4")
  writer = FFMPEG_VideoWriter(
    video,
    size=(width + width % 2, height + height % 2),
    fps=fps,
    preset=preset,
    ffmpeg_params=[*_PICTURE, *_FASTSTART],
  )
  encoder = cast("subprocess.Popen[bytes]", writer.proc)
  count = 0
  try:
    for frame in _same_size(itertools.chain([first], frames)):
      with _user_errors(target):
        writer.write_frame(_even(frame))
      count += 1
    _, messages = encoder.communicate()
  except BaseException:
    encoder.kill()
    encoder.communicate()
    raise
  with _user_errors(target):
    _check(encoder.returncode, messages)
  return video, count


def _check(returncode: int, messages: bytes) -> None:
  if returncode:
    raise OSError(messages.decode(errors="replace"))


def _same_size(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  shape = None
  for i, frame in enumerate(frames):
    shape = shape or frame.shape
    if frame.shape != shape or frame.dtype != np.uint8:
      raise ValueError(f"frame {i} is {frame.dtype} {frame.shape}, not uint8 {shape}")
    yield frame


def _even(frame: np.ndarray) -> np.ndarray:
  """Repeats the last row or column of an odd size; yuv420p halves both."""
  height, width = frame.shape[:2]
  if height % 2 or width % 2:
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
  return frame


def _fit(audio: np.ndarray, length: int) -> np.ndarray:
  return np.pad(audio[:length], (0, max(0, length - len(audio))))


def _add_sound(video: str, audio: np.ndarray, sample_rate: int) -> str:
  """The picture of `video` with this sound, as a file beside it."""
  folder = os.path.dirname(video)
  wav, both = os.path.join(folder, "sound.wav"), os.path.join(folder, "both.mp4")
  with wave.open(wav, "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    pcm = np.rint(np.clip(audio, -1, 1) * np.iinfo(np.int16).max)
    file.writeframes(pcm.astype("<i2").tobytes())
  command = [FFMPEG_BINARY, "-loglevel", "error", "-i", video, "-i", wav]
  command += ["-c:v", "copy", "-c:a", "aac", *_FASTSTART, both]
  done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
  _check(done.returncode, done.stderr)
  return both
