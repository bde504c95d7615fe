"""Renders gesture videos for sound files, using a trained run.

    python demo.py --workdir=DIR --audio=FILE|LIST.txt|FOLDER --output_dir=DIR \
      [--step=latest|best|N] [--template=random|normal|INDEX|INDEX:INDEX|FILE.npz] \
      [--num_samples=N] [--seed=N] [--speaker=NAME] [--export=openpose,pose2img,csv]

For each sound: <stem>.mp4, <stem>.npz with the poses, <stem>.png with a film strip.
"""

import functools
import pathlib

from absl import flags

from sdt_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_AUDIO = flags.DEFINE_string(
  "audio", None, "Sound file, .txt list of them, or folder.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Output folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_TEMPLATE = flags.DEFINE_string(
  "template", "random", "random, normal, INDEX, INDEX:INDEX (a blend) or FILE.npz."
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Renderings of each sound.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed for drawing templates.", lower_bound=0)
_SPEAKER = flags.DEFINE_string(
  "speaker", None, "Published speaker to animate; default: the one trained on."
)
_EXPORT = flags.DEFINE_string(
  "export", "", "Formats to export to, comma-separated: openpose, pose2img, csv."
)


def main() -> None:
  from sdt_jax import audio_file

  sounds = audio_file.find_audio_files(_AUDIO.value)

  import sdt_jax
  from sdt_jax import exports
  from sdt_jax.synthesis import demo

  kinds = exports.parse_kinds(_EXPORT.value)
  model = sdt_jax.load(_WORKDIR.value, _STEP.value, _SPEAKER.value)
  videos = demo.render_files(
    model,
    sounds,
    pathlib.Path(_OUTPUT_DIR.value),
    template=_TEMPLATE.value,
    num_samples=_NUM_SAMPLES.value,
    seed=_SEED.value,
    export=functools.partial(exports.export, kinds),
  )
  for video in videos:
    print(f"written: {video}")


def run() -> None:
  """Parses the flags and runs the program."""
  cli.run(main)


if __name__ == "__main__":
  run()
