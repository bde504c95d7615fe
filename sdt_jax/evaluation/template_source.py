"""Where the templates of an evaluation come from.

random    rows of the bank, drawn by the seed
normal    standard normal
encoder   the pose VAE's mean of the true poses
7         row 7 of the bank
"""

import re

import numpy as np

from sdt_jax.errors import UserError
from sdt_jax.evaluation import scoring
from sdt_jax.evaluation.loop import draw_templates
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.runs import Run


def choose(
  run: Run,
  spec: str,
  num_samples: int,
  seed: int,
  truth_px: np.ndarray,
  pose_vae: Run | None,
) -> list[np.ndarray | None]:
  """For each of `num_samples` renderings a template of each clip.

  Args:
    run: the model.
    spec: see above.
    num_samples: how many renderings.
    seed: of the first rendering's draws; the next one counts on.
    truth_px: (N, T, 2, 121) final poses of the clips, for "encoder".
    pose_vae: for "encoder".

  Returns:
    Arrays (N, D) or (N, T, D); None for a model without templates.

  Raises:
    UserError: the spec is unknown or does not fit the model.
  """
  if num_samples < 1:
    raise UserError(f"--num_samples={num_samples}: give at least 1")
  bank = None if isinstance(run.experiment, Pose2Pose) else run.state.templates()
  if bank is None:
    if spec != "random":
      raise UserError(f"--template={spec}: this model has no templates; leave it out")
    return [None] * num_samples
  size, seeds = len(truth_px), range(seed, seed + num_samples)
  if spec == "random":
    return [draw_templates(run.state, size, s) for s in seeds]
  if spec == "normal":
    shape = (size, *bank.shape[1:])
    return [_standard_normal(shape, s) for s in seeds]
  if spec == "encoder":
    return [_encoded(run, truth_px, pose_vae)] * num_samples
  if re.fullmatch(r"\d{1,9}", spec) and int(spec) < len(bank):
    return [np.repeat(np.asarray(bank)[[int(spec)]], size, axis=0)] * num_samples
  raise UserError(
    f"--template={spec}: expected random, normal, encoder or an index from 0 to "
    f"{len(bank) - 1}"
  )


def _standard_normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _encoded(run: Run, truth_px: np.ndarray, pose_vae: Run | None) -> np.ndarray:
  size = run.config.template.size
  if pose_vae is None or pose_vae.config.template.size != size:
    raise UserError(
      "--template=encoder: needs --pose_vae=<workdir> of a pose VAE whose templates "
      f"have {size} dimensions"
    )
  scale = run.speaker.table(run.config.pose.hierarchical).scale_factor
  return scoring.encoder(pose_vae, scale)(truth_px)[0]
