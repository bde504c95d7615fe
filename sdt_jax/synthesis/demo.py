"""Sound files -> videos, poses and film strips."""

import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tqdm

from sdt_jax import audio_file, files
from sdt_jax.errors import UserError
from sdt_jax.synthesis import render, video
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.templates import sources

Export = Callable[[pathlib.Path, np.ndarray], object]
"""Writes final poses (T, dims, joints) to files whose paths begin with a stem."""


def render_files(
  model: GestureModel,
  sounds: list[pathlib.Path],
  output_dir: pathlib.Path,
  *,
  template: str = "random",
  num_samples: int = 1,
  seed: int = 0,
  export: Export | None = None,
) -> list[pathlib.Path]:
  """Renders every sound, `num_samples` times.

  Writes `<stem>.mp4` (with the sound), `<stem>.npz` (`poses_pred_batch`
  (1, T, dims, joints) final poses, `template` (1, D)) and `<stem>.png` (every 8th
  frame). With several samples, a number is appended to the stem, and
  `<stem>_overview.png` shows all of them one below the other.

  Args:
    model: the trained model.
    sounds: sound files; their stems must differ.
    output_dir: created if it is missing.
    template, num_samples, seed: see `templates.sources.choose`.
    export: also writes the motion, for example `exports.export`.

  Returns:
    The videos.

  Raises:
    UserError: a sound, the template or the output folder cannot be used.
  """
  chosen = sources.choose(template, model.bank, num_samples=num_samples, seed=seed)
  stems = {path: _stems(output_dir, path, num_samples) for path in sounds}
  _check_no_overwrite(stems)
  # All are read once before anything is written, and again when they are rendered.
  lengths = {path: len(audio_file.load_audio(path)) for path in sounds}
  files.check_writable(output_dir, "--output_dir")
  longest_first = sorted(sounds, key=lengths.__getitem__, reverse=True)
  with tqdm.tqdm(
    total=len(sounds) * num_samples, desc="rendering", unit="video"
  ) as progress:
    for path, wave, renderings in _generate(model, longest_first, chosen, seed):
      for stem, poses_px, used in zip(stems[path], renderings, chosen, strict=True):
        _write(stem, poses_px, wave, used)
        if export:
          export(stem, poses_px)
        progress.update()
      if num_samples > 1:
        labels = ["no template" if t is None else f"template {t.name}" for t in chosen]
        overview = render.motion_overview(renderings, labels)
        render.write_png(output_dir / f"{path.stem}_overview.png", overview)
  return [_mp4(stem) for path in sounds for stem in stems[path]]


def _generate(
  model: GestureModel,
  sounds: list[pathlib.Path],
  chosen: Sequence[sources.Chosen | None],
  seed: int,
) -> Iterator[tuple[pathlib.Path, np.ndarray, list[np.ndarray]]]:
  """Path and samples of each sound, and its poses for each template."""
  codes = [template and template.codes[0] for template in chosen]
  for first in range(0, len(sounds), model.at_once):
    paths = sounds[first : first + model.at_once]
    waves = [audio_file.load_audio(path) for path in paths]
    poses_px = model.generate_many(
      [wave for wave in waves for _ in codes], codes * len(waves), seed
    )
    for i, (path, wave) in enumerate(zip(paths, waves, strict=True)):
      yield path, wave, poses_px[i * len(codes) : (i + 1) * len(codes)]


def _stems(
  output_dir: pathlib.Path, sound: pathlib.Path, count: int
) -> list[pathlib.Path]:
  """Paths of the renderings of a sound, without their endings."""
  if count == 1:
    return [output_dir / sound.stem]
  return [output_dir / f"{sound.stem}_{i}" for i in range(count)]


def _check_no_overwrite(stems: dict[pathlib.Path, list[pathlib.Path]]) -> None:
  """Raises a UserError if a video would overwrite one of the sounds."""
  sounds = {sound.resolve() for sound in stems}
  for stem in (stem for of_sound in stems.values() for stem in of_sound):
    if _mp4(stem).resolve() in sounds:
      raise UserError(
        f"--output_dir={stem.parent}: {_mp4(stem).name} there is one of the sounds and "
        "would be overwritten; choose another folder"
      )


def _mp4(stem: pathlib.Path) -> pathlib.Path:
  return stem.with_name(f"{stem.name}.mp4")


def _write(
  stem: pathlib.Path,
  poses_px: np.ndarray,
  sound: np.ndarray,
  template: sources.Chosen | None,
) -> None:
  """Video, poses and film strip of one rendering."""
  arrays = {"poses_pred_batch": poses_px[None].astype(np.float32)}
  if template:
    arrays["template"] = template.codes
  video.write_video(_mp4(stem), render.pose_frames(poses_px), audio=sound)
  with files.replacing(stem.with_name(stem.name + ".npz")) as temporary:
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
  render.write_png(stem.with_name(stem.name + ".png"), render.film_strip(poses_px))
