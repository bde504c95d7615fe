"""Sound files -> videos, poses and film strips."""

import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from sdt_jax import audio_file, files
from sdt_jax.errors import UserError
from sdt_jax.synthesis import overview, render, video
from sdt_jax.synthesis.generate import Generation, GestureModel
from sdt_jax.templates import sources

Export = Callable[[pathlib.Path, np.ndarray], object]
"""Writes final poses (T, dims, joints) to files whose paths begin with a stem."""


Codes = list[np.ndarray | None]
"""The template of each rendering."""

OUTPUTS = ("mp4", "npz", "png")

_SIDES_PX = (64, 7680)  # shortest and longest side of a video
_SCALES = (0.01, 100.0)


def parse_outputs(text: str) -> tuple[str, ...]:
  """The value of `--outputs`, for example "mp4,npz".

  Raises:
    UserError: it is empty, or one of them is unknown.
  """
  given = [name.strip() for name in text.split(",") if name.strip()]
  unknown = [name for name in given if name not in OUTPUTS]
  if unknown or not given:
    wrong = f"unknown {unknown[0]!r}" if unknown else "is empty"
    raise UserError(f"--outputs={text}: {wrong}; give some of {','.join(OUTPUTS)}")
  return tuple(name for name in OUTPUTS if name in given)


def parse_size(text: str) -> render.Size:
  """The value of `--size`, for example "1280x720".

  Raises:
    UserError: it is not WIDTHxHEIGHT, is odd (H.264 needs even sides), or is too small
      or too large.
  """
  match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
  if not match:
    raise UserError(f"--size={text}: expected WIDTHxHEIGHT, for example 1280x720")
  width, height = size = int(match[1]), int(match[2])
  low, high = _SIDES_PX
  if not all(low <= side <= high for side in size):
    raise UserError(f"--size={text}: give sides of {low} to {high} pixels")
  if width % 2 or height % 2:
    even = f"{width + width % 2}x{height + height % 2}"
    raise UserError(f"--size={text}: H.264 needs even sides; give {even}")
  return size


def check_scale(scale: float | None) -> None:
  """Raises a UserError if this is no usable value of `--scale`."""
  low, high = _SCALES
  if scale is not None and not low <= scale <= high:  # also catches NaN
    raise UserError(f"--scale={scale:g}: give {low:g} to {high:g}")


def render_files(
  model: GestureModel,
  sounds: list[pathlib.Path],
  output_dir: pathlib.Path,
  *,
  template: str = "random",
  direction: str = "",
  num_samples: int = 1,
  seed: int = 0,
  generation: Generation = "windowed",
  outputs: Collection[str] = OUTPUTS,
  size: render.Size = render.NATURAL_SIZE,
  scale: float | None = None,
  export: Export | None = None,
) -> list[pathlib.Path]:
  """Renders every sound, `num_samples` times.

  Writes `<stem>.mp4` (with the sound), `<stem>.npz` (`poses_pred_batch`
  (1, T, dims, joints) final poses, `condition_code` (1, D) or (1, T, D) the template)
  and `<stem>.png` (every 8th frame). With several samples, a number is appended to the
  stem; `<stem>_overview.mp4` shows all of them in a grid, and `<stem>_overview.png` one
  below the other. If the sound is that of a video, `<stem>_overview.mp4` also shows the
  video, and is written for a single sample, too.

  Args:
    model: the trained model.
    sounds: sound files; their stems must differ.
    output_dir: created if it is missing.
    template, direction, num_samples, seed: see `templates.sources.choose`.
    generation: see `GestureModel.generate`.
    outputs: which of `OUTPUTS` to write.
    size: width and height of the videos.
    scale: image pixels per pixel of the poses; default: see `render.framing`.
    export: also writes the motion, for example `exports.export`.

  Returns:
    The videos; without videos, the first of the outputs of each rendering.

  Raises:
    UserError: a sound, the template or the output folder cannot be used.
  """
  check_scale(scale)
  chosen = sources.choose(
    template,
    model.bank,
    num_samples=num_samples,
    seed=seed,
    direction=direction,
    abilities=model.abilities,
  )
  titles = ["no template" if t is None else f"template {t.name}" for t in chosen]
  stems = {path: _stems(output_dir, path, num_samples) for path in sounds}
  # Sound -> path of its overview without the ending.
  recordings, compared = [], sounds
  if "mp4" in outputs:
    recordings = [path for path in sounds if audio_file.has_picture(path)]
  if num_samples == 1 or not {"mp4", "png"} & set(outputs):
    compared = recordings
  overviews = {path: output_dir / f"{path.stem}_overview" for path in compared}
  shown = [stem for path in sounds for stem in stems[path]] + list(overviews.values())
  if "mp4" in outputs:
    _check_no_overwrite(sounds, shown)
  # All are read once before anything is written, and again when they are rendered.
  lengths = {path: len(audio_file.load_audio(path)) for path in sounds}
  files.check_writable(output_dir, "--output_dir")
  longest_first = sorted(sounds, key=lengths.__getitem__, reverse=True)
  writer = _Writer(outputs, size, scale)
  with tqdm.tqdm(total=len(shown), desc="rendering", unit="video") as progress:
    for path, wave, renderings, codes in _generate(
      model, longest_first, chosen, seed, generation
    ):
      for stem, poses_px, code in zip(stems[path], renderings, codes, strict=True):
        writer.write(stem, poses_px, wave, code)
        if export:
          export(stem, poses_px)
        progress.update()
      if path in overviews:
        recording = path if path in recordings else None
        writer.write_overview(overviews[path], renderings, titles, wave, recording)
        progress.update()
  # The first output of a rendering; overviews are never npz.
  ending = next(kind for kind in OUTPUTS if kind in outputs)
  of_overviews = "png" if ending == "npz" else ending
  return [
    _with_ending(stem, of_overviews if stem in overviews.values() else ending)
    for stem in shown
  ]


def _generate(
  model: GestureModel,
  sounds: list[pathlib.Path],
  chosen: Sequence[sources.Chosen | None],
  seed: int,
  generation: Generation,
) -> Iterator[tuple[pathlib.Path, np.ndarray, list[np.ndarray], Codes]]:
  """Path and samples of each sound, its poses for each template, and the templates."""
  for first in range(0, len(sounds), model.at_once):
    paths = sounds[first : first + model.at_once]
    waves = [audio_file.load_audio(path) for path in paths]
    codes = [
      [template and template.code(wave) for template in chosen] for wave in waves
    ]
    poses_px = model.generate_many(
      [wave for wave in waves for _ in chosen],
      [code for of_sound in codes for code in of_sound],
      seed,
      generation,
    )
    for i, (path, wave) in enumerate(zip(paths, waves, strict=True)):
      yield path, wave, poses_px[i * len(chosen) : (i + 1) * len(chosen)], codes[i]


def _stems(
  output_dir: pathlib.Path, sound: pathlib.Path, count: int
) -> list[pathlib.Path]:
  """Paths of the renderings of a sound, without their endings."""
  if count == 1:
    return [output_dir / sound.stem]
  return [output_dir / f"{sound.stem}_{i}" for i in range(count)]


def _check_no_overwrite(
  sounds: list[pathlib.Path], stems: Sequence[pathlib.Path]
) -> None:
  """Raises a UserError if a video would overwrite one of the sounds, or another."""
  if twice := [stem for stem in stems if stems.count(stem) > 1]:
    raise UserError(
      "--audio: a sound and the overview of another would both be written to "
      f"{_with_ending(twice[0], 'mp4')}; rename the sound"
    )
  read = {sound.resolve() for sound in sounds}
  for video_path in (_with_ending(stem, "mp4") for stem in stems):
    if video_path.resolve() in read:
      raise UserError(
        f"--output_dir={video_path.parent}: {video_path.name} there is one of the "
        "sounds and would be overwritten; choose another folder"
      )


def _with_ending(stem: pathlib.Path, ending: str) -> pathlib.Path:
  return stem.with_name(f"{stem.name}.{ending}")


class _Writer(NamedTuple):
  """Writes the files of renderings; see `render_files`."""

  outputs: Collection[str]
  size: render.Size
  scale: float | None

  def write(
    self,
    stem: pathlib.Path,
    poses_px: np.ndarray,
    sound: np.ndarray,
    code: np.ndarray | None,
  ) -> None:
    """Video, poses and film strip of one rendering."""
    if "mp4" in self.outputs:
      frames = render.pose_frames(poses_px, self.size, self.scale)
      video.write_video(_with_ending(stem, "mp4"), frames, audio=sound)
    if "npz" in self.outputs:
      arrays = {"poses_pred_batch": poses_px[None].astype(np.float32)}
      if code is not None:
        arrays["condition_code"] = code[None]
      with files.replacing(_with_ending(stem, "npz")) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    if "png" in self.outputs:
      render.write_png(_with_ending(stem, "png"), render.film_strip(poses_px))

  def write_overview(
    self,
    stem: pathlib.Path,
    renderings: list[np.ndarray],
    titles: list[str],
    sound: np.ndarray,
    recording: pathlib.Path | None,
  ) -> None:
    """Grid video and film strips of all renderings of a sound."""
    if "mp4" in self.outputs:
      frames = overview.grid_frames(
        renderings, titles, self.size, self.scale, recording
      )
      video.write_video(_with_ending(stem, "mp4"), frames, audio=sound)
    if "png" in self.outputs and len(renderings) > 1:
      strips = render.motion_overview(renderings, titles)
      render.write_png(_with_ending(stem, "png"), strips)
