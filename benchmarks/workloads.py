"""Synthetic workloads of the benchmarks; the same in every run."""

import ast
import concurrent.futures
import csv
import functools
import pathlib

import jax
import numpy as np
from absl import flags

from sdt_jax import audio, methods, pose, speakers, workdir
from sdt_jax import config as config_lib
from sdt_jax import keypoints as kp
from sdt_jax.config import Config
from sdt_jax.data import synthetic_speaker
from sdt_jax.errors import UserError
from sdt_jax.methods import base
from sdt_jax.training import checkpoints, parallel, runs

NUM_CLIPS = flags.DEFINE_integer(
  "num_clips", 600, "Number of clips in the synthetic data pack.", lower_bound=2
)
_SET = flags.DEFINE_multi_string("set", [], "Config fields to change: FIELD=VALUE.")

SPEAKER = "made_up"
_STRIDE = 5  # frames between published clips
_CLIPS_PER_VIDEO = 50


def config(name: str) -> Config:
  """The config `configs/<name>.py` with the changes of `--set`.

  Raises:
    UserError: there is no such file or field, or a value has the wrong type.
  """
  try:
    config = config_lib.experiment(name)
    fields = dict(item.split("=", 1) for item in _SET.value)
    config.update_from_flattened_dict(
      {field: ast.literal_eval(value) for field, value in fields.items()}
    )
  except (KeyError, TypeError, ValueError, SyntaxError) as e:
    raise UserError(f"configs/{name}.py with --set={' '.join(_SET.value)}: {e}") from e
  return config


def write_pack(root: pathlib.Path) -> None:
  """Writes a pack of `--num_clips` clips in the published layout; a tenth is dev."""
  folder = root / SPEAKER
  (folder / "clips").mkdir(parents=True)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    firsts = range(0, NUM_CLIPS.value, _CLIPS_PER_VIDEO)
    videos = pool.map(functools.partial(_write_video, folder), firsts)
    rows = [row for video in videos for row in video]
  for row in rows[-max(1, len(rows) // 10) :]:
    row[0] = "dev"
  with (folder / "processed_137.csv").open("w", newline="") as file:
    header = ["dataset", "start", "end", "interval_id", "pose_fn", "speaker"]
    csv.writer(file).writerows([header, *rows])


def _write_video(folder: pathlib.Path, first: int) -> list[list]:
  """Writes the clips of one video, starting with number `first`; returns csv rows."""
  count = min(_CLIPS_PER_VIDEO, NUM_CLIPS.value - first)
  last = _STRIDE * (count - 1)
  video = _perform(seed=first, num_frames=last + audio.CLIP_FRAMES)
  rows = []
  for start in range(0, last + 1, _STRIDE):
    end = start + audio.CLIP_FRAMES
    name = f"clips/{first}-{start}-{end}.npz"
    sound = video.audio[audio.num_samples(start) : audio.num_samples(end)]
    np.savez_compressed(folder / name, pose=video.keypoints[start:end], audio=sound)
    rows.append(["train", start, end, first, name, SPEAKER])
  return rows


def _perform(seed: int, num_frames: int) -> synthetic_speaker.Performance:
  speaker = synthetic_speaker.make_speaker(SPEAKER)
  return synthetic_speaker.perform(speaker, seed, num_frames)


def speech(seconds: float) -> np.ndarray:
  """(samples,) float32 at 16 kHz."""
  return _perform(0, round(seconds * audio.FPS)).audio


def motion(num_frames: int) -> np.ndarray:
  """Final poses (num_frames, dims, joints)."""
  performance = _perform(0, num_frames)
  poses_px = pose.from_openpose(performance.keypoints)
  detected = np.ones((num_frames, kp.UPPER_BODY.num_joints), bool)
  table = speakers.from_poses(SPEAKER, poses_px, detected).table(hierarchical=False)
  return (poses_px * table.scale_factor).astype(np.float32)


def map_step(method: base.Method):
  """`parallel.map_steps` of a method's training step, for streamed batches."""

  def step(state, _, batch):
    key = base.step_key(0, state.step)
    state, metrics, _ = method.train_step(state, batch, key)
    return state, metrics

  return parallel.map_steps(step, "jit")


def block(size: int) -> dict[str, np.ndarray]:
  """A training batch of noise, as a block of one step: arrays (1, size, ...)."""
  rng = np.random.default_rng(0)
  samples = audio.num_samples(audio.CLIP_FRAMES)
  return {
    "audio": rng.uniform(-0.5, 0.5, (1, size, samples)).astype(np.float32),
    "poses": rng.normal(size=(1, size, *base.CLIP_SHAPE)).astype(np.float32),
    "index": np.arange(size, dtype=np.int32)[None],
  }


def untrained_run(path: pathlib.Path, config: Config, num_clips: int = 100) -> None:
  """Creates the workdir of a run that has not been trained, with random templates."""
  method = methods.build(config, steps_per_epoch=1)
  state = runs.init_state(method, config.seed, num_clips)
  templates = state.params["templates"]
  drawn = jax.random.normal(jax.random.key(0), templates.shape)
  state = state.replace(params=state.params | {"templates": drawn})
  clips = workdir.unnamed_clips("oliver", num_clips)
  workdir.create(path, config, speakers.published("oliver"), clips)
  best_metric = config.checkpoint.best_metric
  saved = checkpoints.Checkpoints(path / workdir.CHECKPOINTS, best_metric)
  meta = {"epoch": 0, "num_clips": num_clips}
  saved.save(parallel.replicate(state), meta, {})
  saved.close()
