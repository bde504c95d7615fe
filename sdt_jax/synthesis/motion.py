"""The path from sound to motion, shared by all programs:

    mel spectrogram -> Method.sample (+ template) -> denormalise -> global pose -> scale

Demo, evaluation, validation, sample videos and exports generate through `sample`.
"""

import jax
import jax.numpy as jnp

from sdt_jax import audio, pose
from sdt_jax.methods.base import Batch, Condition, Method
from sdt_jax.methods.train_state import TrainState


def sample(method: Method, state: TrainState, batch: Batch) -> jax.Array:
  """Generates the poses of a batch on one device.

  Args:
    method: what was trained.
    state: the trained state.
    batch: the sound as `audio` (b, samples), as `reflected` (see
      `audio.mel_of_reflected`), or as `mel` (b, mels, M); or, for a method that
      reconstructs, `poses` (b, T, dims, joints), normalised. Optional: `template`
      (b, ...); `lengths` (b,), see `Condition`; `draw` (b, 2) int32, seed and number
      of each row, from which its random key is derived; without it all rows share the
      key of seed 0.

  Returns:
    (b, T, dims, joints) normalised poses.
  """
  mel = poses = None
  if "mel" in method.inputs:
    mel = _mel(batch, method.mel_rate)
    batch_size = mel.shape[0]
    num_frames = audio.num_frames_under_mel(mel.shape[-1], method.mel_rate)
  else:
    poses = batch["poses"]
    batch_size, num_frames = poses.shape[:2]
  condition = Condition(
    mel=mel, template=batch.get("template"), poses=poses, lengths=batch.get("lengths")
  )
  keys = _keys(batch.get("draw"), batch_size)
  return method.sample(state, condition, num_frames, keys)


def sample_px(
  method: Method, table: pose.PoseTable, state: TrainState, batch: Batch
) -> jax.Array:
  """`sample`, as final poses in pixels; `table` is of the speaker whose body moves."""
  return pose.to_final(sample(method, state, batch), table)


def _mel(batch: Batch, rate: int) -> jax.Array:
  if "mel" in batch:
    return batch["mel"]
  if "reflected" in batch:
    return audio.mel_of_reflected(batch["reflected"], rate)
  return audio.mel_spectrogram(batch["audio"], rate)


def _keys(draw: jax.Array | None, batch_size: int) -> jax.Array:
  if draw is None:
    return jnp.broadcast_to(jax.random.key(0), (batch_size,))
  return jax.vmap(lambda d: jax.random.fold_in(jax.random.key(d[0]), d[1]))(draw)
