"""Mel spectrogram -> one feature vector per pose frame."""

from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax

from sdt_jax.models import layers


class AudioEncoder(nn.Module):
  """2-D convolutions over (mel, time), then a resize in time to the pose frames.

  Attributes:
    channels: number of channels in the four stages. The first three stages end by
      halving the map, the last with an unpadded kernel of 6 (mel) x 3 (time).
    norm: see `layers.ConvBlock`.
    axis_name: device axis over which batch norm averages.
    dtype: type of the activations, see `layers`.
  """

  channels: Sequence[int] = (64, 128, 256, 256)
  norm: str = "bn"
  axis_name: str | None = None
  dtype: layers.Dtype = None

  @nn.compact
  def __call__(
    self,
    mel: jax.Array,
    num_frames: int,
    train: bool,
    mel_lengths: jax.Array | None = None,
    lengths: jax.Array | None = None,
  ) -> jax.Array:
    """(B, 80, mel frames) -> (B, num_frames, channels[-1]).

    `mel_lengths` are the lengths of the input sequences, `lengths` of the output.
    """
    x = layers.mask_after(mel[..., None], mel_lengths)
    for block in self._blocks():
      x = block(x, train, mel_lengths)
      mel_lengths = block.lengths_after(mel_lengths)
    # Equals a linear resize of the 5 remaining mel rows to 1.
    x = x[:, x.shape[1] // 2]
    return layers.resize_time(x, num_frames, mel_lengths, lengths)

  def _blocks(self) -> Iterator[layers.ConvBlock]:
    options = {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
    last = len(self.channels) - 1
    for stage, features in enumerate(self.channels):
      yield layers.ConvBlock(features, kernel=(3, 3), name=f"stage{stage}_a", **options)
      size = {"kernel": (4, 4), "stride": 2}
      if stage == last:
        size = {"kernel": (6, 3), "padding": 0}
      yield layers.ConvBlock(features, name=f"stage{stage}_b", **size, **options)
