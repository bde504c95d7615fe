"""Renders gesture videos for sound files, using a trained run.

    python demo.py --workdir=DIR --audio=FILE|LIST.txt|FOLDER --output_dir=DIR \
      [--step=latest|best|N] [--template=TEMPLATE] [--direction=NAME:SHIFT,...] \
      [--num_samples=N] [--seed=N] [--speaker=NAME] [--generation=windowed|whole] \
      [--outputs=mp4,npz,png] [--size=1280x720] [--scale=FLOAT] \
      [--export=openpose,pose2img,csv]

    python demo.py --workdir=POSE_VAE --directions=FILE.npz --output_dir=DIR

The second decodes directions in the space of templates by the pose VAE alone, without
sound, to film strips; of the other flags it reads --step.

For each sound: <stem>.mp4, <stem>.npz with the poses and the template, <stem>.png with
a film strip; with several renderings also <stem>_overview.mp4 and .png, which show all.

TEMPLATE is random, normal, a row of the bank (7), a blend (7:12 or 7:12:0.3), a file of
templates (FILE.npz), a timeline (FILE.json), cluster:NUMBER, like:FILE, sequence or
auto; docs/templates.md explains them.
"""

import functools
import pathlib
from typing import Any, cast

from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_AUDIO = flags.DEFINE_string("audio", None, "Sound file, .txt list of them, or folder.")
_DIRECTIONS = flags.DEFINE_string(
  "directions", None, "With the workdir of a pose VAE: file of directions to decode."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Output folder.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_TEMPLATE = flags.DEFINE_string("template", "random", "The template, see above.")
_DIRECTION = flags.DEFINE_string(
  "direction", "", "Moves the template, for example hands_high:+1.5,energy:-1."
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Renderings of each sound.")
_GENERATION = flags.DEFINE_enum(
  "generation",
  "windowed",
  ["windowed", "whole"],
  "In windows as long as a training clip, or in one pass, as the original does.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed for drawing templates.", lower_bound=0)
_SPEAKER = flags.DEFINE_string(
  "speaker", None, "Published speaker to animate; default: the one trained on."
)
_OUTPUTS = flags.DEFINE_string(
  "outputs", "mp4,npz,png", "What to write for each rendering, comma-separated."
)
_SIZE = flags.DEFINE_string(
  "size", "1280x720", "Width and height of the videos in pixels."
)
_SCALE = flags.DEFINE_float(
  "scale",
  None,
  "Video pixels per pixel of the poses; default: HEIGHT / 720, or less if the motion "
  "needs room.",
)
_EXPORT = flags.DEFINE_string(
  "export", "", "Formats to export to, comma-separated: openpose, pose2img, csv."
)


def main() -> None:
  if _AUDIO.value is not None and _DIRECTIONS.value is None:
    written = _render(_AUDIO.value)
  elif _DIRECTIONS.value is not None and _AUDIO.value is None:
    written = _decode(_DIRECTIONS.value)
  else:
    raise UserError("--audio, --directions: give one of them")
  for path in written:
    print(f"written: {path}")


def _decode(file: str) -> list[pathlib.Path]:
  from sdt_jax.templates import directions

  return directions.decode(_WORKDIR.value, file, _OUTPUT_DIR.value, _STEP.value)


def _render(audio: str) -> list[pathlib.Path]:
  from sdt_jax import audio_file

  sounds = audio_file.find_audio_files(audio)

  import sdt_jax
  from sdt_jax import exports
  from sdt_jax.synthesis import demo

  kinds = exports.parse_kinds(_EXPORT.value)
  outputs, size = demo.parse_outputs(_OUTPUTS.value), demo.parse_size(_SIZE.value)
  demo.check_scale(_SCALE.value)
  model = sdt_jax.load(_WORKDIR.value, _STEP.value, _SPEAKER.value)
  return demo.render_files(
    model,
    sounds,
    pathlib.Path(_OUTPUT_DIR.value),
    template=_TEMPLATE.value,
    direction=_DIRECTION.value,
    num_samples=_NUM_SAMPLES.value,
    seed=_SEED.value,
    generation=cast(Any, _GENERATION.value),
    outputs=outputs,
    size=size,
    scale=_SCALE.value,
    export=functools.partial(exports.export, kinds),
  )


def run() -> None:
  """Parses the flags and runs the program."""
  cli.run(main)


if __name__ == "__main__":
  run()
