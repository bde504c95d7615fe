"""Streams of causal models, which generate each frame once, in order."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio, pose
from sdt_jax.methods.base import Condition, Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.synthesis.stream import NO_POSES, Stream
from sdt_jax.templates.director import Director

AT_ONCE = (audio.CLIP_FRAMES, 8, 1)
"""Numbers of frames that may be generated together."""


class Piece(NamedTuple):
  """The sound of the next K frames, and their templates.

  Attributes:
    samples: (S,) audio around them.
    starts: (columns,) int32, the first sample of each time step of the spectrogram.
    heard: (columns,) float32, 0 for time steps after the end of the sound, else 1.
    template: (K, D), of the frames that they make final, or None.
  """

  samples: np.ndarray
  starts: np.ndarray
  heard: np.ndarray
  template: np.ndarray | None


Advance = Callable[[Any, Piece], tuple[Any, jax.Array]]
"""Past and piece -> next past, and the poses (K, dims, joints) that are now final."""


def advance_px(
  method: Method, table: pose.PoseTable, state: TrainState, past: Any, piece: Piece
) -> tuple[Any, jax.Array]:
  """`Method.advance`, as final poses in pixels."""
  samples, starts, heard, template = jax.tree.map(jnp.asarray, piece)
  mel = audio.mel_at(samples, starts) * heard
  condition = Condition(
    mel=mel[None], template=None if template is None else template[None]
  )
  poses_norm, past = method.advance(state, past, condition)
  return past, pose.to_final(poses_norm, table)[0]


def no_past(method: Method, state: TrainState) -> Any:
  """The past at the start of a sound: zeros, in the structure of `Method.advance`."""
  size = method.template_shape and method.template_shape[-1]
  condition = Condition(
    mel=jnp.zeros((1, audio.NUM_MELS, method.mel_rate // audio.FPS)),
    template=jnp.zeros((1, 1, size)) if size else None,
  )
  _, past = jax.eval_shape(lambda: method.advance(state, {}, condition))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), past)


class CausalStream(Stream):
  """A stream of a causal model.

  Args:
    advance: the model.
    past: before the start, see `no_past`.
    look_ahead: `Method.look_ahead`.
    mel_rate: `Method.mel_rate`.
    template: see `Stream`.
  """

  def __init__(
    self,
    advance: Advance,
    past: Any,
    look_ahead: int,
    mel_rate: int,
    template: np.ndarray | Director | None = None,
  ):
    super().__init__(template)
    self._advance, self._past = advance, past
    self._look_ahead, self._mel_rate = look_ahead, mel_rate
    self._steps = mel_rate // audio.FPS
    self._next = 0  # the frame whose sound the model is given next

  @property
  def latency(self) -> float:
    # The last time step of a frame is centred before its end.
    rest_s = audio.SIDE / audio.SAMPLE_RATE - 1 / self._mel_rate
    return self._look_ahead + audio.FPS * rest_s

  def feed(self, samples: np.ndarray) -> np.ndarray:
    self._hear(samples)
    if self._first_sample == 0:
      if self._num_samples() <= audio.SIDE:
        return NO_POSES
      self._reflect_start()
    return self._advance_to(self._num_known_frames(), np.inf)

  def finish(self) -> np.ndarray:
    heard = self._num_samples()
    num_frames = audio.num_frames(heard)
    if not num_frames:
      return NO_POSES
    # As for whole sounds: a sound shorter than a training clip is extended by silence.
    length = max(num_frames, audio.CLIP_FRAMES)
    missing = audio.num_samples(length) - heard
    self._sound = np.pad(self._sound, (0, max(missing, 0)))
    self._sound = self._sound[: audio.num_samples(length) - self._first_sample]
    if self._first_sample == 0:
      self._reflect_start()
    silence = (self._look_ahead + 1) * audio.SAMPLE_RATE // audio.FPS
    end = np.pad(self._sound, (0, audio.SIDE), mode="reflect")
    self._sound = np.pad(end, (0, silence))
    return self._advance_to(num_frames + self._look_ahead, length)

  def _reflect_start(self) -> None:
    self._sound = np.pad(self._sound, (audio.SIDE, 0), mode="reflect")
    self._first_sample = -audio.SIDE

  def _num_known_frames(self) -> int:
    """Number of frames whose spectrogram is complete."""
    last = self._num_samples() - audio.SIDE
    known = last * audio.FPS // audio.SAMPLE_RATE + 1
    return known if self._last_centre(known - 1) <= last else known - 1

  def _last_centre(self, frame: int) -> int:
    return audio.mel_centres(self._steps * (frame + 1) - 1, self._mel_rate)

  def _advance_to(self, end: int, length: float) -> np.ndarray:
    """Gives the model the frames before `end`; the sound has `length` frames."""
    poses_px = [NO_POSES]
    while self._next < end:
      count = next(n for n in AT_ONCE if n <= end - self._next)
      self._past, made = self._advance(self._past, self._piece(count, length))
      early = max(0, self._look_ahead - self._next)  # frames before the sound
      poses_px.append(np.asarray(made, np.float32)[early:])
      self._next += count
    start = audio.mel_centres(self._steps * self._next, self._mel_rate) - audio.SIDE
    self._forget(start, self._next - self._look_ahead)
    return np.concatenate(poses_px)

  def _piece(self, count: int, length: float) -> Piece:
    columns = self._steps * self._next + np.arange(self._steps * count)
    starts = audio.mel_centres(columns, self._mel_rate) - audio.SIDE
    first, size = starts[0], audio.num_samples(count) + 2 * audio.SIDE
    template = None
    if self._templates is not None:
      frame = self._next - self._look_ahead
      template = self._templates_of(frame, frame + count)
    begin = first - self._first_sample
    samples = self._sound[begin : begin + size]
    return Piece(
      np.pad(samples, (0, size - len(samples))),
      (starts - first).astype(np.int32),
      (columns < length * self._steps).astype(np.float32),
      template,
    )
