"""The videos that a training run leaves: prediction beside truth, with sound."""

import pathlib

from sdt_jax.synthesis import render, video
from sdt_jax.training.loop import Sample


def write_sample(folder: pathlib.Path, sample: Sample) -> None:
  """Writes `<folder>/<sample.name>.mp4`."""
  folder.mkdir(parents=True, exist_ok=True)
  frames = render.side_by_side_frames(sample.poses_px, sample.truth_px)
  video.write_video(folder / f"{sample.name}.mp4", frames, audio=sample.audio)
