"""Motion of a trained speaker for sounds of any length."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from sdt_jax import audio, audio_file, speakers
from sdt_jax.errors import UserError
from sdt_jax.methods.train_state import TrainState
from sdt_jax.synthesis import causal, motion, windows
from sdt_jax.synthesis.stream import Stream
from sdt_jax.templates import abilities, keyframes, sources
from sdt_jax.templates.director import Director
from sdt_jax.training import parallel, runs

Generation = Literal["windowed", "whole"]

Template = int | str | Mapping[str, Any] | np.ndarray | Director
"""A row of the bank; any other spec of `templates.sources`; a timeline as in its file
(see `templates.keyframes`); the template itself, (D,) or (T, D); or what chooses it."""

_AT_ONCE = 8
"""Number of windows that are generated together on accelerators."""

# A long sound is fed in pieces, because a stream copies what it is fed.
_PIECE = audio.num_samples(_AT_ONCE * windows.WHOLE_SOUND.hop)


def load(
  workdir: str | pathlib.Path, step: str | int = "latest", speaker: str | None = None
) -> "GestureModel":
  """Opens a trained run.

  Args:
    workdir: folder of the run.
    step: "latest", "best" or the number of a step.
    speaker: a published speaker to animate instead of the one in the training data.

  Raises:
    UserError: the folder is not the workdir of a gesture model, or there is no such
      checkpoint or speaker.
  """
  run = load_speaking(workdir, str(step))
  return GestureModel(run, speakers.published(speaker) if speaker else run.speaker)


def load_speaking(workdir: str | pathlib.Path, step: str) -> runs.Run:
  """`runs.load`, which also raises a UserError if the run takes no audio."""
  run = runs.load(workdir, step)
  if "mel" not in run.method.inputs:
    raise UserError(
      f"{workdir}: is a {run.method.title}, which generates no motion from "
      "audio; give the workdir of an s2g, sdt_bp or sdt_vae run"
    )
  return run


class GestureModel:
  """A trained gesture model with the templates and the body of its speaker."""

  def __init__(self, run: runs.Run, body: speakers.Speaker):
    self.step = run.step
    # Generation does not need the optimizers.
    self._state = parallel.replicate(run.state.replace(opt_states={}))
    self.bank = run.method.bank(run.state)
    """(N, D) template of each training clip (line i of clips.txt), or None."""
    self.at_once = parallel.round_up(1)
    """Number of sounds that are generated at a time: one per device."""
    # A CPU core is busy with one window; a batch only exceeds its cache.
    self._windows_at_once = parallel.round_up(1 if parallel.is_cpu() else _AT_ONCE)
    table = body.table(run.config.pose.hierarchical)
    self._sample_px = parallel.map_clips(
      functools.partial(motion.sample_px, run.method, table), "jit"
    )
    self._method = run.method
    self.abilities = abilities.of(run)
    """What choosing templates needs of the model, see `templates.sources`."""
    self._advance_px = jax.jit(functools.partial(causal.advance_px, run.method, table))
    """On one device: a stream is one sequence."""

  def generate(
    self,
    sound: np.ndarray,
    sample_rate: int,
    template: Template = "random",
    seed: int = 0,
    generation: Generation = "windowed",
  ) -> np.ndarray:
    """Poses for a sound of any length.

    Args:
      sound: (samples,) mono, floats in [-1, 1] or integers.
      sample_rate: in Hz.
      template: see `Template`. A model without templates takes "random".
      seed: for a random template, and for a method that draws random numbers.
      generation: "windowed", or "whole": in one pass, as the original does, which is
        worse the longer the sound is (docs/generation.md).

    Returns:
      (T, dims, joints) final poses: pixels relative to the neck, 15 frames/s.

    Raises:
      UserError: the sound or the template cannot be used.
    """
    sound = audio_file.to_model_rate(sound, sample_rate)
    code = self.choose_template(template, seed)
    return self.generate_many([sound], [code], seed, generation)[0]

  def stream(
    self,
    template: Template = "random",
    seed: int = 0,
    look_ahead: int = 2,
    hop: int = 2,
  ) -> Stream:
    """Generates while the sound comes in, in pieces of any size; see `stream.Stream`.

    Args:
      template, seed: see `generate`.
      look_ahead: frames of sound that are heard after a frame before it is generated. A
        causal model has its own, which this does not change.
      hop: frames between windows. A frame is final at most hop + look_ahead frames
        after its sound; each window takes the computing time of a clip.

    Raises:
      UserError: the template cannot be used, or a number of frames is not possible.
    """
    code = self.choose_template(template, seed)
    schedule = windows.live(look_ahead, hop)
    if look_ahead < 0 or hop < 1 or schedule.latency >= windows.FRAMES:
      raise UserError(
        f"look_ahead={look_ahead}, hop={hop}: expected at least 0 and 1, and at most "
        f"{windows.FRAMES - schedule.fade} together"
      )
    return self._stream(schedule, code, seed, 0)

  @functools.cached_property
  def _on_one_device(self) -> TrainState:
    return parallel.on_one_device(self._state)

  @functools.cached_property
  def _no_past(self) -> Any:
    return causal.no_past(self._method, self._state)

  def _stream(
    self,
    schedule: windows.Schedule,
    code: np.ndarray | Director | None,
    seed: int,
    number: int,
  ) -> Stream:
    if self._method.look_ahead is not None:
      return causal.CausalStream(
        functools.partial(self._advance_px, self._on_one_device),
        self._no_past,
        self._method.look_ahead,
        self._method.mel_rate,
        code,
      )

    def generate(sounds: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
      count = len(sounds)
      size = self.at_once if count == 1 else self._windows_at_once
      draw = np.array([(seed % 2**32, number)] * count, np.uint32)
      batch = {"audio": sounds, "draw": draw}
      if codes is not None:
        batch["template"] = codes
      rows = np.minimum(np.arange(size), count - 1)
      padded = parallel.split({name: array[rows] for name, array in batch.items()})
      poses_px = np.asarray(self._sample_px(self._state, padded))
      return poses_px[:count].astype(np.float32)

    return windows.WindowedStream(generate, schedule, code, self._windows_at_once)

  def choose_template(
    self, template: Template, seed: int = 0
  ) -> np.ndarray | Director | None:
    """The template (D,) or (T, D) that `generate` would use, or what chooses it.

    None for a model without templates.

    Raises:
      UserError: the template cannot be used.
    """
    if isinstance(template, np.ndarray | jax.Array):
      return sources.check_array(np.asarray(template), self.bank)
    if isinstance(template, Director):
      if self.bank is None:
        raise UserError("template: this model has no templates; leave it out")
      return template
    [chosen] = sources.choose(
      keyframes.parse(template) if isinstance(template, Mapping) else str(template),
      self.bank,
      seed=seed,
      abilities=self.abilities,
    )
    if chosen is None or chosen.codes is None:
      return chosen and chosen.director()
    return chosen.codes[0]

  def generate_many(
    self,
    sounds: Sequence[np.ndarray],
    codes: Sequence[np.ndarray | Director | None],
    seed: int = 0,
    generation: Generation = "windowed",
  ) -> list[np.ndarray]:
    """Poses for several sounds, which may differ in length.

    Args:
      sounds: each (samples,), as returned by `audio_file.to_model_rate`.
      codes: the template of each: all (D,), or all (T, D) with any T, or what chooses
        it; None for a model without templates.
      seed: for a method that draws random numbers; each sound draws its own.
      generation: see `generate`.

    Returns:
      (T, dims, joints) final poses of each, as returned by `generate`.
    """
    codes = [
      code.direct(sound) if isinstance(code, Director) else code
      for code, sound in zip(codes, sounds, strict=True)
    ]
    if generation == "whole":
      return self._generate_whole(sounds, codes, seed)
    poses_px = []
    for number, (sound, code) in enumerate(zip(sounds, codes, strict=True)):
      if code is not None and code.ndim == 2:
        num_frames = audio.num_frames(len(sound))
        code = _fit_template(code, num_frames, num_frames)
      stream = self._stream(windows.WHOLE_SOUND, code, seed, number)
      pieces = [
        stream.feed(sound[i : i + _PIECE]) for i in range(0, len(sound), _PIECE)
      ]
      poses_px.append(np.concatenate([*pieces, stream.finish()]))
    return poses_px

  def _generate_whole(
    self, sounds: Sequence[np.ndarray], codes: Sequence[np.ndarray | None], seed: int
  ) -> list[np.ndarray]:
    """`generate_many` in one pass over each sound, `at_once` sounds at a time."""
    order = sorted(range(len(sounds)), key=lambda i: len(sounds[i]))
    poses_px: list = [None] * len(sounds)
    for first in range(0, len(order), self.at_once):
      rows = order[first : first + self.at_once]
      batch = _batch([sounds[i] for i in rows], [codes[i] for i in rows], self.at_once)
      numbers = np.resize(rows, self.at_once)
      batch["draw"] = np.array([(seed % 2**32, i) for i in numbers], np.uint32)
      generated = np.asarray(self._sample_px(self._state, parallel.split(batch)))
      for i, row in zip(rows, generated, strict=False):
        poses_px[i] = row[: audio.num_frames(len(sounds[i]))].astype(np.float32)
    return poses_px


def bucket(num_frames: int) -> int:
  """The next of 64, 80, 96, 112, 128, 160, 192, ...: four lengths per octave.

  Sounds are padded to these, so that few programs are compiled for sounds of any
  length; the network is given the true lengths.
  """
  num_frames = max(num_frames, audio.CLIP_FRAMES)
  step = 2 ** ((num_frames - 1).bit_length() - 3)
  return -(-num_frames // step) * step


def _batch(
  sounds: list[np.ndarray], codes: list[np.ndarray | None], size: int
) -> dict[str, np.ndarray]:
  """`size` rows of the same length; missing rows repeat the last one."""
  frames = bucket(max(audio.num_frames(len(sound)) for sound in sounds))
  rows = [_row(*pair, frames) for pair in zip(sounds, codes, strict=True)]
  rows += rows[-1:] * (size - len(rows))
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(
  sound: np.ndarray, code: np.ndarray | None, padded_frames: int
) -> dict[str, np.ndarray]:
  num_frames = audio.num_frames(len(sound))
  # A sound shorter than a training clip is extended by silence to one.
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
