"""Speech and template -> poses: audio encoder, 1-D U-Net, decoder."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.models import layers
from sdt_jax.models.audio_encoder import AudioEncoder

# The U-Net halves the sequence five times, so it needs this many frames.
MIN_FRAMES = 32


class UNet(nn.Module):
  """1-D U-Net over time: two blocks, five down, five up; skip connections add."""

  channels: int = 256
  norm: str = "bn"
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool, lengths: jax.Array | None = None
  ) -> jax.Array:
    """(B, T, C) -> (B, T, channels); T and all `lengths` are at least `MIN_FRAMES`."""
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    x = layers.plain(self.channels, name="e0", **options)(x, train, lengths)
    x = layers.plain(self.channels, name="e1", **options)(x, train, lengths)
    skips = []
    for i in range(2, 7):
      skips.append((x, lengths))
      block = layers.down(self.channels, name=f"e{i}", **options)
      x, lengths = block(x, train, lengths), block.lengths_after(lengths)
    for i in range(5, 0, -1):
      skip, skip_lengths = skips.pop()
      x = layers.resize_time(x, skip.shape[1], lengths, skip_lengths) + skip
      lengths = skip_lengths
      x = layers.plain(self.channels, name=f"d{i}", **options)(x, train, lengths)
    return x


class Generator(nn.Module):
  """The gesture generator of Speech2Gesture (without template) and SDT (with one).

  Attributes:
    channels: number of channels in the U-Net and the decoder.
    audio_channels: number of channels in the four stages of the audio encoder.
    norm: see `layers.ConvBlock`; the S2G baseline uses "bn", SDT "in_star".
    axis_name: device axis over which batch norm averages.
    dtype: type of the activations, see `layers`.
    pose_shape: (dims, joints) of the generated poses.
  """

  channels: int = 256
  audio_channels: Sequence[int] = (64, 128, 256, 256)
  norm: str = "in_star"
  axis_name: str | None = None
  dtype: layers.Dtype = None
  pose_shape: tuple[int, int] = kp.UPPER_BODY.shape

  def setup(self):
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    self.audio_encoder = AudioEncoder(self.audio_channels, **options)
    self.unet = UNet(self.channels, **options)
    self.decoder = [layers.plain(self.channels, **options) for _ in range(4)]
    self.output = layers.OutputConv(math.prod(self.pose_shape), kernel=1)

  def __call__(
    self,
    mel: jax.Array,
    template: jax.Array | None,
    num_frames: int,
    train: bool = False,
    lengths: jax.Array | None = None,
  ) -> jax.Array:
    """Generates poses.

    Args:
      mel: (B, 80, mel frames) power mel spectrogram.
      template: (B, D), one for all frames; (B, T, D), one for each frame; or None.
      num_frames: T, at least `MIN_FRAMES`.
      train: batch norm uses (and records) the statistics of this batch.
      lengths: (B,) number of frames of each sequence, at least `MIN_FRAMES`; the rest
        of `mel`, `template` and the result is padding. None: T for all sequences.

    Returns:
      (B, T, dims, joints) normalised poses.
    """
    mel_lengths = None if lengths is None else audio.mel_frames_over(lengths)
    x = self.audio_encoder(mel, num_frames, train, mel_lengths, lengths)
    if template is not None:
      if template.ndim == 2:
        template = jnp.repeat(template[:, None], num_frames, axis=1)
      x = layers.mask_after(jnp.concatenate([x, template], axis=-1), lengths)
    x = self.unet(x, train, lengths)
    for block in self.decoder:
      x = block(x, train, lengths)
    x = self.output(x)
    return x.reshape(*x.shape[:2], *self.pose_shape)
