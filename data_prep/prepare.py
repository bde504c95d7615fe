"""Runs all stages, which turn videos into a speaker to train on.

    python -m data_prep.prepare --videos=DIR --speaker=NAME --root=DATA
      [--keypoints=mediapipe|openpose --openpose_dir=DIR] [--workers=N]
      [--split_by=time|video] [--seed=N] [--skip_bad_videos] [--skip_frames=N]
      [--save_frames]

The thresholds of the rules are flags, too: --help lists them; lengths are in shoulder
widths, and inf turns a rule off. The program can be interrupted and restarted at any
time. On two cores, MediaPipe processes videos of 30 frames/s in real time; everything
else is several times faster.
"""

from . import (
  clean,
  clips,
  frames,
  keypoints,
  report,
  rescale,
  split,
  statistics,
  transcode,
)
from .options import Options, command
from .workspace import pack_folder


def run(options: Options) -> None:
  """Runs all stages; the report is written even if the split fails.

  Raises:
    UserError: a stage failed.
  """
  saving = (frames,) if options.save_frames else ()
  for stage in (transcode, *saving, keypoints, clean, rescale, clips):
    stage.run(options)
  try:
    split.run(options)
    statistics.run(options)
  finally:
    report.run(options)
  print(
    f"look at {pack_folder(options) / report.FILE_NAME}, then train with\n"
    "  python -m sdt_jax.programs.train --config=sdt_bp "
    f"--config.dataset.root={options.root} --config.dataset.speaker={options.speaker}"
  )


def main() -> None:
  """Entry point of `sdt-prepare`."""
  command(run)


if __name__ == "__main__":
  main()
