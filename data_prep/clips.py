"""Stage 5: cuts a window of 64 frames every 5 frames, with its sound.

A window is kept if every frame has all the keypoints used for training and sound, and
no frame starts another shot. Writes `clips/npz/<video>-<start>-<end>.npz` to the pack
(`pose` (64, 3, joints), `audio` (68266 or 68267,), `imgs`, names of the `frames`), and
`clips.json`: the start frames of the kept windows, and the number of dropped windows by
their first fault.
"""

import re

import numpy as np

from sdt_jax import audio, audio_file
from . import frames, rules, workspace
from .options import Options, command
from .workspace import Progress, Video

STRIDE = 5

_DEFAULT = rules.Thresholds()


def windows(
  keypoints: np.ndarray,
  num_samples: int,
  skip_frames: int = 0,
  thresholds: rules.Thresholds = _DEFAULT,
) -> tuple[list[int], dict[str, int]]:
  """Start frames of the windows to keep, and the number of the others by reason.

  Args:
    keypoints: (T, 3, joints).
    num_samples: length of the sound.
    skip_frames: no window starts earlier.
    thresholds: give what counts as another shot.
  """
  length = audio.CLIP_FRAMES
  faults = _faults(keypoints, num_samples, thresholds)
  kept, dropped = [], dict.fromkeys(faults, 0)
  for start in range(skip_frames, len(keypoints) - length + 1, STRIDE):
    reasons = (r for r, mask in faults.items() if mask[start : start + length].any())
    reason = next(reasons, None)
    # A cut at the first frame of the window does not divide the window.
    if (
      reason == "another shot" and not faults[reason][start + 1 : start + length].any()
    ):
      reason = next(reasons, None)
    if reason is None:
      kept.append(start)
    else:
      dropped[reason] += 1
  return kept, dropped


def _faults(
  keypoints: np.ndarray, num_samples: int, thresholds: rules.Thresholds
) -> dict[str, np.ndarray]:
  """Reason -> (T,) bool: frames that must not be part of a window."""
  ends = np.array([audio.num_samples(i + 1) for i in range(len(keypoints))])
  missing = {
    f"{part.replace('_', ' ')} missing": (keypoints[:, 2, points] == 0).any(1)
    for part, points in rules.PARTS.items()
  }
  shots = rules.cuts(keypoints, thresholds)
  return {"no sound": ends > num_samples, "another shot": shots, **missing}


def clip_path(options: Options, name: str, start: int):
  """Path of the clip that starts at frame `start` of a video."""
  end = start + audio.CLIP_FRAMES
  return workspace.pack_folder(options) / "clips" / "npz" / f"{name}-{start}-{end}.npz"


def _cut(options: Options, video: Video, progress: Progress) -> None:
  keypoints, _ = workspace.read_keypoints(video.folder / "rescaled.npz")
  samples = audio_file.load_audio(video.folder / "audio.wav")
  kept, dropped = windows(
    keypoints, len(samples), options.skip_frames, options.thresholds
  )
  _remove_old(options, video)
  for done, start in enumerate(kept):
    end = start + audio.CLIP_FRAMES
    workspace.write_npz(
      clip_path(options, video.name, start),
      pose=keypoints[start:end],
      audio=samples[audio.num_samples(start) : audio.num_samples(end)],
      imgs=np.array([frames.name_in_pack(video.name, i) for i in range(start, end)]),
    )
    progress(done / len(kept))
  workspace.write_json(video.folder / "clips.json", {"kept": kept, "dropped": dropped})


def _remove_old(options: Options, video: Video) -> None:
  """Removes clips of earlier runs of this video, including partly written ones."""
  folder = clip_path(options, video.name, 0).parent
  own = re.compile(rf"(\.\d+-)?{re.escape(video.name)}-\d+-\d+\.npz")
  for path in folder.glob("*.npz"):
    if own.fullmatch(path.name):
      path.unlink()


run = workspace.VideoStage(
  name="clips",
  previous="rescale",
  outputs=("clips.json",),
  # The thresholds are parameters of `clean`.
  parameters=lambda options, _: [audio.CLIP_FRAMES, STRIDE, options.skip_frames],
  work=_cut,
).run


if __name__ == "__main__":
  command(run)
