"""Reads audio files, and lists and folders of them, as 16 kHz mono.

Only this module of `sdt_jax` decodes audio. PyAV reads any sample format in any
container that it knows, and the first audio track of a video. Channels are averaged;
FFmpeg's own downmix is louder by sqrt(2).
"""

import contextlib
import io
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soxr
from av.error import FFmpegError
from av.stream import Disposition

from sdt_jax import audio as audio_lib
from sdt_jax.errors import UserError

SAMPLE_SPEECH = pathlib.Path(__file__).parent / "assets" / "sample_speech.flac"
"""Twelve seconds of speech."""

SUFFIXES = (
  *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".aif"),
  *(".webm", ".mp4", ".mov", ".mkv"),
)
"""Suffixes of the files that are taken from a folder even if they cannot be read, so
that a damaged one is an error. Other files are taken if they contain sound."""

# Any container is tried, except for scripts of a sound generator, which never end. No
# protocol is allowed, so a playlist cannot open the files or addresses that it names.
_OPEN_OPTIONS = {
  "format_whitelist": ",".join(sorted(av.formats_available - {"sbg"})),
  "protocol_whitelist": "",
}

# PyAV counts planes up to the first null pointer of an array of 8, so it reads beyond
# the array if there are more than 7. Damaged AAC may claim dozens of channels.
_MAX_PLANES = 7
# Metadata tags need not be Unicode. PyAV 19 accepts any and has removed this option.
_OLD_AV = int(av.__version__.split(".")[0]) < 19
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_AV else {}

_log = logging.getLogger(__name__)

_RATES_HZ = (1_000, 1_000_000)  # lowest and highest plausible sample rate


def load_audio(path: str | pathlib.Path) -> np.ndarray:
  """Reads an audio file in the models' format.

  Returns:
    (samples,) float32, 16 kHz mono.

  Raises:
    UserError: as for `read_audio` and `to_model_rate`; the message starts with the
      path.
  """
  return to_model_rate(*read_audio(path), name=str(path))


def read_audio(path: str | pathlib.Path) -> tuple[np.ndarray, int]:
  """Reads the first audio track of a file at its own sample rate.

  Of a damaged or truncated file, returns the part that can be decoded.

  Returns:
    (samples,) float32 in [-1, 1], the mean of the channels; and the sample rate in Hz.

  Raises:
    UserError: the file is missing or unreadable, or contains no audio.
  """
  path = pathlib.Path(path)
  try:
    # PyAV gets the open file: FFmpeg would parse a path for protocols ("concat:").
    with _File(str(path)) as file:
      if not file.read(1):
        raise UserError(f"{path}: is empty (0 bytes); copy it again")
      file.seek(0)
      return _decode(file, path)
  except (FFmpegError, ValueError) as e:  # first, since some are OSErrors as well
    raise UserError(
      f"{path}: not a sound file that can be decoded; copy it again, or convert to wav"
    ) from e
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e


class _File(io.FileIO):
  """A file whose `seek` returns -1 on failure.

  Demuxers seek beyond the start of damaged files; PyAV would print a traceback.
  """

  def seek(self, offset: int, whence: int = 0, /) -> int:
    try:
      return super().seek(offset, whence)
    except OSError:
      return -1


def _decode(file, path: pathlib.Path) -> tuple[np.ndarray, int]:
  with av.open(file, container_options=_OPEN_OPTIONS, **LENIENT) as container:
    stream = _audio_stream(container)
    if stream is None:
      raise UserError(f"{path}: has no sound track; give a file with sound")
    blocks, rates = [], set()
    for frame in decoded_frames(container, stream):
      blocks.append(mono(frame))
      rates.add(frame.sample_rate)
  if not blocks:
    raise UserError(f"{path}: contains no decodable sound; copy it again")
  if len(rates) > 1:
    raise UserError(
      f"{path}: its sample rate changes within the file ({sorted(rates)} Hz); "
      "convert it to wav"
    )
  return np.concatenate(blocks), rates.pop()


def _audio_stream(container):
  """The first audio track that FFmpeg can decode, or None."""
  tracks = (s for s in container.streams.audio if s.codec_context is not None)
  return next(tracks, None)


def decoded_frames(container, stream) -> Iterator:
  """Yields the frames of a stream, skipping damaged packets, up to any truncation."""
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets)
    except (StopIteration, FFmpegError):  # the end of the file, or its truncation
      return
    try:
      yield from packet.decode()
    except FFmpegError:
      continue


def mono(frame: av.AudioFrame) -> np.ndarray:
  """The mean of a frame's channels, scaled to [-1, 1]: (samples,) float32."""
  if frame.format.is_planar and frame.layout.nb_channels > _MAX_PLANES:
    (frame,) = av.AudioResampler(frame.format.packed.name).resample(frame)
  samples = frame.to_ndarray()  # (channels, samples), or (1, samples * channels)
  if not frame.format.is_planar:
    samples = samples.reshape(frame.samples, -1).T
  with np.errstate(over="ignore", invalid="ignore"):  # reported by `to_model_rate`
    return _to_float(samples).mean(0, dtype=np.float64).astype(np.float32)


def _to_float(pcm: np.ndarray) -> np.ndarray:
  """Scales integer samples of any width to floats in [-1, 1); keeps floats as is."""
  if pcm.dtype.kind == "f":
    return pcm
  half = 2.0 ** (8 * pcm.dtype.itemsize - 1)
  return (pcm - half if pcm.dtype.kind == "u" else pcm.astype(np.float64)) / half


def to_model_rate(
  audio: np.ndarray, sample_rate: float, name: str = "audio"
) -> np.ndarray:
  """Converts mono audio to the models' format.

  Args:
    audio: (samples,) floats in [-1, 1], or integers: uint8, int16 or int32.
    sample_rate: sample rate of `audio`, in Hz.
    name: what error messages call the audio.

  Returns:
    (samples',) float32 at 16 kHz; audio that already has this format is not changed.

  Raises:
    UserError: wrong shape, type, range or sample rate; NaN or infinity; or shorter than
      half a pose frame (1/30 s).
  """
  audio = np.asarray(audio)
  if audio.ndim != 1:
    raise UserError(
      f"{name}: has shape {audio.shape}, expected (samples,); average the channels"
    )
  if audio.dtype.kind != "f" and audio.dtype not in (np.uint8, np.int16, np.int32):
    raise UserError(
      f"{name}: has type {audio.dtype}, expected floats in [-1, 1], "
      "uint8, int16 or int32"
    )
  if not audio.size:
    raise UserError(f"{name}: contains no samples")
  low, high = _RATES_HZ
  if not low <= sample_rate <= high:
    raise UserError(
      f"{name}: sample rate is {sample_rate:g} Hz, expected {low} to {high}"
    )
  floats = _to_float(audio)
  _check_values(floats, name)
  mono = floats.astype(np.float32, copy=False)
  seconds = len(mono) / sample_rate
  if sample_rate != audio_lib.SAMPLE_RATE:
    mono = _resample(mono, sample_rate)
  if not audio_lib.num_frames(len(mono)):
    raise UserError(
      f"{name}: lasts {seconds:.4f} s, shorter than half a frame "
      f"(1/{2 * audio_lib.FPS} s); give a longer sound"
    )
  return mono


def _resample(mono: np.ndarray, sample_rate: float) -> np.ndarray:
  """Equal to `librosa.resample`, which takes more than a second to import."""
  length = math.ceil(len(mono) * (audio_lib.SAMPLE_RATE / sample_rate))
  resampled = soxr.resample(mono, sample_rate, audio_lib.SAMPLE_RATE, "HQ")[:length]
  return np.pad(resampled, (0, length - len(resampled)))


def _check_values(floats: np.ndarray, name: str) -> None:
  bad = np.flatnonzero(~np.isfinite(floats))
  if bad.size:
    raise UserError(
      f"{name}: {bad.size} of {floats.size} samples are NaN or infinite, "
      f"first at index {bad[0]}"
    )
  peak = np.abs(floats).max()
  if peak > audio_lib.MAX_PEAK:
    raise UserError(
      f"{name}: reaches {peak:g}, expected floats in [-1, 1]; "
      "divide 16-bit samples by 32768"
    )


def find_audio_files(path: str | pathlib.Path) -> list[pathlib.Path]:
  """Lists the audio files that a path refers to.

  Args:
    path: an audio file; a `.txt` list of them, one path per line, absolute or relative
      to the list's folder (blank lines and `#` comments are skipped); or a folder,
      whose files that contain sound, or have one of `SUFFIXES`, are taken in
      alphabetical order; a log message names the others.

  Raises:
    UserError: `path` does not exist or contains no audio file, a line of the list is
      not a file, or two files have the same stem, so that their outputs would have the
      same name.
  """
  path = pathlib.Path(path)
  if os.path.isdir(path):
    files = _in_folder(path)
  elif not os.path.isfile(path):
    raise UserError(f"{path}: no such file or folder")
  elif path.suffix.lower() == ".txt":
    files = _in_list(path)
  else:
    files = [path]
  first: dict[str, pathlib.Path] = {}
  for file in files:
    if file.stem in first:
      raise UserError(
        f"{path}: {first[file.stem]} and {file} have the same stem, so their outputs "
        "would overwrite each other; rename one"
      )
    first[file.stem] = file
  return files


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    entries = sorted(folder.iterdir())
  except OSError as e:
    raise UserError(f"{folder}: cannot be read ({e.strerror or e})") from e
  entries = [f for f in entries if f.is_file() and not f.name.startswith(".")]
  files = [f for f in entries if f.suffix.lower() in SUFFIXES or _has_sound(f)]
  if not files:
    raise UserError(f"{folder}: contains no sound files ({len(entries)} other files)")
  if skipped := [f.name for f in entries if f not in files]:
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    _log.info("%s: skipped, no sound: %s%s", folder, ", ".join(skipped[:5]), more)
  return files


def _has_sound(path: pathlib.Path) -> bool:
  """Whether the file opens as a container with an audio track."""
  with (
    contextlib.suppress(FFmpegError, OSError, ValueError),
    _opened(path) as container,
  ):
    return _audio_stream(container) is not None
  return False


def has_picture(path: pathlib.Path) -> bool:
  """Whether the file is a video; embedded cover art does not count."""
  with (
    contextlib.suppress(FFmpegError, OSError, ValueError),
    _opened(path) as container,
  ):
    return any(
      s.codec_context is not None and not s.disposition & Disposition.attached_pic
      for s in container.streams.video
    )
  return False


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator:
  with (
    _File(str(path)) as file,
    av.open(file, container_options=_OPEN_OPTIONS, **LENIENT) as container,
  ):
    yield container


def _in_list(path: pathlib.Path) -> list[pathlib.Path]:
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: cannot be read as a text file ({e})") from e
  files = []
  for number, line in enumerate(lines, 1):
    entry = line.strip()
    if not entry or entry.startswith("#"):
      continue
    file = path.parent / entry
    if not os.path.isfile(file):  # unlike is_file, False for a line of prose
      raise UserError(f"{path}: line {number}: {entry}: no such file")
    files.append(file)
  if not files:
    raise UserError(f"{path}: lists no sound files")
  return files
