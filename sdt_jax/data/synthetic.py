"""TFDS builder for synthetic speakers (see `synthetic_speaker`)."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from sdt_jax import audio
from sdt_jax.data import builder as clip_builder
from sdt_jax.data import clip_store, synthetic_speaker
from sdt_jax.data.recordings import Example
from sdt_jax.errors import UserError

_VIDEO_FRAMES = 60 * audio.FPS
# Packs have a clip every 5 frames; here, each clip adds three times as many new frames.
_STRIDE = 16
_CLIPS_PER_VIDEO = (_VIDEO_FRAMES - audio.CLIP_FRAMES) // _STRIDE + 1


@dataclasses.dataclass
class SyntheticSource(clip_builder.Source):
  """The speaker, and the number of clips in each split."""

  num_clips: dict[str, int] = dataclasses.field(default_factory=dict)


class Synthetic(clip_builder.ClipBuilder):
  """Clips of one-minute performances; no performance is in both splits.

  Clips also have the causes of the motion, in float32: `mouth_opening` (64,),
  `prominence` (64,) and `template` (64, D); see `synthetic_speaker.Performance`.
  """

  name = "synthetic"
  builder_config: SyntheticSource

  def num_clips(self, split: str) -> int:
    return self.builder_config.num_clips.get(split, 0)

  def shards(self, split: str) -> list[clip_builder.Shard]:
    num_clips = self.num_clips(split)
    return [
      functools.partial(
        _video_clips,
        self.source.speaker,
        seed=2 * i + clip_builder.SPLITS.index(split),
        num_clips=min(_CLIPS_PER_VIDEO, num_clips - i * _CLIPS_PER_VIDEO),
      )
      for i in range(-(-num_clips // _CLIPS_PER_VIDEO))
    ]

  def extra_arrays(self) -> clip_store.Layout:
    return {
      "template": ((len(synthetic_speaker.TEMPLATE_NAMES),), np.float32),
      "mouth_opening": ((), np.float32),
      "prominence": ((), np.float32),
    }


def _video_clips(speaker: str, seed: int, num_clips: int) -> Iterator[Example]:
  """The first `num_clips` clips of the performance with this seed."""
  num_frames = audio.CLIP_FRAMES + (num_clips - 1) * _STRIDE
  video = synthetic_speaker.perform(
    synthetic_speaker.make_speaker(speaker), seed, num_frames
  )
  return clip_builder.clips_of_video(
    f"{speaker}/{seed}",
    video.keypoints,
    video.audio,
    range(0, num_clips * _STRIDE, _STRIDE),
    template=video.template,
    mouth_opening=video.mouth_opening,
    prominence=video.prominence,
  )


def choose_speaker(root: str, speaker: str) -> str:
  """The name of the synthetic speaker: `speaker`, or if empty "ada".

  Raises:
    UserError: there is a root, which would be ignored.
  """
  if root:
    raise UserError(
      f"dataset.root={root!r} is not used by dataset.name='synthetic'; leave one out"
    )
  return speaker or "ada"


def prepare(
  speaker: str, num_train_clips: int, num_dev_clips: int, data_dir: str | os.PathLike
) -> clip_builder.Built:
  """Generates clips of a synthetic speaker in `data_dir` if needed, and opens them.

  Args:
    speaker: any name; each name gives a different person.
    num_train_clips: number of training clips, at least 1.
    num_dev_clips: number of dev clips; 0 means no dev split.
    data_dir: folder for built data sets.

  Raises:
    UserError: the name is empty, there are no clips, or `data_dir` cannot be written.
  """
  num_clips = {"train": num_train_clips, "dev": num_dev_clips}
  for (split, number), least in zip(num_clips.items(), (1, 0), strict=True):
    if number < least:
      raise UserError(f"dataset.num_{split}_clips={number}: must be at least {least}")
  if not speaker:
    raise UserError(
      "dataset.speaker='': give the synthetic speaker a name; any name works"
    )
  source = SyntheticSource(
    name=clip_builder.folder_name(
      speaker, _fingerprint(speaker), num_train_clips, num_dev_clips
    ),
    speaker=speaker,
    num_clips=num_clips,
  )
  return clip_builder.prepare(Synthetic, source, data_dir)


def _fingerprint(speaker: str) -> str:
  """Changes with the speaker's name, and with the code that generates the clips."""
  sample = next(_video_clips(speaker, seed=0, num_clips=1))
  digest = hashlib.sha256(speaker.encode())
  for key in ("audio", "poses", "template"):
    digest.update(sample[key].tobytes())
  return digest.hexdigest()[:12]
