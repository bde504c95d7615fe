"""A causal generator: sound after a frame and its look-ahead does not affect the frame.

Convolutions look back only; norms use the statistics of the training data, or those of
a single time step; the level of the sound is that of its recent past. Each block keeps
what it needs of the past in the collection "past", if that is mutable. With "past"
passed from call to call, a sequence gives the same poses in pieces of any length as in
one call. Before the first call the past is zero, like zero padding. Arrays are laid out
as in `layers`.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.models import layers, operations

STEPS = 8
"""Time steps of the mel spectrogram per frame: the audio encoder halves three times."""

MEL_RATE = STEPS * audio.FPS

MEMORY_S = 2.0
"""Time constant of the level of the sound, in seconds."""

# The spectrogram is compressed to log(1 + power / _QUIET), where 1 is the mean power of
# the recent past; power below _SILENCE is not amplified to that of speech.
_QUIET = 1e-3
_SILENCE = 1e-2


def _remember(module: nn.Module, name: str, value: jax.Array) -> None:
  if module.is_mutable_collection("past"):
    module.put_variable("past", name, value)


class RunningLevel(nn.Module):
  """Divides a spectrogram by its mean power in the recent past, and compresses it.

  So the result hardly depends on the gain of the microphone. The weight of a time step
  in the mean is exp(-age / MEMORY_S); weights are normalised to sum to 1.
  """

  @nn.compact
  def __call__(self, mel: jax.Array) -> jax.Array:
    """(B, 80, time) -> the same shape; zeros stay zeros."""
    power = jnp.mean(mel, axis=1)
    decay = math.exp(-1 / (MEMORY_S * MEL_RATE))
    now = jnp.stack([power, jnp.ones_like(power)], axis=-1)
    past = self.get_variable("past", "sums", jnp.zeros_like(now[:, :1]))
    now = jnp.concatenate([past, now], axis=1)
    decays = jnp.full((1, now.shape[1], 1), decay, now.dtype)

    def join(before, after):
      return before[0] * after[0], before[1] * after[0] + after[1]

    _, sums = jax.lax.associative_scan(join, (decays, now), axis=1)
    _remember(self, "sums", sums[:, -1:])
    level = sums[:, 1:, 0] / sums[:, 1:, 1]
    return jnp.log1p(mel / (_QUIET * (level[:, None] + _SILENCE)))


class CausalBlock(nn.Module):
  """`layers.ConvBlock` that looks back only.

  Attributes:
    features: number of output channels.
    kernel: size of the kernel, (mel, time) or (time,).
    stride: the same in mel and time.
    dilation: in time, for 1-D.
    pad_mel: zeros on each side of the mel axis.
    norm: "bn" is batch norm; "in_star" is the same in 2-D, but in 1-D it normalises
      over the channels at each time step.
    axis_name: device axis over which batch norm averages.
    dtype: see `layers`.
  """

  features: int
  kernel: Sequence[int]
  stride: int = 1
  dilation: int = 1
  pad_mel: int = 1
  norm: str = "in_star"
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x (batch, [mel,] time, channels); the time must be a multiple of the stride."""
    x = self._convolve(self._after_past(x))
    x = layers.at_least_float32(x)
    if self.norm == "in_star" and len(self.kernel) == 1:
      x = layers.instance_norm(x, None, axes=(-1,))
    else:
      x = layers.BatchNorm(axis_name=self.axis_name, name="norm")(x, train)
    x = nn.leaky_relu(x, layers.SLOPE)
    return x if self.dtype is None else x.astype(self.dtype)

  def _after_past(self, x: jax.Array) -> jax.Array:
    """x after the last steps of the call before that the kernel still covers."""
    length = self.dilation * (self.kernel[-1] - 1) - (self.stride - 1)
    shape = (*x.shape[:-2], length, x.shape[-1])
    past = self.get_variable("past", "inputs", jnp.zeros_like(x, shape=shape))
    x = jnp.concatenate([past, x], axis=-2)
    _remember(self, "inputs", x[..., x.shape[-2] - length :, :])
    return x

  def _convolve(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", layers.KERNEL_INIT, shape, jnp.float32)
    x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
    if len(self.kernel) == 1:
      return operations.convolve(x, kernel, self.stride, 0, self.dilation)
    x = jnp.pad(x, [(0, 0), (self.pad_mel,) * 2, (0, 0), (0, 0)])
    return layers.convolve_2d(x, kernel, stride=self.stride, padding=0)


class CausalGenerator(nn.Module):
  """Audio encoder, dilated convolutions with skip connections, decoder.

  It has as many weights as `generator.Generator`. Instead of halving the sequence, the
  layers between encoder and decoder are dilated, so that each frame costs the same.

  Attributes:
    look_ahead: frames of sound after a frame that affect it.
    others: see `generator.Generator`.
  """

  channels: int = 256
  audio_channels: Sequence[int] = (64, 128, 256, 256)
  norm: str = "in_star"
  look_ahead: int = 1
  axis_name: str | None = None
  dtype: layers.Dtype = None
  pose_shape: tuple[int, int] = kp.UPPER_BODY.shape

  # Of the layers that halve the sequence in `generator.UNet`. All layers together see
  # 55 frames back, so that training clips of 64 frames show them a full past.
  DILATIONS = (1, 1, 1, 2, 2)

  def setup(self):
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    self.level = RunningLevel()
    self.audio_encoder = [
      CausalBlock(**block, **options) for block in _audio_blocks(self.audio_channels)
    ]

    def block(size: int, dilation: int = 1) -> CausalBlock:
      return CausalBlock(self.channels, (size,), dilation=dilation, **options)

    self.entry = [block(3), block(3)]
    self.down = [block(4, dilation) for dilation in self.DILATIONS]
    self.up = [block(3, dilation) for dilation in self.DILATIONS[::-1]]
    self.decoder = [block(3) for _ in range(4)]
    self.output = layers.OutputConv(math.prod(self.pose_shape), kernel=1)

  def __call__(
    self,
    mel: jax.Array,
    template: jax.Array | None,
    num_frames: int,
    train: bool = False,
    lengths: jax.Array | None = None,
  ) -> jax.Array:
    """Generates the poses of whole sounds; see `generator.Generator`.

    `mel` has `STEPS` time steps per frame; those after the last frame are ignored.
    Sound after the end of a sequence counts as silence.
    """
    mel = mel[..., : num_frames * STEPS]
    if lengths is not None:
      heard = jnp.arange(mel.shape[-1]) < STEPS * lengths[:, None, None]
      mel = jnp.where(heard, mel, 0)
    missing = (num_frames + self.look_ahead) * STEPS - mel.shape[-1]
    mel = jnp.pad(mel, [(0, 0), (0, 0), (0, missing)])
    if template is not None:
      if template.ndim == 2:
        template = jnp.repeat(template[:, None], num_frames, axis=1)
      padding = [(0, 0), (self.look_ahead, 0), (0, 0)]
      template = jnp.pad(template, padding, mode="edge")
    return self.advance(mel, template, train)[:, self.look_ahead :]

  def advance(
    self, mel: jax.Array, template: jax.Array | None, train: bool = False
  ) -> jax.Array:
    """The poses that the next piece of the sound makes final.

    Args:
      mel: (B, 80, T * STEPS) of the next T frames.
      template: (B, T, D), of the frames of the result, or None.
      train: see `generator.Generator`.

    Returns:
      (B, T, dims, joints) normalised poses; each of the frame `look_ahead` frames
      before that of the sound.
    """
    x = self.level(mel)[..., None]
    for block in self.audio_encoder:
      x = block(x, train)
    x = x[:, x.shape[1] // 2]
    if template is not None:
      x = jnp.concatenate([x, template.astype(x.dtype)], axis=-1)
    x = _apply(self.entry, x, train)
    skips = []
    for block in self.down:
      skips.append(x)
      x = block(x, train)
    for block in self.up:
      x = block(x + skips.pop(), train)
    x = self.output(_apply(self.decoder, x, train))
    return x.reshape(*x.shape[:2], *self.pose_shape)


def _apply(blocks: Sequence[Callable], x: jax.Array, train: bool) -> jax.Array:
  for block in blocks:
    x = block(x, train)
  return x


def _audio_blocks(channels: Sequence[int]) -> list[dict]:
  """Arguments of the blocks of the audio encoder; see `audio_encoder.AudioEncoder`."""
  blocks = []
  for stage, features in enumerate(channels):
    blocks.append({"features": features, "kernel": (3, 3)})
    if stage < len(channels) - 1:
      blocks.append({"features": features, "kernel": (4, 4), "stride": 2})
    else:
      blocks.append({"features": features, "kernel": (6, 3), "pad_mel": 0})
  return blocks
