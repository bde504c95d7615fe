"""The template of a gesture that one has seen: `--template=like:FILE[@SECONDS]`.

    like:CLIP.npz          a clip of a data pack, or poses as demo.py and eval.py write
    like:VIDEO.mp4@12.5    64 frames of a video from 12.5 s on, through data preparation

A model with templates from a pose VAE takes the VAE's code of these poses. For learnt
templates, the one is optimised with which the model generates these poses from their
sound; files of demo.py and eval.py have no sound, for them from silence.
"""

import importlib
import importlib.util
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from sdt_jax import audio, files, pose, workdir
from sdt_jax import keypoints as kp
from sdt_jax.data import pack
from sdt_jax.errors import UserError
from sdt_jax.methods.train_state import TrainState
from sdt_jax.synthesis import motion
from sdt_jax.training import runs
from sdt_jax.training.runs import Run

FRAMES = audio.CLIP_FRAMES

# Optimised templates: rows of the bank that are tried first, and Adam.
_STARTS = 32
_STEPS = 100
_LEARNING_RATE = 0.05
# Weight of the squared distance from the bank's mean in standard deviations, so that
# the template stays where the model has been trained.
_PRIOR = 0.003


class Shown(NamedTuple):
  """What a template is to be like.

  Attributes:
    poses_px: (64, dims, joints) global poses in the size of the speaker's statistics.
    sound: (samples,) of these frames at 16 kHz; silence if it is not known.
  """

  poses_px: np.ndarray
  sound: np.ndarray


def find(run: Run, what: str) -> np.ndarray:
  """The template (D,) of what FILE[@SECONDS] shows.

  Raises:
    UserError: the file cannot be used, is of another speaker, or shows no upper body;
      or the templates of the model change over time.
  """
  if len(run.method.template_shape or ()) != 1:
    raise UserError(
      f"--template=like:{what}: needs a model with one template for each clip; give "
      "one with config.template.frame_wise=False"
    )
  shown = read(run, what)
  path = workdir.pose_vae_of_templates(run.path, run.config)
  if path is None:
    return optimise(run, shown)
  pose_vae = runs.load_encoder(path, "config.template.pose_vae")
  if not np.array_equal(pose_vae.state.bank["mean"], run.state.bank["mean"]):
    raise UserError(
      f"--template=like:{what}: {path} has been trained on since it gave the templates "
      f"of {run.path}; restore it"
    )
  return encode(pose_vae, shown)


def encode(pose_vae: Run, shown: Shown) -> np.ndarray:
  """The template (D,) of these poses, by the pose VAE that the model was trained on."""
  poses_norm = pose.from_global(shown.poses_px, pose_vae.table)
  mean, _ = pose_vae.method.encode(pose_vae.state, jnp.asarray(poses_norm)[None])
  return np.asarray(mean[0], np.float32)


def read(run: Run, what: str) -> Shown:
  """The poses and the sound in FILE[@SECONDS]."""
  match = re.fullmatch(r"(?s:(.+?))(?:@(\d{1,6}(?:\.\d{0,6})?))?", what)
  assert match  # `what` is not empty
  path, seconds = pathlib.Path(match[1]), float(match[2] or 0)
  if not path.is_file():
    raise UserError(f"--template=like:{what}: no such file; give a clip or a video")
  try:
    if path.suffix != ".npz":
      keypoints, sound = _moment(path, seconds)
      # Data preparation scales every video to the common size of final poses.
      poses_px = pose.from_openpose(keypoints)
      return _shown(poses_px / run.table.scale_factor, sound)
    if "pose" in files.array_names(path):
      if match[2]:
        raise UserError("a clip has no moments; leave out @" + match[2])
      return _clip(run, path)
    return _rendering(run, path, seconds)
  except UserError as e:
    raise UserError(f"--template=like:{what}: {e}") from e


def _shown(poses_px: np.ndarray, sound: np.ndarray) -> Shown:
  return Shown(np.asarray(poses_px, np.float32), audio.fit_to_frames(sound, FRAMES))


def _clip(run: Run, path: pathlib.Path) -> Shown:
  """A clip of a pack."""
  speaker = pack.speaker_of(path)
  if speaker not in (None, run.speaker.name):
    raise UserError(
      f"is a clip of {speaker}, whose body differs from that of {run.speaker.name}; "
      f"give a clip of {run.speaker.name}, or a video"
    )
  clip = pack.read_clip(path, path.name)
  if not clip.detected.all():
    missing = kp.UPPER_BODY.names[int(np.argmin(clip.detected.all(0)))]
    raise UserError(f"{missing} was not found in all frames; give another clip")
  return _shown(clip.poses_px, clip.audio)


def _rendering(run: Run, path: pathlib.Path, seconds: float) -> Shown:
  """Poses written by demo.py or eval.py; their sound is not in the file."""
  poses_px = files.read_arrays(path, "poses_pred_batch")["poses_pred_batch"]
  shape = kp.UPPER_BODY.shape
  fits = poses_px.shape[:1] == (1,) and poses_px.shape[2:] == shape
  if not fits or poses_px.dtype.kind != "f":
    raise UserError(
      f"'poses_pred_batch' has shape {poses_px.shape} and type {poses_px.dtype}, "
      f"expected floats (1, frames, {shape[0]}, {shape[1]})"
    )
  first = round(seconds * audio.FPS)
  poses_px = poses_px[0, first : first + FRAMES]
  if len(poses_px) < FRAMES or not np.isfinite(poses_px).all():
    raise UserError(
      f"has no {FRAMES} frames ({FRAMES / audio.FPS:.1f} s) of finite poses from "
      f"{seconds:g} s on; give an earlier moment"
    )
  silence = np.zeros(audio.num_samples(FRAMES), np.float32)
  return _shown(poses_px / run.table.scale_factor, silence)


def _moment(path: pathlib.Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
  """Keypoints (64, 3, joints) and sound of a video, by data preparation."""
  # In an installed package it is part of it.
  name = "data_prep" if importlib.util.find_spec("data_prep") else "sdt_jax.data_prep"
  return importlib.import_module(f"{name}.moment").read(path, seconds)


def optimise(run: Run, shown: Shown) -> np.ndarray:
  """The template (D,) with which the model comes nearest to these poses.

  Tries rows of the bank, and improves the best one by gradient descent.
  """
  bank = np.asarray(run.method.bank(run.state))
  mean, std = bank.mean(0), bank.std(0) + 1e-6
  truth = pose.from_global(shown.poses_px, run.table)

  def loss_fn(code: jax.Array, state: TrainState) -> jax.Array:
    batch = {"audio": jnp.asarray(shown.sound)[None], "template": code[None]}
    poses = motion.sample(run.method, state, batch)[0]
    prior = jnp.mean(jnp.square((code - mean) / std))
    return jnp.mean(jnp.abs(poses - truth)) + _PRIOR * prior

  loss_of, loss_and_grad = jax.jit(loss_fn), jax.jit(jax.value_and_grad(loss_fn))
  rows = np.random.default_rng(0).permutation(len(bank))[:_STARTS]
  with tqdm.tqdm(total=len(rows) + _STEPS, desc="template", unit="step") as progress:
    losses = []
    for row in rows:
      losses.append(float(loss_of(bank[row], run.state)))
      progress.update()
    code = jnp.asarray(bank[rows[int(np.argmin(losses))]])
    optimizer = optax.adam(
      optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS, alpha=0.05)
    )
    opt_state = optimizer.init(code)
    best, lowest = code, min(losses)
    for _ in range(_STEPS):
      loss, grad = loss_and_grad(code, run.state)
      if float(loss) < lowest:
        best, lowest = code, float(loss)
      # Steps are in standard deviations of the bank.
      step, opt_state = optimizer.update(grad * std, opt_state)
      code = optax.apply_updates(code, optax.tree.mul(std, step))
      progress.update()
      progress.set_postfix(loss=f"{lowest:.3f}")
  return np.asarray(best, np.float32)
