"""A trained model whose motion for the training clips is a second target of a run."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio, methods, workdir
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Batch, Condition, Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.pose import PoseTable
from sdt_jax.training import runs


def check(config: Config) -> None:
  """Raises a UserError unless `config.teacher` is the workdir of a gesture model."""
  path = config.teacher
  try:
    method = methods.build(workdir.read_config(pathlib.Path(path)), steps_per_epoch=1)
  except UserError as e:
    raise UserError(f"config.teacher={path}: {e}") from e
  if "mel" not in method.inputs:
    raise UserError(
      f"config.teacher={path}: is a {method.title}, which takes no audio; give the "
      "workdir of an s2g, sdt_bp or sdt_vae run"
    )


def load(config: Config, table: PoseTable, clip_ids: list[str]) -> runs.Run:
  """Opens the run in `config.teacher`, which `check` accepts.

  Raises:
    UserError: it cannot be opened, was trained on other clips, or normalises poses in
      another way than `table`.
  """
  path = config.teacher
  run = runs.load(path, "best")
  try:
    workdir.check_clips(run.path, clip_ids)
  except UserError as e:
    raise UserError(f"config.teacher={path}: was trained on other clips ({e})") from e
  same_form = run.config.pose.hierarchical == config.pose.hierarchical
  if not same_form or not (
    np.array_equal(run.table.mean, table.mean)
    and np.array_equal(run.table.std, table.std)
  ):
    raise UserError(
      f"config.teacher={path}: normalises poses in another way; give the same "
      "config.pose.hierarchical and config.dataset.statistics"
    )
  return dataclasses.replace(run, state=run.state.replace(opt_states={}))


def poses(method: Method, state: TrainState, batch: Batch) -> jax.Array:
  """Per-device: the teacher's normalised poses (b, T, dims, joints) for a batch."""
  templates = state.templates() if "template" in method.inputs else None
  condition = Condition(
    mel=audio.mel_spectrogram(batch["audio"], method.mel_rate),
    template=None if templates is None else templates[batch["index"]],
  )
  keys = jnp.broadcast_to(jax.random.key(0), batch["index"].shape)
  return method.sample(state, condition, audio.CLIP_FRAMES, keys)
