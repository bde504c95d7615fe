"""From a sound to the motion of a trained speaker."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio, audio_file, pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis import templates
from sdt_jax.training import parallel, runs, voice2pose
from sdt_jax.training.voice2pose import Voice2Pose


def load(
  workdir: str | pathlib.Path, step: str | int = "latest", speaker: str | None = None
) -> "GestureModel":
  """Opens a trained run.

  Args:
    workdir: folder of the run.
    step: "latest", "best" or the number of a step.
    speaker: a published speaker whose body to move instead of the trained one's.

  Raises:
    UserError: the folder is not the workdir of a gesture model, there is no such
      checkpoint, or no such speaker.
  """
  run = runs.load(workdir, str(step))
  if not isinstance(run.experiment, Voice2Pose):
    raise UserError(
      f"{workdir}: holds a pose VAE, which knows no sound; give the workdir of an "
      "s2g, sdt_bp or sdt_vae run"
    )
  body = speakers.published(speaker) if speaker else run.speaker
  return GestureModel(run, run.experiment, body)


class GestureModel:
  """A trained gesture generator with the templates and the body of its speaker."""

  def __init__(self, run: runs.Run, experiment: Voice2Pose, body: speakers.Speaker):
    self.step = run.step
    self._hierarchical = run.config.pose.hierarchical
    self._table = body.table(self._hierarchical)
    # Generation has no use for optimisers, and for one device only.
    self._state = parallel.on_one_device(run.state.replace(opt_states={}))
    bank = run.state.templates()
    self.bank = None if bank is None else np.asarray(bank)
    """(N, D) template of each training clip (line i of clips.txt), or None."""
    self._predict = jax.jit(
      functools.partial(voice2pose.predict, experiment), static_argnames="num_frames"
    )

  def generate(
    self,
    sound: np.ndarray,
    sample_rate: int,
    template: int | str | np.ndarray = "random",
    seed: int = 0,
  ) -> np.ndarray:
    """Poses for a sound of any length.

    Args:
      sound: (samples,) mono, floats in [-1, 1] or integers.
      sample_rate: in Hz.
      template: row of the bank, "random", any other `templates.choose` spec, or the
        template itself, (D,) or (T, D). A model without templates takes "random".
      seed: of "random".

    Returns:
      (T, 2, 121) final poses: pixels relative to the neck, 15 frames/s.

    Raises:
      UserError: the sound or the template cannot be used.
    """
    sound = audio_file.to_model_rate(sound, sample_rate)
    if isinstance(template, np.ndarray | jax.Array):
      code = templates.check(np.asarray(template), self.bank)
    else:
      chosen = templates.choose(str(template), self.bank, 1, seed)[0]
      code = None if chosen is None else chosen.code
    return self._generate(sound, code)

  def _generate(self, sound: np.ndarray, code: np.ndarray | None) -> np.ndarray:
    num_frames = audio.num_frames(len(sound))
    # A sound shorter than a training clip is followed by silence.
    padded_frames = max(num_frames, audio.CLIP_FRAMES)
    sound = audio.fit_to_frames(sound, padded_frames)
    if code is not None:
      code = _fit_template(code, num_frames, padded_frames)
    mel = audio.mel_spectrogram(jnp.asarray(sound[None]))
    poses_norm = self._predict(self._state, mel, code, num_frames=padded_frames)
    poses_px = pose.to_final(np.asarray(poses_norm[0]), self._table, self._hierarchical)
    return poses_px[:num_frames].astype(np.float32)


def _fit_template(code: np.ndarray, num_frames: int, padded_frames: int) -> np.ndarray:
  """(D,) or (T, D) -> (1, D) or (1, padded_frames, D); other lengths are stretched."""
  if code.ndim == 1:
    return code[None]
  at = np.linspace(0, len(code) - 1, num_frames)
  stretched = np.stack(
    [np.interp(at, np.arange(len(code)), c) for c in code.T], axis=-1
  )
  padding = [(0, padded_frames - num_frames), (0, 0)]
  return np.pad(stretched, padding, mode="edge").astype(np.float32)[None]
