"""Stage 7: normalisation statistics of the speaker, from the train clips only.

Writes `speaker.json` to the pack: mean and std of hierarchical and global poses and the
scale factor, in the format of `sdt_jax.speakers`. Undetected points are ignored; on
complete data these are the mean and std over all frames of all clips.
"""

import tqdm

from sdt_jax import speakers
from sdt_jax.data import pack
from sdt_jax.speakers import RunningStatistics
from . import workspace
from .options import Options, command

FILE_NAME = "speaker.json"


def run(options: Options) -> None:
  """Runs the stage.

  Raises:
    UserError: there is no split, or a keypoint is never detected.
  """
  statistics = RunningStatistics()
  rows = pack.read_index(options.root, options.speaker).rows["train"]
  for row in tqdm.tqdm(rows, desc="statistics", unit="clip"):
    clip = pack.read_clip(row.path, row.clip_id)
    statistics.add(clip.poses_px, clip.detected)
  path = workspace.pack_folder(options) / FILE_NAME
  workspace.write_json(path, speakers.to_json(statistics.speaker(options.speaker)))


if __name__ == "__main__":
  command(run)
