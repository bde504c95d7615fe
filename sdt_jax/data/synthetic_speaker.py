"""The synthetic speaker: speech and gestures with known causes.

It is a data set that needs no download, and a measuring instrument: the mouth opening,
the prominence and the hidden template of each frame are known, so one can measure what
a model has learnt. The audio (`synthetic_voice`) determines the lips, and the timing of
strokes and nods. It does not determine the position of the hands, which hand gestures,
the turn of the head or the lean of the shoulders. These form the template, which
is drawn for each phrase from a separate random stream. A regression from audio can only
predict its mean.

Conventions: 1280x720 pixels, x to the right, y down, z towards the viewer. "Left" and
"right" are the person's own, so the left hand is on the right of the image. Frame i
shows the time (i + 0.5) / 15 s. The arms move in the image plane, so their bones have
constant lengths in pixels. Body measures are in shoulder widths.
"""

import dataclasses
import itertools
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sdt_jax import keypoints as kp
from sdt_jax.audio import FPS, num_samples
from sdt_jax.data import synthetic_voice
from sdt_jax.data.synthetic_voice import TRACK_RATE, Script, Speech, Voice

TEMPLATE_NAMES: tuple[str, ...] = (
  "left_hand_height",
  "left_hand_spread",
  "right_hand_height",
  "right_hand_spread",
  "handedness",  # positive: the right hand gestures more
  "head_turn",  # positive: towards the person's left
  "shoulder_lean",  # positive: the left shoulder is lower
)

_NECK_PX = np.array([640.0, 300.0])
_SKULL_BASE = -0.36  # y relative to the neck; the head turns about this point
_WRIST_BEND = 0.3  # of a relaxed hand towards the thumb, radians
_BLINK_SECONDS = 0.13
_TEMPLATE_CHANGE_SECONDS = 0.9
_JITTER_PX = 0.4
_STREAMS = {"sound": 0, "template": 1, "body": 2}

# From the data file:
# head     points in shoulder widths from the skull base
# hand     of each finger, in hand lengths: the root, the bones, splay and curl
# style    the range of each attribute of a `SyntheticSpeaker`, in the order of drawing
# gesture  (rest, preparation, stroke, hold, retraction); each row is: time relative to
#          the beat in seconds, height, outward reach. Minimum-jerk movements connect
#          the rows
# nod      time relative to the beat in seconds, angle (1 for the lowest chin)
_BODY: dict[str, Any] = json.loads(
  (pathlib.Path(__file__).parents[1] / "assets" / "synthetic_body.json").read_text()
)

# Indices of the face points that move relative to the head.
_LIPS = list(range(48, 68))
_UPPER_LIP = [49, 50, 51, 52, 53, 61, 62, 63]
_LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]
_LIP_CORNERS = [48, 54, 60, 64]
_JAW = list(range(1, 16))
_BROWS = list(range(17, 27))
_UPPER_LIDS, _LOWER_LIDS = [37, 38, 43, 44], [41, 40, 47, 46]


@dataclasses.dataclass(frozen=True)
class SyntheticSpeaker:
  """A voice, a body and a style. Lengths are in shoulder widths, angles in radians."""

  name: str  # all other attributes are derived from it
  voice: Voice
  shoulder_width_px: float  # distance between the shoulder joints
  upper_arm: float  # length
  forearm: float
  hand: float
  head: float  # size relative to the average
  face_width: float  # relative to its height; the average is 1
  hand_height: float  # mean position of the wrists below the neck
  hand_spread: float  # mean position of the wrists beside the neck
  place_range: float  # standard deviation of that position over phrases
  stroke: float  # how far a hand rises for a gesture
  head_turn: float  # standard deviation over phrases
  shoulder_lean: float  # standard deviation over phrases
  nod: float  # angle of a nod
  open_mouth: float  # distance between the inner lips at an opening of 1


class Performance(NamedTuple):
  """A "video" of T frames, and what caused its motion.

  Attributes:
    audio: (num_samples(T),) float32, 16 kHz, in [-1, 1].
    keypoints: (T, dims + 1, joints) float32 of `OPENPOSE`: x, y in pixels of 1280x720,
      and confidence; hips, legs and feet are not detected, so they are zero.
    mouth_opening: (T,) float32 in [0, 1].
    prominence: (T,) float32 in [0, 1], positive in prominent vowels.
    template: (T, D) float32, values of `TEMPLATE_NAMES`; zero mean and unit variance
      over phrases, constant within a phrase. It depends on the speaker, the seed and
      the times of the phrases; the audio does not depend on it.
  """

  audio: np.ndarray
  keypoints: np.ndarray
  mouth_opening: np.ndarray
  prominence: np.ndarray
  template: np.ndarray


def make_speaker(name: str) -> SyntheticSpeaker:
  """The speaker with this name: any name works, and always gives the same speaker."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  tract = rng.uniform(-1, 1)  # from a long to a short vocal tract
  return SyntheticSpeaker(
    name=name,
    voice=Voice(
      pitch_hz=155 * 1.45**tract * rng.uniform(0.93, 1.07),
      formant_scale=1.04 + 0.1 * tract,
      rate=rng.uniform(0.92, 1.08),
    ),
    shoulder_width_px=305 - 18 * tract + rng.uniform(-12, 12),
    **{name: rng.uniform(*limits) for name, limits in _BODY["style"].items()},
  )


def perform(speaker: SyntheticSpeaker, seed: int, num_frames: int) -> Performance:
  """Generates one performance.

  Args:
    speaker: from `make_speaker`.
    seed: at least 0; the same speaker, seed and length give the same bits.
    num_frames: length in frames of 1/15 s, at least 1.
  """
  samples = num_samples(num_frames)
  speech = synthetic_voice.speak(speaker.voice, _rng(speaker, seed, "sound"), samples)
  times = (np.arange(num_frames) + 0.5) / FPS
  template = _template(speech.script, times, _rng(speaker, seed, "template"))
  rng = _rng(speaker, seed, "body")
  cues = _cues(speech, times, template, rng)
  return Performance(
    speech.audio,
    _detect(_body_px(speaker, cues), rng),
    cues.opening.astype(np.float32),
    _at(speech.prominence, times).astype(np.float32),
    template.astype(np.float32),
  )


def _rng(speaker: SyntheticSpeaker, seed: int, stream: str) -> np.random.Generator:
  """A separate random stream for each cause."""
  key = zlib.crc32(speaker.name.encode())
  return np.random.default_rng([key, seed, _STREAMS[stream]])


def _at(track: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Values of an articulation track at the given times in seconds."""
  return np.interp(times * TRACK_RATE - 0.5, np.arange(len(track)), track)


def _minimum_jerk(x: np.ndarray) -> np.ndarray:
  """Rises from 0 at x <= 0 to 1 at x >= 1 as hands move (Flash and Hogan, 1985)."""
  x = np.clip(x, 0, 1)
  return x**3 * (10 - 15 * x + 6 * x * x)


def _template(
  script: Script, times: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """(T, D): one draw per phrase, with smooth transitions in the pauses between."""
  shape = (len(script.phrase_starts), len(TEMPLATE_NAMES))
  phrases = rng.uniform(-np.sqrt(3), np.sqrt(3), shape)  # bounded, unit variance
  begin = script.phrase_starts - 0.75 * _TEMPLATE_CHANGE_SECONDS
  now = np.maximum(np.searchsorted(begin, times, side="right") - 1, 0)
  before = np.maximum(now - 1, 0)
  done = _minimum_jerk((times - begin[now]) / _TEMPLATE_CHANGE_SECONDS)[:, None]
  return phrases[before] * (1 - done) + phrases[now] * done


class _Cues(NamedTuple):
  """What determines the motion of the body; arrays of shape (T,).

  `hidden` maps the name of each template value to its array. `rise`, `reach` and `nod`
  are the sum of the movements on beats; `sideways`, `upwards` and `breath` oscillate
  between -1 and 1; `lids` is 1 when the eyes are closed.
  """

  hidden: dict[str, np.ndarray]
  opening: np.ndarray
  spread: np.ndarray
  activity: np.ndarray
  rise: np.ndarray
  reach: np.ndarray
  nod: np.ndarray
  lids: np.ndarray
  sideways: np.ndarray
  upwards: np.ndarray
  breath: np.ndarray


def _cues(
  speech: Speech, times: np.ndarray, template: np.ndarray, rng: np.random.Generator
) -> _Cues:
  blinks = np.cumsum(rng.uniform(2.0, 5.0, size=2 + int(times[-1] / 2)))
  sway_hz = rng.uniform([0.05, 0.08, 0.22], [0.1, 0.15, 0.3])
  phase = rng.uniform(0, 2 * np.pi, 3)
  sideways, upwards, breath = np.sin(2 * np.pi * sway_hz * times[:, None] + phase).T
  rise, reach = _on_beats(speech.script, times, np.array(_BODY["gesture"]))
  (nod,) = _on_beats(speech.script, times, np.array(_BODY["nod"]))
  return _Cues(
    hidden=dict(zip(TEMPLATE_NAMES, template.T, strict=True)),
    opening=_at(speech.opening, times),
    spread=_at(speech.spread, times),
    activity=_at(speech.activity, times),
    rise=rise,
    reach=reach,
    nod=nod,
    lids=np.clip(1.5 - _distance_to_nearest(blinks, times) / _BLINK_SECONDS, 0, 1),
    sideways=sideways,
    upwards=upwards,
    breath=breath,
  )


def _on_beats(script: Script, times: np.ndarray, knots: np.ndarray) -> np.ndarray:
  """Sum over all beats of the movement through `knots` (K, 1 + n) -> (n, T)."""
  total = np.zeros((knots.shape[1] - 1, len(times)))
  for beat, strength in zip(script.beats, script.beat_strengths, strict=True):
    during = slice(*np.searchsorted(times, beat + knots[[0, -1], 0]))
    for before, after in itertools.pairwise(knots):
      since = times[during] - beat - before[0]
      done = _minimum_jerk(since / (after[0] - before[0]))
      total[:, during] += strength * (after - before)[1:, None] * done
  return total


def _distance_to_nearest(events: np.ndarray, times: np.ndarray) -> np.ndarray:
  """(T,) seconds between each time and the nearest event."""
  padded = np.concatenate([[-np.inf], events, [np.inf]])
  following = np.searchsorted(events, times) + 1
  return np.minimum(times - padded[following - 1], padded[following] - times)


def _body_px(speaker: SyntheticSpeaker, cues: _Cues) -> dict[str, np.ndarray]:
  """Joint name -> (T, 2) pixels x, y, for every visible joint."""
  neck = 0.012 * _stack(cues.sideways, cues.upwards)
  points = {"neck": neck, **_shoulders(speaker, cues, neck)}
  for side in ("left", "right"):
    points |= _arm_and_hand(speaker, cues, side, neck, points[f"{side}_shoulder"])
  points |= _head(speaker, cues, neck)
  return {k: _NECK_PX + speaker.shoulder_width_px * p for k, p in points.items()}


def _stack(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
  return np.stack(np.broadcast_arrays(x, y), -1)


def _shoulders(
  speaker: SyntheticSpeaker, cues: _Cues, neck: np.ndarray
) -> dict[str, np.ndarray]:
  angle = speaker.shoulder_lean * cues.hidden["shoulder_lean"]
  half = 0.5 * _stack(np.cos(angle), np.sin(angle))
  centre = neck + _stack(0.0, 0.01 + 0.004 * cues.breath)
  return {"left_shoulder": centre + half, "right_shoulder": centre - half}


def _arm_and_hand(
  speaker: SyntheticSpeaker,
  cues: _Cues,
  side: str,
  neck: np.ndarray,
  shoulder: np.ndarray,
) -> dict[str, np.ndarray]:
  outward = 1.0 if side == "left" else -1.0
  # How much of the gesturing this hand does; uniform in [0, 1] over phrases.
  share = 0.5 - outward * cues.hidden["handedness"] / (2 * np.sqrt(3))
  stroke = speaker.stroke * (0.15 + 0.85 * share)
  sunk = 0.06 * (1 - cues.activity)  # hands sink in pauses
  place_x, place_y = (
    speaker.place_range * cues.hidden[f"{side}_hand_{way}"]
    for way in ("spread", "height")
  )
  target = neck + _stack(
    outward * (speaker.hand_spread + place_x + stroke * cues.reach),
    speaker.hand_height - place_y - stroke * cues.rise + sunk,
  )
  elbow, wrist = _bend_arm(speaker, shoulder, target, outward)
  openness = share * (0.35 + 0.65 * np.clip(2 * cues.reach, 0, 1))
  hand = _hand(speaker, wrist, wrist - elbow, openness, outward)
  named = {f"{side}_hand_{name}": points for name, points in hand.items()}
  return {f"{side}_elbow": elbow, f"{side}_wrist": wrist, **named}


def _bend_arm(
  speaker: SyntheticSpeaker, shoulder: np.ndarray, target: np.ndarray, outward: float
) -> tuple[np.ndarray, np.ndarray]:
  """Elbow and wrist (T, 2) of an arm that reaches for the target, elbow outwards.

  The arm has two bones of fixed length in a plane. If the target is out of reach, the
  wrist gets as close as possible.
  """
  upper, fore = speaker.upper_arm, speaker.forearm
  line = target - shoulder
  distance = np.hypot(line[:, 0], line[:, 1])
  reached = np.clip(distance, 1.05 * (upper - fore), 0.98 * (upper + fore))
  cosine = (upper**2 + reached**2 - fore**2) / (2 * upper * reached)
  angle = np.arctan2(line[:, 1], line[:, 0])
  elbow = shoulder + upper * _unit(angle - outward * np.arccos(cosine))
  wrist = shoulder + reached[:, None] * _unit(angle)
  return elbow, wrist


def _unit(angle: np.ndarray) -> np.ndarray:
  return _stack(np.cos(angle), np.sin(angle))


def _hand(
  speaker: SyntheticSpeaker,
  wrist: np.ndarray,
  forearm: np.ndarray,
  openness: np.ndarray,
  outward: float,
) -> dict[str, np.ndarray]:
  """Joint name -> (T, 2) of a hand that continues the forearm.

  Args:
    speaker: the speaker.
    wrist: (T, 2) position.
    forearm: (T, 2) vector from elbow to wrist.
    openness: (T,) of the fingers, from 0 (half closed) to 1 (stretched).
    outward: 1 for the left hand, -1 for the right hand.
  """
  angle = np.arctan2(forearm[:, 1], forearm[:, 0]) + outward * _WRIST_BEND
  along, thumbwards = _unit(angle), _unit(angle + outward * np.pi / 2)
  points = {"root": wrist}
  for finger, bones in _BODY["hand"].items():
    for j, (a, b) in enumerate(_finger(bones, openness), start=1):
      offset = a[:, None] * along + b[:, None] * thumbwards
      points[f"{finger}_{j}"] = wrist + speaker.hand * offset
  return points


def _finger(
  bones: dict, openness: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the coordinates (T,) of four joints: along the hand, towards the thumb.

  The back of the hand is seen at an angle, so that a finger that curls away from the
  viewer remains visible: further along the hand, and away from the thumb.
  """
  position = np.array(bones["root"])[:, None] + 0 * openness
  splay = np.radians(bones["splay_deg"]) * (0.8 + 0.4 * openness)
  bend = 0 * openness
  for length in (0.0, *bones["bones"]):
    position = position + length * np.stack(
      [np.cos(bend) * np.cos(splay), np.cos(bend) * np.sin(splay), np.sin(bend)]
    )
    bend = bend + bones["curl"] * (0.85 - 0.75 * openness)
    along, thumbwards, depth = position
    yield 0.87 * along + 0.5 * depth, thumbwards - 0.43 * depth


def _head(
  speaker: SyntheticSpeaker, cues: _Cues, neck: np.ndarray
) -> dict[str, np.ndarray]:
  """Face, nose, eyes and ears of a rigid head that turns, with moving lips and lids."""
  names, still = list(_BODY["head"]), np.array(list(_BODY["head"].values()))
  still *= speaker.head
  shape = np.repeat(still[None], len(neck), 0)
  shape[:, :, 0] *= speaker.face_width
  rows = [names.index(name) for name in kp.OPENPOSE.parts["face"]]
  face = shape[:, rows]
  _move_mouth(speaker, cues, face)
  _move_eyes(cues, face)
  shape[:, rows] = face
  base = neck + np.array([0, _SKULL_BASE * speaker.head])
  xy = base[:, None] + _turn(
    shape,
    yaw=speaker.head_turn * cues.hidden["head_turn"],
    nod=speaker.nod * cues.nod,
    roll=0.8 * speaker.shoulder_lean * cues.hidden["shoulder_lean"],
  )
  return {name: xy[:, i] for i, name in enumerate(names)}


def _move_mouth(speaker: SyntheticSpeaker, cues: _Cues, face: np.ndarray):
  """Opens the mouth and rounds or spreads the lips of `face` (T, 70, 3) in place."""
  opening, spread = cues.opening[:, None], cues.spread[:, None]
  gap = speaker.open_mouth * opening
  face[:, _LIPS, 0] *= 1 + 0.14 * spread - 0.08 * opening
  face[:, _UPPER_LIP, 1] -= 0.2 * gap
  face[:, _LIP_CORNERS, 1] += 0.25 * gap
  face[:, _LOWER_LIP, 1] += 0.8 * gap
  follows = np.cos(np.linspace(-1, 1, len(_JAW)) * np.pi / 2)
  face[:, _JAW, 1] += 0.7 * gap * follows


def _move_eyes(cues: _Cues, face: np.ndarray):
  """Closes the lids of `face` (T, 70, 3) in place, and raises its brows on beats."""
  above, below = face[:, _UPPER_LIDS, 1], face[:, _LOWER_LIDS, 1]
  face[:, _UPPER_LIDS, 1] += cues.lids[:, None] * (below - above)
  face[:, _BROWS, 1] -= 0.02 * np.maximum(cues.nod, 0)[:, None]


def _turn(
  shape: np.ndarray, yaw: np.ndarray, nod: np.ndarray, roll: np.ndarray
) -> np.ndarray:
  """Turns (T, N, 3) to the left, down and sideways; orthographic view (T, N, 2)."""
  x, y, z = np.moveaxis(shape, -1, 0)
  yaw, nod, roll = yaw[:, None], nod[:, None], roll[:, None]
  x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
  y = y * np.cos(nod) + z * np.sin(nod)
  cos, sin = np.cos(roll), np.sin(roll)
  return _stack(x * cos - y * sin, x * sin + y * cos)


def _detect(points: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
  """`OPENPOSE` keypoints (T, dims + 1, joints): with noise and confidence."""
  num_frames = len(points["neck"])
  keypoints = np.zeros((num_frames, *kp.OPENPOSE.detection_shape), np.float32)
  index = kp.OPENPOSE.indices(*points)
  xy = np.stack(list(points.values()), -1)
  keypoints[:, :-1, index] = xy + _JITTER_PX * rng.standard_normal(xy.shape)
  keypoints[:, -1, index] = rng.uniform(0.8, 0.95, (num_frames, len(index)))
  return keypoints
