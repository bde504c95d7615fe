"""How near `--template=like:CLIP` comes to its clip, beside other templates.

    python -m benchmarks.likeness --workdir=DIR [--num_clips=8]

For dev clips, generated from their sound: mean distance in pixels from the true poses.
"""

import numpy as np
from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 8, "Number of dev clips.", lower_bound=1)

_RANDOM = 16


def main() -> None:
  from sdt_jax import workdir
  from sdt_jax.data import pipeline
  from sdt_jax.synthesis import generate
  from sdt_jax.templates import like
  from sdt_jax.training import runs, setup

  run = generate.load_speaking(_WORKDIR.value, "latest")
  model = generate.GestureModel(run, run.speaker)
  if model.bank is None:
    raise UserError(f"--workdir={_WORKDIR.value}: this model has no templates")
  split = pipeline.Split(setup.build_data(run.config).sources["dev"], run.table)
  rows = pipeline.spread_rows(len(split), _NUM_CLIPS.value)
  truth_px = split.poses_px(rows)
  batch = split.read(rows)
  pose_vae = workdir.pose_vae_of_templates(run.path, run.config)
  encoder = pose_vae and runs.load_encoder(pose_vae, "--workdir")
  errors: dict[str, list[float]] = {}
  for i, sound in enumerate(batch["audio"]):

    def distance(code, sound=sound, truth=truth_px[i]) -> float:
      poses_px = model.generate_many([sound], [code])[0]
      return float(np.linalg.norm(poses_px - truth, axis=1).mean())

    shown = like.Shown(truth_px[i] / run.table.scale_factor, sound)
    code = like.encode(encoder, shown) if encoder else like.optimise(run, shown)
    drawn = [distance(model.choose_template("random", seed)) for seed in range(_RANDOM)]
    for name, error in (
      ("like the clip", distance(code)),
      (f"random, mean of {_RANDOM}", np.mean(drawn)),
      (f"random, best of {_RANDOM}", min(drawn)),
      ("mean of the bank", distance(model.bank.mean(0))),
    ):
      errors.setdefault(name, []).append(float(error))
  print(f"{len(rows)} dev clips; mean distance of a joint from the truth in pixels")
  for name, values in errors.items():
    print(
      f"{name:<20} {np.mean(values):7.1f}  ({min(values):.1f} to {max(values):.1f})"
    )


if __name__ == "__main__":
  cli.run(main)
