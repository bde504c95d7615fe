"""Mel spectrogram -> one feature vector for each pose frame."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from sdt_jax.models import layers


class AudioEncoder(nn.Module):
  """2-D convolutions over (mel, time), then a resize to the frames of the pose.

  Attributes:
    channels: of the four stages; the first three end by halving the map, the last
      with a kernel of (6 mel, 3 time) that is not padded.
    norm: see `layers.ConvBlock`.
    axis_name: device axis that batch norm averages over.
  """

  channels: Sequence[int] = (64, 128, 256, 256)
  norm: layers.NormKind = "bn"
  axis_name: str | None = None

  @nn.compact
  def __call__(self, mel: jax.Array, num_frames: int, train: bool) -> jax.Array:
    """(B, 80, mel frames) -> (B, num_frames, channels[-1])."""

    def block(features, stage, position, **kwargs):
      return layers.ConvBlock(
        features,
        norm=self.norm,
        axis_name=self.axis_name,
        name=f"stage{stage}_{position}",
        **kwargs,
      )

    x = mel[..., None]
    last = len(self.channels) - 1
    for stage, features in enumerate(self.channels):
      x = block(features, stage, "a", kernel=(3, 3))(x, train)
      if stage < last:
        x = block(features, stage, "b", kernel=(4, 4), stride=2)(x, train)
      else:
        x = block(features, stage, "b", kernel=(6, 3), padding=0)(x, train)
    return layers.resize_linear(x, (1, num_frames))[:, 0]
