"""Mel spectrogram -> one feature vector for each pose frame."""

from collections.abc import Iterator, Sequence

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
    dtype: of the activations, see `layers`.
  """

  channels: Sequence[int] = (64, 128, 256, 256)
  norm: layers.NormKind = "bn"
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

    `mel_lengths` are those of `mel`, `lengths` those of what comes out.
    """
    x = layers.cut(mel[..., None], mel_lengths)
    for block in self._blocks():
      x = block(x, train, mel_lengths)
      mel_lengths = block.lengths_after(mel_lengths)
    # A linear resize of the 5 rows of mel to 1 takes the middle one.
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
