"""Sound files -> videos, poses and film strips."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tqdm

from sdt_jax import audio, audio_file, files
from sdt_jax.errors import UserError
from sdt_jax.synthesis import export, render, templates, video
from sdt_jax.synthesis.generate import GestureModel


def render_files(
  model: GestureModel,
  sounds: list[pathlib.Path],
  output_dir: pathlib.Path,
  *,
  template: str = "random",
  num_samples: int = 1,
  seed: int = 0,
  exports: Sequence[str] = (),
) -> list[pathlib.Path]:
  """Renders every sound, `num_samples` times.

  Writes `<stem>.mp4` (with the sound), `<stem>.npz` (`poses_pred_batch` (1, T, 2, 121)
  final poses, `template` (1, D)) and `<stem>.png` (every 8th frame); the stem gets a
  number where there are several samples, and `<stem>_overview.png` shows them below one
  another. `exports` are kinds of `export.export`.

  Returns:
    The videos.

  Raises:
    UserError: a sound, the template or the output folder cannot be used.
  """
  if num_samples < 1:
    raise UserError(f"--num_samples={num_samples}: give at least 1")
  chosen = templates.choose(template, model.bank, num_samples, seed)
  stems = {path: _stems(output_dir, path, num_samples) for path in sounds}
  _check_sounds_stay(stems)
  waves = {path: audio_file.load_audio(path) for path in sounds}
  files.check_writable(output_dir, "--output_dir")
  videos = []
  progress = tqdm.tqdm(total=len(sounds) * num_samples, desc="rendering", unit="video")
  for path in sounds:
    renderings = []
    for stem, used in zip(stems[path], chosen, strict=True):
      code = "random" if used is None else used.code
      poses_px = model.generate(waves[path], audio.SAMPLE_RATE, code)
      videos.append(_write(stem, poses_px, waves[path], used))
      export.export(exports, stem, poses_px)
      renderings.append(poses_px)
      progress.update()
    if num_samples > 1:
      labels = ["no template" if t is None else f"template {t.name}" for t in chosen]
      overview = render.motion_overview(renderings, labels)
      render.write_png(output_dir / f"{path.stem}_overview.png", overview)
  progress.close()
  return videos


def _stems(
  output_dir: pathlib.Path, sound: pathlib.Path, count: int
) -> list[pathlib.Path]:
  """Paths of the renderings of a sound, without their endings."""
  if count == 1:
    return [output_dir / sound.stem]
  return [output_dir / f"{sound.stem}_{i}" for i in range(count)]


def _check_sounds_stay(stems: dict[pathlib.Path, list[pathlib.Path]]) -> None:
  """Raises a UserError if a video would take the place of one that gives the sound."""
  sounds = {sound.resolve() for sound in stems}
  for stem in (stem for of_sound in stems.values() for stem in of_sound):
    video_path = stem.with_name(f"{stem.name}.mp4")
    if video_path.resolve() in sounds:
      raise UserError(
        f"--output_dir={stem.parent}: {video_path.name} there is one of the sounds and "
        "would be overwritten; choose another folder"
      )


def _write(
  stem: pathlib.Path,
  poses_px: np.ndarray,
  sound: np.ndarray,
  template: templates.Template | None,
) -> pathlib.Path:
  """Video, poses and film strip of one rendering; returns the video."""
  arrays = {"poses_pred_batch": poses_px[None].astype(np.float32)}
  if template:
    arrays["template"] = template.code[None]
  mp4 = stem.with_name(stem.name + ".mp4")
  video.write_video(mp4, render.pose_frames(poses_px), audio=sound)
  with files.replacing(stem.with_name(stem.name + ".npz")) as temporary:
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
  render.write_png(stem.with_name(stem.name + ".png"), render.film_strip(poses_px))
  return mp4
