"""Scores of long sounds: neighbouring clips, windows, seams, drift; an hour."""

import json
import tracemalloc

import numpy as np
import pytest
import tiny

from sdt_jax import audio, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import pipeline, synthetic_speaker
from sdt_jax.data.clip_store import ClipStore
from sdt_jax.errors import UserError
from sdt_jax.evaluation import long, registry, scoring
from sdt_jax.evaluation import run as evaluation
from sdt_jax.synthesis import generate
from sdt_jax.synthesis.windows import (
  FRAMES,
  WHOLE_SOUND,
  Schedule,
  WindowedStream,
  live,
)
from sdt_jax.training import runs, setup

SAMPLES = audio.num_samples(FRAMES)
SHAPE = kp.UPPER_BODY.shape


@pytest.fixture(scope="module")
def video():
  speaker = synthetic_speaker.make_speaker("ada")
  performance = synthetic_speaker.perform(speaker, seed=3, num_frames=400)
  return performance.audio, pose.from_openpose(performance.keypoints)


def _split(video, places) -> pipeline.Split:
  """Clips of the video, at (name of the video, first frame)."""
  sound, poses_px = video
  rows = np.arange(len(places))
  names, starts = zip(*places, strict=True)
  columns = {
    "clip_id": np.array([f"{n}-{s}".encode() for n, s in places]),
    "video": np.array([n.encode() for n in names]),
    "start": np.array(starts),
    "frame_start": rows * FRAMES,
    "audio_start": rows * SAMPLES,
  }
  types = [(name, column.dtype) for name, column in columns.items()]
  at = [max(start, 0) for start in starts]
  arrays = {
    "audio": np.concatenate([sound[audio.num_samples(a) :][:SAMPLES] for a in at]),
    "poses": np.concatenate([poses_px[a : a + FRAMES] for a in at]),
    "clips": np.rec.fromarrays(list(columns.values()), dtype=types),
  }
  return pipeline.Split(ClipStore(arrays), _table(poses_px))


def _table(poses_px) -> pose.PoseTable:
  detected = np.ones((len(poses_px), kp.UPPER_BODY.num_joints), bool)
  return speakers.from_poses("ada", poses_px, detected).table(False)


@pytest.mark.parametrize("step", [5, 16, 48, 64])
def test_neighbouring_clips_give_back_the_video(video, step):
  starts = range(20, 20 + 4 * step, step)
  places = [("a", start) for start in starts]
  np.random.default_rng(0).shuffle(places)
  num_frames = 3 * step + FRAMES
  [sound], [truth_px], dropped = long.join_clips(
    _split(video, places), num_frames / audio.FPS, "dev"
  )
  first = audio.num_samples(20)
  expected = video[0][first : first + len(sound)]
  assert len(sound) == audio.num_samples(num_frames)
  # Clips that touch lack at most the sample between them.
  assert (sound != expected).sum() <= (3 if step == FRAMES else 0)
  assert np.abs(sound - expected).max() < 0.1
  scale = _table(video[1]).scale_factor
  np.testing.assert_allclose(
    truth_px, scale * video[1][20 : 20 + num_frames], atol=1e-2
  )
  assert dropped == 0


def test_gaps_and_other_videos_end_a_stretch_and_the_rest_is_counted(video):
  places = [("a", 0), ("a", 64), ("a", 128), ("a", 193), ("b", 257), ("b", 300)]
  found = long.join_clips(_split(video, places), 100 / audio.FPS, "dev")
  assert len(found.sounds) == 2
  # Of "a" 192 - 100 and the last 64; of "b" 7.
  assert found.dropped == 92 + 64 + 7
  np.testing.assert_allclose(
    found.sounds[1], video[0][audio.num_samples(257) :][: len(found.sounds[1])]
  )
  assert found.windows_px.shape == (2, FRAMES, *SHAPE)
  assert found.windows_sound.shape == (2, SAMPLES)


@pytest.mark.parametrize(
  ("places", "seconds", "message"),
  [
    ([("a", 0), ("a", 64)], 9, r"longest .* in the split dev is 8\.5 s; .*--long=8\.5"),
    ([("a", -1), ("a", 64)], 8, "does not say which video"),
    ([("", 0), ("", 64)], 8, "does not say which video"),
    ([("a", 0), ("a", 64)], 3, r"--long=3: give at least 4\.3"),
    ([("a", 0), ("a", 64)], float("nan"), "--long=nan"),
    ([("a", 0), ("a", 64)], float("inf"), "--long=inf"),
  ],
)
def test_impossible_lengths_are_user_errors(video, places, seconds, message):
  with pytest.raises(UserError, match=message):
    long.join_clips(_split(video, places), seconds, "dev")


class _Loudness:
  """Poses that depend on the sound of their own frame, and on a template.

  `length_matters` adds what depends on the length of the sound.
  """

  def __init__(self, table, length_matters=0.0):
    self._table, self._length_matters = table, length_matters

  def generate_many(self, sounds, codes, seed=0, generation="windowed"):
    return [
      self._generate(s, c, generation) for s, c in zip(sounds, codes, strict=True)
    ]

  def _generate(self, sound, code, generation):
    num_frames = audio.num_frames(len(sound))
    # A clip's frames start up to a sample earlier or later than those of the video.
    starts = np.arange(num_frames) * 16_000 // 15 + 2
    value = np.array([np.abs(sound[s : s + 1060]).mean() for s in starts]) + code[0]
    if generation == "whole":
      value = value + self._length_matters * (num_frames - FRAMES)
    norm = np.broadcast_to(value[:, None, None], (num_frames, *SHAPE))
    return pose.to_final(norm.astype(np.float32), self._table)


def _scored(video, model, renderings=1):
  split = _split(video, [("a", start) for start in range(0, 257, 64)])
  stretches = long.join_clips(split, 320 / audio.FPS, "dev")
  codes = [[np.full(3, 0.1 * i)] for i in range(renderings)]
  table = _table(video[1])
  return split, long.score(model, stretches, codes, table, np.ones(4))


def test_a_model_that_ignores_the_length_scores_as_on_clips(video):
  model = _Loudness(_table(video[1]))
  split, result = _scored(video, model, renderings=2)
  rows = np.arange(len(split))
  clips = split.read(rows)["audio"]
  onsets = [np.array([0.5, 1.0])] * len(rows)
  scorer = scoring.Scorer(
    scoring.Clips(
      split.poses_px(rows), registry.Sounds(onsets, np.ones(4)), _table(video[1])
    )
  )
  expected = scorer.score(
    [np.stack(model.generate_many(clips, [np.full(3, c)] * 5)) for c in (0, 0.1)]
  ).scores
  for name in ("l2", "lip_sync", "acceleration", "jerk", "hellinger_speed"):
    for column in ("windowed", "whole", "clips"):
      score = result.scores[column][name]
      assert score.value == pytest.approx(expected[name].value, rel=0.02), (
        column,
        name,
      )
      assert score.num_clips == 5
  assert result.scores["windowed"]["bc_ha2g"].num_clips <= 5


def test_a_model_that_is_worse_in_one_pass_is_seen_only_there(video):
  _, result = _scored(video, _Loudness(_table(video[1]), length_matters=0.01))
  l2 = {name: scores["l2"].value for name, scores in result.scores.items()}
  assert l2["windowed"] == pytest.approx(l2["clips"], rel=0.02)
  assert l2["whole"] > 1.5 * l2["clips"]


@pytest.mark.parametrize(
  "schedule", [WHOLE_SOUND, Schedule(40, 8, 0), Schedule(9, 1, 2)]
)
def test_seams_are_where_windows_meet(schedule):
  num_frames = 300
  ends = np.arange(FRAMES, num_frames, schedule.hop) - schedule.look_ahead
  rng = np.random.default_rng(0)
  # Windows are constant, and blended over the last `fade` frames of each.
  weight = np.clip(
    (np.arange(num_frames)[:, None] - ends + schedule.fade + 1) / (schedule.fade + 1),
    0,
    1,
  )
  height = weight @ rng.choice([-10.0, 10.0], len(ends))
  motion = np.broadcast_to(height[:, None, None], (num_frames, *SHAPE))
  for order in (1, 2):
    changes = long.changes(motion[None], order)[0]
    seam = long._at_seams(num_frames, schedule, order)
    assert np.abs(changes[~seam]).max() < 1e-9
    assert (np.abs(changes[seam]) > 1e-9).any()
    assert seam.sum() == len(ends) * min(schedule.fade + order, schedule.hop)
  if not seam.all():
    smooth = motion + np.cumsum(rng.normal(size=(num_frames, *SHAPE)), axis=0)
    ratios = long.seam_ratios(smooth[None], schedule)
    assert ratios["speed"] > 1.1
    flat = long.seam_ratios((smooth - motion)[None], schedule)
    assert flat["speed"] == pytest.approx(1, abs=0.05)


def test_motion_without_seams_has_no_ratio():
  ratios = long.seam_ratios(np.zeros((1, FRAMES, *SHAPE)), WHOLE_SOUND)
  assert np.isnan([ratios["speed"], ratios["acceleration"]]).all()


def test_drift_is_seen_by_minute():
  num_frames = 2 * 900 + 200
  size = np.linspace(1, 5, num_frames)
  height = size * np.where(np.arange(num_frames) % 2, 1, -1)
  motion = np.broadcast_to(height[:, None, None], (1, num_frames, *SHAPE))
  errors = np.linspace(0, 1, num_frames // FRAMES)[None]
  minutes = long.drift_by_minute({"windowed": errors}, {"windowed": motion})
  assert len(minutes) == 3
  speeds = [minute["speed"]["windowed"] for minute in minutes]
  # Frames differ by twice their size in x and in y.
  expected = [size[i : i + 900].mean() * 2 * np.sqrt(2) * 15 for i in (0, 900, 1800)]
  np.testing.assert_allclose(speeds, expected, rtol=0.01)
  lip_sync = [minute["lip_sync"]["windowed"] for minute in minutes]
  assert lip_sync == sorted(lip_sync)
  # Windows 0 to 14 begin in the first minute; 28 does in the second.
  np.testing.assert_allclose(
    lip_sync, [errors[0, :15].mean(), errors[0, 15:29].mean(), errors[0, 29:].mean()]
  )


@pytest.fixture(scope="module")
def sdt(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sdt")
  config = tiny.config(folder / "data", num_epochs=1)
  config.log.video_every_epochs = 0
  tiny.train(config, folder / "w")
  return folder / "w"


def _result(path, **options) -> dict:
  return json.loads(
    evaluation.evaluate_run(path, evaluation.Options(**options)).read_text()
  )


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vae")
  config = tiny.config(folder / "data", num_epochs=1, experiment="pose2pose")
  config.checkpoint.best_metric = "l1"
  config.log.video_every_epochs = 0
  tiny.train(config, folder / "w")
  return folder / "w"


@pytest.mark.parametrize("template", ["random", "encoder"])
def test_long_scores_stand_beside_those_of_clips(sdt, vae, capsys, template):
  options = {"template": template, "pose_vae": str(vae)}
  plain = _result(sdt, **options)
  # The five dev clips are 128 frames of one performance.
  both = _result(sdt, long=8.5, **options)
  assert both["metrics"] == plain["metrics"]
  assert "long_sounds" not in plain
  found = both["long_sounds"]
  assert found["num_stretches"] == 1
  assert found["seconds"] == pytest.approx(128 / 15)
  assert set(found["metrics"]) == {"windowed", "whole", "clips"}
  for scores in found["metrics"].values():
    assert scores["lip_sync"]["value"] > 0
    assert scores["ftd"]["value"] > 0
  assert set(found["seams"]["windowed"]) == {"speed", "acceleration"}
  assert len(found["minutes"]) == 1
  printed = capsys.readouterr().out
  assert "long sounds: 1 x 8.5 s of neighbouring clips" in printed
  assert "seams over elsewhere" in printed


def test_a_single_window_has_no_ftd(sdt, vae):
  found = _result(sdt, long=5, pose_vae=str(vae))["long_sounds"]
  assert "ftd" not in found["metrics"]["windowed"]
  assert found["dropped_seconds"] == pytest.approx((128 - 75) / 15)


def test_the_long_motion_is_what_users_get(sdt):
  run = runs.load(sdt)
  split = pipeline.Split(setup.build_data(run.config).sources["dev"], run.table)
  stretches = long.join_clips(split, 8, "dev")
  model = generate.load(sdt)
  code = model.choose_template(3)
  result = long.score(model, stretches, [[code]], run.table, np.ones(4))
  motion = model.generate(stretches.sounds[0], audio.SAMPLE_RATE, template=3)
  expected = long.lip_error(motion, stretches.truth_px[0])
  assert result.scores["windowed"]["lip_sync"].value == pytest.approx(expected)


def test_a_length_that_the_split_lacks_writes_nothing(sdt):
  before = set(sdt.iterdir())
  with pytest.raises(UserError, match="--long=60: the longest stretch"):
    _result(sdt, long=60, seed=7)
  assert set(sdt.iterdir()) == before


def test_a_pose_vae_takes_no_sound(vae):
  with pytest.raises(UserError, match="takes no audio; leave out --long"):
    _result(vae, long=8)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [WHOLE_SOUND, live(hop=8)], ids=str)
def test_an_hour_streams_in_constant_memory(schedule):
  def loudness(sounds, templates):
    values = np.abs(sounds[:, :: SAMPLES // FRAMES])[:, :FRAMES]
    return np.broadcast_to(values[..., None, None], (len(sounds), FRAMES, *SHAPE))

  rng = np.random.default_rng(0)
  stream = WindowedStream(loudness, schedule, np.zeros(3, np.float32))
  frames, peaks = 0, []
  tracemalloc.start()
  try:
    for _ in range(60):
      tracemalloc.reset_peak()
      for _ in range(60):
        frames += len(stream.feed(rng.uniform(-1, 1, audio.SAMPLE_RATE)))
      stream.set_template(rng.uniform(size=3))
      peaks.append(tracemalloc.get_traced_memory()[1])
  finally:
    tracemalloc.stop()
  assert frames + len(stream.finish()) == 3600 * audio.FPS
  assert max(peaks[1:]) < 1.1 * peaks[1]
  assert max(peaks) < 30e6


def test_a_window_gets_its_part_of_the_templates_of_a_stretch():
  rows = np.arange(3 * long.FRAMES * 2, dtype=np.float32).reshape(-1, 2)
  for window in range(3):
    part = long._part(rows, window)
    np.testing.assert_array_equal(part, rows[window * long.FRAMES :][: long.FRAMES])
  assert long._part(rows[0], 2) is not None
  np.testing.assert_array_equal(long._part(rows[0], 2), rows[0])
  assert long._part(None, 2) is None
