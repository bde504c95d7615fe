"""Small videos and OpenPose folders for the tests of the data preparation."""

import fractions

import av
import numpy as np

from data_prep import rules
from data_prep.options import Options
from sdt_jax import keypoints as kp
from sdt_jax.exports import openpose

WIDTH, HEIGHT = 160, 90
RATE = 16_000
_TIME_BASE = fractions.Fraction(1, 90_000)


def write_video(path, times, pictures=None, sound=None, sound_rate=48_000):
  """Writes an mp4/mkv with pictures (H, W, 3) at `times`, and sound unless None."""
  if pictures is None:
    pictures = [
      np.full((HEIGHT, WIDTH, 3), 40 + i % 150, np.uint8) for i in range(len(times))
    ]
  with av.open(str(path), "w") as container:
    video = container.add_stream("libx264", options={"preset": "ultrafast"})
    video.height, video.width = pictures[0].shape[:2]
    video.pix_fmt = "yuv420p"
    video.codec_context.time_base = _TIME_BASE
    if sound is not None:  # before the first packet
      audio = container.add_stream("aac", rate=sound_rate, layout="mono")
    for time, picture in zip(times, pictures, strict=True):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.pts, frame.time_base = round(time / _TIME_BASE), _TIME_BASE
      container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if sound is not None:
      _write_sound(container, audio, sound, sound_rate)


def _write_sound(container, stream, sound, rate):
  for start in range(0, len(sound), 1024):
    block = sound[start : start + 1024].astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, start
    frame.time_base = fractions.Fraction(1, rate)
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def noise(seconds, rate=48_000, seed=0):
  """Quiet noise."""
  generator = np.random.default_rng(seed)
  return 0.05 * generator.standard_normal(round(seconds * rate))


_BODY = {  # in shoulder widths from the neck
  "nose": (0.0, -0.55),
  "neck": (0.0, 0.0),
  "right_shoulder": (-0.5, 0.0),
  "right_elbow": (-0.6, 0.6),
  "right_wrist": (-0.4, 1.0),
  "left_shoulder": (0.5, 0.0),
  "left_elbow": (0.6, 0.6),
  "left_wrist": (0.4, 1.0),
  "right_eye": (-0.1, -0.65),
  "left_eye": (0.1, -0.65),
}


def person(frames=1, width=1280, height=720, unit=None, seed=0):
  """A plausible person with small movements: (frames, 3, joints) picture pixels."""
  unit = unit or 0.25 * height
  generator = np.random.default_rng(seed)
  keypoints = np.zeros((1, 3, kp.OPENPOSE.num_joints))
  place = {**_BODY, "face_30": _BODY["nose"]}
  for part, root, size in (
    ("face", "nose", 0.4),
    ("left_hand", "left_wrist", 0.3),
    ("right_hand", "right_wrist", 0.3),
  ):
    for i in rules.PARTS[part]:
      off = generator.uniform(-0.5, 0.5, 2) * size
      place[kp.OPENPOSE.names[i]] = tuple(np.add(_BODY[root], off))
  place["face_30"] = _BODY["nose"]
  for side in rules.SIDES:
    place[f"{side}_hand_root"] = _BODY[f"{side}_wrist"]
  for name, (x, y) in place.items():
    keypoints[0, :, kp.OPENPOSE.index[name]] = (x * unit, y * unit, 0.9)
  keypoints = np.repeat(keypoints, frames, 0)
  phase = generator.uniform(0, 2 * np.pi, keypoints.shape[2])
  time = np.arange(frames)[:, None]
  keypoints[:, 0] += 0.01 * unit * np.sin(0.2 * time + phase)
  keypoints[:, 1] += 0.01 * unit * np.cos(0.17 * time + phase)
  keypoints[:, 0] += width / 2
  keypoints[:, 1] += 0.45 * height
  return (keypoints * (keypoints[:, 2:] > 0)).astype(np.float32)


def make_source(folder, name, frames, fps=15, seed=0):
  """Writes `<folder>/videos/<name>.mp4` and the OpenPose folder of that video."""
  (folder / "videos").mkdir(parents=True, exist_ok=True)
  times = np.arange(frames) / fps
  sound = noise(frames / fps, seed=seed)
  write_video(folder / "videos" / f"{name}.mp4", times, sound=sound)
  keypoints = person(frames, WIDTH, HEIGHT, seed=seed)
  openpose.write_openpose_folder(keypoints, folder / "json" / name)
  return keypoints


def options(folder, **more):
  """Options for the files written by `make_source`."""
  values = {
    "videos": folder / "videos",
    "speaker": "eve",
    "root": folder / "data",
    "keypoints": "openpose",
    "openpose_dir": folder / "json",
  }
  return Options(**(values | more))
