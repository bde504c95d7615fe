"""Speech and template -> poses: audio encoder, 1-D U-Net, decoder."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdt_jax import keypoints as kp
from sdt_jax.models import layers
from sdt_jax.models.audio_encoder import AudioEncoder

# The U-Net halves the sequence five times, so it needs this many frames.
MIN_FRAMES = 32


class UNet(nn.Module):
  """1-D U-Net over time: two plain blocks, five down, five up with added skips."""

  channels: int = 256
  norm: layers.NormKind = "bn"
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """(B, T, C in) -> (B, T, channels); T at least `MIN_FRAMES`."""
    options = {"norm": self.norm, "axis_name": self.axis_name}
    x = layers.plain(self.channels, name="e0", **options)(x, train)
    x = layers.plain(self.channels, name="e1", **options)(x, train)
    skips = []
    for i in range(2, 7):
      skips.append(x)
      x = layers.down(self.channels, name=f"e{i}", **options)(x, train)
    for i in range(5, 0, -1):
      skip = skips.pop()
      x = layers.resize_linear(x, skip.shape[1:2]) + skip
      x = layers.plain(self.channels, name=f"d{i}", **options)(x, train)
    return x


class Generator(nn.Module):
  """The gesture generator of Speech2Gesture (no template) and of SDT (with one).

  Attributes:
    channels: of the U-Net and the decoder.
    audio_channels: of the four stages of the audio encoder.
    norm: see `layers.ConvBlock`; the S2G baseline uses "bn", SDT "in_star".
    axis_name: device axis that batch norm averages over.
  """

  channels: int = 256
  audio_channels: Sequence[int] = (64, 128, 256, 256)
  norm: layers.NormKind = "in_star"
  axis_name: str | None = None

  def setup(self):
    options = {"norm": self.norm, "axis_name": self.axis_name}
    self.audio_encoder = AudioEncoder(self.audio_channels, **options)
    self.unet = UNet(self.channels, **options)
    self.decoder = [layers.plain(self.channels, **options) for _ in range(4)]
    self.output = layers.OutputConv(2 * kp.NUM_KEYPOINTS, kernel=1)

  def __call__(
    self,
    mel: jax.Array,
    template: jax.Array | None,
    num_frames: int,
    train: bool = False,
  ) -> jax.Array:
    """Generates poses.

    Args:
      mel: (B, 80, mel frames) power mel spectrogram.
      template: (B, D), the same for all frames; or (B, T, D), one for each; or None.
      num_frames: T, at least `MIN_FRAMES`.
      train: batch norm uses (and records) the statistics of this batch.

    Returns:
      (B, T, 2, 121) normalised poses.
    """
    x = self.audio_encoder(mel, num_frames, train)
    if template is not None:
      if template.ndim == 2:
        template = jnp.repeat(template[:, None], num_frames, axis=1)
      x = jnp.concatenate([x, template], axis=-1)
    x = self.unet(x, train)
    for block in self.decoder:
      x = block(x, train)
    x = self.output(x)
    return x.reshape(*x.shape[:2], 2, kp.NUM_KEYPOINTS)
