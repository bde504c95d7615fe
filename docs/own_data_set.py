"""An example of a custom data set: recordings as NAME.wav and NAME.npz.

    MY_DATA/train/NAME.wav   the sound, any sample rate
    MY_DATA/train/NAME.npz   `keypoints` (T, 3, 137): x, y (pixels) and confidence of
                             the OpenPose keypoints, 15 frames/s
    MY_DATA/dev/...          the same for the clips to validate with; may be left out

    python train.py --config=configs/sdt_bp.py \
      --config.dataset.name=docs.own_data_set:WavAndNpz --config.dataset.root=MY_DATA
"""

import functools
import pathlib
from collections.abc import Iterator

from sdt_jax import audio, audio_file, files
from sdt_jax.data import builder

STRIDE = 5  # frames from the start of a clip to the start of the next


class WavAndNpz(builder.ClipBuilder):
  """All clips of 64 frames of the recordings; one shard per recording."""

  def shards(self, split: str) -> list[builder.Shard]:
    recordings = sorted(pathlib.Path(self.source.root, split).glob("*.npz"))
    return [functools.partial(_clips, path, split) for path in recordings]


def _clips(path: pathlib.Path, split: str) -> Iterator[builder.Example]:
  keypoints = files.read_arrays(path, "keypoints")["keypoints"]
  sound = audio_file.load_audio(path.with_suffix(".wav"))
  starts = range(0, len(keypoints) - audio.CLIP_FRAMES + 1, STRIDE)
  return builder.clips_of_video(f"{split}/{path.stem}", keypoints, sound, starts)
