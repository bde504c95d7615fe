"""Sound files, lists and folders of them -> 16 kHz mono.

PyAV decodes, in this package here alone: any container and sample format, the first
sound track of a video too. Channels are averaged; FFmpeg's own downmix is louder by
sqrt(2).
"""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soxr
from av.error import FFmpegError

from sdt_jax import audio as audio_lib
from sdt_jax.errors import UserError

SUFFIXES = (
  *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".aif"),
  *(".webm", ".mp4", ".mov", ".mkv"),
)
"""What a folder is searched for. A file that is named itself may have any suffix."""

# Demuxers that may open a file, whatever its name. Left to itself, FFmpeg also takes
# text for a terminal picture and a playlist for leave to open what it lists.
_CONTAINERS = "wav,w64,flac,mp3,ogg,aac,aiff,mov,matroska"

# PyAV counts planes up to a null pointer, and reads foreign memory where more than 7
# leave none. Damaged AAC may claim dozens of channels.
_MAX_PLANES = 7
# Tags need not be Unicode; PyAV 19 takes any and has lost the option.
_OLD_AV = int(av.__version__.split(".")[0]) < 19
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_AV else {}

_RATES_HZ = (1_000, 1_000_000)  # beyond these a number is no sample rate


def load_audio(path: str | pathlib.Path) -> np.ndarray:
  """A sound file as the models take it.

  Returns:
    (samples,) float32, 16 kHz mono.

  Raises:
    UserError: as `read_audio` and `to_model_rate`; the message begins with the path.
  """
  return to_model_rate(*read_audio(path), name=str(path))


def read_audio(path: str | pathlib.Path) -> tuple[np.ndarray, int]:
  """The first sound track of a file, at its own sample rate.

  A damaged or truncated file gives what of it can be decoded.

  Returns:
    (samples,) float32 in [-1, 1], the mean of the channels; and the rate in Hz.

  Raises:
    UserError: the file is missing, not readable, or holds no sound.
  """
  path = pathlib.Path(path)
  try:
    # PyAV is given the open file: in a name it would look for protocols ("concat:").
    with path.open("rb") as file:
      if not file.read(1):
        raise UserError(f"{path}: is empty (0 bytes); copy it again")
      file.seek(0)
      return _decode(file, path)
  except (FFmpegError, ValueError) as e:  # before OSError: some are both
    raise UserError(
      f"{path}: not a sound file that can be decoded; copy it again, or make it wav"
    ) from e
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e


def _decode(file, path: pathlib.Path) -> tuple[np.ndarray, int]:
  options = {"format_whitelist": _CONTAINERS}
  with av.open(file, container_options=options, **_LENIENT) as container:
    if not container.streams.audio:
      raise UserError(f"{path}: has no sound track; give a file with sound")
    blocks, rates = [], set()
    for frame in decoded_frames(container, container.streams.audio[0]):
      blocks.append(mono(frame))
      rates.add(frame.sample_rate)
  if not blocks:
    raise UserError(f"{path}: holds no sound that can be decoded; copy it again")
  if len(rates) > 1:
    raise UserError(f"{path}: changes its sample rate on the way ({sorted(rates)} Hz)")
  return np.concatenate(blocks), rates.pop()


def decoded_frames(container, stream) -> Iterator:
  """Frames of a stream; what is damaged is skipped, a cut-off file ends early."""
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets)
    except (StopIteration, FFmpegError):  # the end, or where the file was cut off
      return
    try:
      yield from packet.decode()
    except FFmpegError:
      continue


def mono(frame: av.AudioFrame) -> np.ndarray:
  """(samples,) float32: the channels of a frame, scaled to [-1, 1] and averaged."""
  if frame.format.is_planar and frame.layout.nb_channels > _MAX_PLANES:
    (frame,) = av.AudioResampler(frame.format.packed.name).resample(frame)
  samples = frame.to_ndarray()  # (channels, samples), or (1, samples * channels)
  if not frame.format.is_planar:
    samples = samples.reshape(frame.samples, -1).T
  with np.errstate(over="ignore", invalid="ignore"):  # `to_model_rate` reports those
    return _to_float(samples).mean(0, dtype=np.float64).astype(np.float32)


def _to_float(pcm: np.ndarray) -> np.ndarray:
  """Integer samples of any width to floats in [-1, 1); floats are left as they are."""
  if pcm.dtype.kind == "f":
    return pcm
  half = 2.0 ** (8 * pcm.dtype.itemsize - 1)
  return (pcm - half if pcm.dtype.kind == "u" else pcm.astype(np.float64)) / half


def to_model_rate(
  audio: np.ndarray, sample_rate: float, name: str = "audio"
) -> np.ndarray:
  """Any mono sound as the models take it.

  Args:
    audio: (samples,) floats in [-1, 1], or 8 (unsigned), 16 or 32 bit integers.
    sample_rate: of `audio`, in Hz.
    name: what messages call it.

  Returns:
    (samples',) float32 at 16 kHz; the same samples where they were that already.

  Raises:
    UserError: wrong shape, type, range or rate; NaN or infinity; shorter than one
      pose frame (1/15 s).
  """
  audio = np.asarray(audio)
  _check_array(audio, name)
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
      f"{name}: lasts {seconds:.4f} s, shorter than one frame (1/{audio_lib.FPS} s)"
    )
  return mono


def _resample(mono: np.ndarray, sample_rate: float) -> np.ndarray:
  """As `librosa.resample`, which takes more than a second to import."""
  length = math.ceil(len(mono) * (audio_lib.SAMPLE_RATE / sample_rate))
  resampled = soxr.resample(mono, sample_rate, audio_lib.SAMPLE_RATE, "HQ")[:length]
  return np.pad(resampled, (0, length - len(resampled)))


def _check_array(audio: np.ndarray, name: str) -> None:
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
    raise UserError(f"{name}: holds no samples")


def _check_values(floats: np.ndarray, name: str) -> None:
  bad = np.flatnonzero(~np.isfinite(floats))
  if bad.size:
    raise UserError(
      f"{name}: {bad.size} of {floats.size} samples are NaN or infinite, "
      f"the first is number {bad[0]}"
    )
  peak = np.abs(floats).max()
  if peak > audio_lib.MAX_PEAK:
    raise UserError(
      f"{name}: reaches {peak:g}, expected floats in [-1, 1]; "
      "divide 16-bit samples by 32768"
    )


def find_audio_files(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The sound files that a path stands for.

  Args:
    path: a sound file; a `.txt` list of them, one path per line, absolute or relative
      to the list's folder (blank lines and `#` comments are skipped); or a folder,
      whose files with one of `SUFFIXES` are taken in order of name.

  Raises:
    UserError: there is nothing at `path` or no sound file in it, a line of the list
      is no file, or two files have one stem (their outputs would have one name).
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
  files = [
    f
    for f in entries
    if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()
  ]
  if not files:
    raise UserError(f"{folder}: holds no sound files ({' '.join(SUFFIXES)})")
  return files


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
