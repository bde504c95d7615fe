"""From a sound to the motion of a trained speaker."""

import functools
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from sdt_jax import audio, audio_file, pose, speakers
from sdt_jax.errors import UserError
from sdt_jax.synthesis import templates
from sdt_jax.training import parallel, runs, voice2pose
from sdt_jax.training.train_state import TrainState
from sdt_jax.training.voice2pose import Batch, Voice2Pose


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
    # Generation has no use for optimisers.
    self._state = parallel.replicate(run.state.replace(opt_states={}))
    bank = run.state.templates()
    self.bank = None if bank is None else np.asarray(bank)
    """(N, D) template of each training clip (line i of clips.txt), or None."""
    self.at_once = parallel.round_up(1)
    """So many sounds are generated at a time: one on each device."""
    self._predict = parallel.map_clips(functools.partial(_predict, experiment), "jit")

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
    return self.generate_many([sound], [code])[0]

  def generate_many(
    self, sounds: Sequence[np.ndarray], codes: Sequence[np.ndarray | None]
  ) -> list[np.ndarray]:
    """Poses for several sounds, which may differ in length, `at_once` at a time.

    Args:
      sounds: each (samples,), as `audio_file.to_model_rate` gives it.
      codes: the template of each: all (D,), or all (T, D) with any T; None for a model
        without templates.

    Returns:
      (T, 2, 121) final poses of each, as `generate` gives them.
    """
    order = sorted(range(len(sounds)), key=lambda i: len(sounds[i]))
    poses_px: list = [None] * len(sounds)
    for first in range(0, len(order), self.at_once):
      rows = order[first : first + self.at_once]
      batch = _batch([sounds[i] for i in rows], [codes[i] for i in rows], self.at_once)
      poses_norm = np.asarray(self._predict(self._state, parallel.split(batch)))
      for i, row in zip(rows, poses_norm, strict=False):
        row = row[: audio.num_frames(len(sounds[i]))]
        row = pose.to_final(row, self._table, self._hierarchical)
        poses_px[i] = row.astype(np.float32)
    return poses_px


def _predict(experiment: Voice2Pose, state: TrainState, batch: Batch) -> jax.Array:
  mel = audio.mel_of_reflected(batch["reflected"])
  num_frames = audio.num_frames_under_mel(mel.shape[-1])
  template = batch.get("template")
  return voice2pose.predict(
    experiment, state, mel, template, num_frames, batch["lengths"]
  )


def bucket(num_frames: int) -> int:
  """The next of 64, 80, 96, 112, 128, 160, 192, ...: four lengths in an octave.

  Sounds are padded to these, so that few programs are compiled for sounds of any
  length; the network is told the true lengths.
  """
  num_frames = max(num_frames, audio.CLIP_FRAMES)
  step = 2 ** ((num_frames - 1).bit_length() - 3)
  return -(-num_frames // step) * step


def _batch(
  sounds: list[np.ndarray], codes: list[np.ndarray | None], size: int
) -> dict[str, np.ndarray]:
  """`size` rows of one length; the last row is repeated where sounds are too few."""
  frames = bucket(max(audio.num_frames(len(sound)) for sound in sounds))
  rows = [_row(*pair, frames) for pair in zip(sounds, codes, strict=True)]
  rows += rows[-1:] * (size - len(rows))
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(
  sound: np.ndarray, code: np.ndarray | None, padded_frames: int
) -> dict[str, np.ndarray]:
  num_frames = audio.num_frames(len(sound))
  # A sound shorter than a training clip is followed by silence that counts.
  length = max(num_frames, audio.CLIP_FRAMES)
  reflected = np.pad(audio.fit_to_frames(sound, length), audio.SIDE, mode="reflect")
  padded_samples = audio.num_samples(padded_frames) + 2 * audio.SIDE
  row = {
    "reflected": np.pad(reflected, (0, padded_samples - len(reflected))),
    "lengths": np.int32(length),
  }
  if code is not None:
    row["template"] = _fit_template(code, num_frames, padded_frames)
  return row


def _fit_template(code: np.ndarray, num_frames: int, padded_frames: int) -> np.ndarray:
  """(D,) stays; (T, D) -> (padded_frames, D), stretched over the first `num_frames`."""
  if code.ndim == 1:
    return code
  at = np.linspace(0, len(code) - 1, num_frames)
  stretched = np.stack(
    [np.interp(at, np.arange(len(code)), c) for c in code.T], axis=-1
  )
  padding = [(0, padded_frames - num_frames), (0, 0)]
  return np.pad(stretched, padding, mode="edge").astype(np.float32)
