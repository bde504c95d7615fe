"""Each metric equals a naive loop and the original's numbers; its invariances."""

import dataclasses
import itertools
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax.audio import FPS, SAMPLE_RATE
from sdt_jax.errors import UserError
from sdt_jax.evaluation import metrics, registry

GOLDEN = golden.load("metrics")
SKELETON = kp.UPPER_BODY


def random_poses(seed, clips=3, frames=7):
  rng = np.random.default_rng(seed)
  return rng.normal(0, 100, (clips, frames, *SKELETON.shape)).astype(np.float32)


PRED, TRUTH = random_poses(0), random_poses(1)


def per_clip(pred, truth):
  """All metrics; for this test, plain pixels stand for normalised poses."""
  return registry.per_clip(pred, truth, pred, truth)


def test_golden():
  values = per_clip(GOLDEN["pred"], GOLDEN["gt"])
  np.testing.assert_allclose(values["l2"].mean(), GOLDEN["L2_dist"], rtol=1e-6)
  expected = GOLDEN["lip_sync_error_n"]
  np.testing.assert_allclose(values["lip_sync"].mean(), expected, rtol=1e-6)


# --- The formulas once more, for one clip (T, dims, joints), on the host


def distance(a, b):
  """(..., dims, joints) twice -> (..., joints)."""
  return np.hypot(a[..., 0, :] - b[..., 0, :], a[..., 1, :] - b[..., 1, :])


def joint(poses, name):
  """(T, dims, joints) -> (T, dims, 1)."""
  return poses[..., [SKELETON.index[name]]]


def naive_lip_sync(pred, truth):
  opening, true_opening = (
    distance(joint(x, "face_62"), joint(x, "face_66")) for x in (pred, truth)
  )
  return np.mean(abs(opening - true_opening) / (max(true_opening) + 1e-4))


def naive_pck(pred, truth):
  hits = []
  for p, t in zip(pred, truth, strict=True):
    radius = 0.2 * max(t[0].max() - t[0].min(), t[1].max() - t[1].min())
    hits.append(distance(p, t) <= radius)
  return np.mean(hits)


def naive_lvd(pred, truth):
  return 15 * np.mean(distance(pred[1:] - pred[:-1], truth[1:] - truth[:-1]))


def naive_diversity_l1(poses):
  return np.mean([np.abs(frame - poses.mean(0)).mean() for frame in poses])


def naive_acceleration(x):
  return 15**2 * np.mean(distance(x[2:] + x[:-2], 2 * x[1:-1]))


def naive_jerk(x):
  return 15**3 * np.mean(distance(x[3:] + 3 * x[1:-2], 3 * x[2:-1] + x[:-3]))


def naive_bone_length_cv(poses):
  cvs = []
  for side in ("left", "right"):
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist")):
      lengths = distance(joint(poses, f"{side}_{a}"), joint(poses, f"{side}_{b}"))
      cvs.append(np.std(lengths) / np.mean(lengths))
  return np.mean(cvs)


OF_PAIR = {
  "l2": lambda pred, truth: distance(pred, truth).mean(),
  "l1_regression": lambda pred, truth: np.abs(pred - truth).mean(),
  "lip_sync": naive_lip_sync,
  "pck@0.2": naive_pck,
  "lvd": naive_lvd,
}
OF_MOTION = {
  "diversity_l1": naive_diversity_l1,
  "acceleration": naive_acceleration,
  "jerk": naive_jerk,
  "bone_length_cv": naive_bone_length_cv,
}


def test_every_metric_equals_its_naive_form():
  values = per_clip(PRED, TRUTH)
  expected = {
    name: [naive(p, t) for p, t in zip(PRED, TRUTH, strict=True)]
    for name, naive in OF_PAIR.items()
  }
  for name, naive in OF_MOTION.items():
    expected[name] = [naive(p) for p in PRED]
    expected[f"{name}_truth"] = [naive(t) for t in TRUTH]
  assert values.keys() == expected.keys()
  for name, value in values.items():
    np.testing.assert_allclose(value, expected[name], rtol=2e-5, err_msg=name)


def test_diversity_samples_is_the_mean_over_pairs():
  samples = np.stack([random_poses(seed) for seed in range(4)])
  pairs = [(a, b) for a in range(4) for b in range(a)]
  expected = np.mean([metrics.l2(samples[a], samples[b]) for a, b in pairs], 0)
  np.testing.assert_allclose(metrics.diversity_samples(samples), expected, rtol=1e-5)
  assert not metrics.diversity_samples(np.stack([PRED, PRED, PRED])).any()
  with pytest.raises(UserError, match="num_samples"):
    metrics.diversity_samples(samples[:1])


def test_hand_speed_histogram_equals_naive_loop():
  poses = random_poses(2) * np.float32(0.5)
  wrists = SKELETON.indices("left_wrist", "right_wrist")
  expected = np.zeros((len(poses), metrics.NUM_SPEED_BINS))
  for i, clip in enumerate(poses[..., wrists]):
    for speed in 15 * distance(clip[1:], clip[:-1]).ravel():
      expected[i, min(int(speed / 25), 79)] += 1
  np.testing.assert_array_equal(metrics.hand_speed_histogram(poses), expected)
  assert expected[:, -1].any()  # the open-ended bin is covered
  assert expected[:, :-1].any()


# --- Properties


def test_truth_against_itself():
  values = per_clip(TRUTH, TRUTH)
  for name in ("l2", "l1_regression", "lip_sync", "lvd"):
    assert not values[name].any()
  assert (values["pck@0.2"] == 1).all()
  for name in OF_MOTION:
    np.testing.assert_array_equal(values[name], values[f"{name}_truth"])


def test_still_motion():
  still = np.broadcast_to(PRED[:, :1], PRED.shape)
  values = per_clip(still, TRUTH)
  for name in OF_MOTION:
    np.testing.assert_allclose(values[name], 0, atol=1e-4)
  assert (metrics.hand_speed_histogram(still)[:, 0] == 2 * (PRED.shape[1] - 1)).all()


def test_constant_velocity_has_no_acceleration_and_constant_acceleration_no_jerk():
  t = np.arange(8, dtype=np.float32)[:, None, None]
  velocity, half = PRED[:, :1].round(), PRED[:, 1:2].round()
  assert not metrics.acceleration(velocity * t).any()
  assert not metrics.jerk(velocity * t + half * t**2).any()
  expected = np.hypot(*np.moveaxis(2 * half[:, 0], 1, 0)).mean(-1) * FPS**2
  accelerated = metrics.acceleration(velocity * t + half * t**2)
  np.testing.assert_allclose(accelerated, expected, rtol=1e-5)


def test_moving_the_person_does_not_change_velocities():
  moved = np.float32([300, -200])[:, None]
  before, after = per_clip(PRED, TRUTH), per_clip(PRED + moved, TRUTH)
  for name in ("lvd", "lip_sync", "diversity_l1", "acceleration", "jerk"):
    np.testing.assert_allclose(after[name], before[name], rtol=1e-4)


def test_metrics_scale_with_the_image():
  before, after = per_clip(PRED, TRUTH), per_clip(2 * PRED, 2 * TRUTH)
  for name in ("l2", "lvd", "diversity_l1", "acceleration", "jerk"):
    np.testing.assert_allclose(after[name], 2 * before[name], rtol=1e-6)
  for name in ("lip_sync", "pck@0.2", "bone_length_cv"):
    np.testing.assert_allclose(after[name], before[name], rtol=1e-5)


def test_pck_counts_a_point_just_within_the_radius():
  truth = np.zeros((1, 4, *SKELETON.shape), np.float32)
  truth[..., 0, 0] = 100  # the bounding box is 100 px wide, so the radius is 20 px
  pred = truth.copy()
  pred[..., 1, 5], pred[..., 1, 6] = 19.5, 20.5
  np.testing.assert_allclose(metrics.pck(pred, truth, 0.2), 1 - 1 / SKELETON.num_joints)


# --- Many devices, padding


def test_one_pass_equals_padded_batches_on_eight_devices():
  pred, truth = random_poses(3, clips=19), random_poses(4, clips=19)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.NamedSharding(mesh, jax.P("data"))
  step = jax.jit(per_clip, in_shardings=sharded, out_shardings=sharded)
  batches = []
  for start in (0, 8, 16):
    clips = [np.resize(x[start : start + 8], (8, *x.shape[1:])) for x in (pred, truth)]
    batches.append((step(*clips), np.arange(start, start + 8) < 19))
  gathered = metrics.collect(batches)
  once = per_clip(pred, truth)
  assert set(gathered) == set(once)
  for name, values in once.items():
    np.testing.assert_allclose(gathered[name], values, rtol=1e-5)


def test_a_clip_of_zeros_is_finite():
  zeros = jnp.zeros((1, 5, *SKELETON.shape))
  for value in per_clip(zeros, zeros).values():
    assert np.isfinite(value).all()


def test_collect_drops_padding_and_refuses_an_empty_result():
  batch = {"l2": np.array([1.0, 2.0, np.nan]), "counts": np.ones((3, 4))}
  gathered = metrics.collect([(batch, np.array([True, True, False]))])
  np.testing.assert_array_equal(gathered["l2"], [1, 2])
  assert gathered["counts"].shape == (2, 4)
  for empty in ([(batch, np.zeros(3, bool))], []):
    with pytest.raises(UserError, match="no clips"):
      metrics.collect(empty)


# --- Means and intervals


def test_summary_is_the_mean_within_its_interval():
  rng = np.random.default_rng(0)
  values = {"a": rng.exponential(size=50), "b": np.full(50, 3.0)}
  summary = metrics.summarize(values)
  assert summary["a"].value == pytest.approx(values["a"].mean(), rel=1e-12)
  assert summary["a"].low < summary["a"].value < summary["a"].high
  assert (summary["b"].low, summary["b"].high) == pytest.approx((3, 3))
  assert summary["a"].num_clips == 50
  assert summary == metrics.summarize(values)
  assert summary["a"] != metrics.summarize(values, seed=1)["a"]
  json.dumps(dataclasses.asdict(summary["a"]))


def test_interval_covers_the_true_mean_as_often_as_stated():
  rng = np.random.default_rng(0)
  samples = {str(i): rng.normal(5, 1, 40) for i in range(400)}
  summary = metrics.summarize(samples).values()
  assert 0.90 < np.mean([s.low <= 5 <= s.high for s in summary]) < 0.98


def test_weights_give_a_weighted_mean_and_zero_excludes_a_clip():
  values = {"x": np.array([1.0, 2.0, np.nan]), "y": np.array([1.0, 2.0, 3.0])}
  summary = metrics.summarize(values, {"x": np.array([3, 1, 0])})
  assert summary["x"].value == pytest.approx(1.25)
  assert (summary["x"].num_clips, summary["y"].num_clips) == (2, 3)
  assert summary["y"].value == pytest.approx(2)


def test_a_metric_without_clips_or_with_nan_is_nan():
  values = {"none": np.zeros(4), "nan": np.array([1, 2, np.nan, 3])}
  for estimate in metrics.summarize(values, {"none": np.zeros(4)}).values():
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_hellinger_equals_its_formula_and_is_0_for_equal_and_1_for_disjoint():
  rng = np.random.default_rng(0)
  counts, others = rng.integers(0, 9, (2, 30, metrics.NUM_SPEED_BINS))
  p, q = counts.sum(0) / counts.sum(), others.sum(0) / others.sum()
  found = metrics.hellinger_speed(counts, others)
  assert found.value == pytest.approx(np.sqrt(1 - np.sqrt(p * q).sum()))
  assert found.low <= found.value <= found.high
  assert metrics.hellinger_speed(counts, counts).high == 0
  slow, fast = np.eye(metrics.NUM_SPEED_BINS)[[[0, 1], [2, 3]]]
  assert metrics.hellinger_speed(slow, fast).value == pytest.approx(1)


# --- Beats


def swinging_arms(stops_s, frames=64):
  """A clip whose right forearm turns steadily, pausing for a frame at these times."""
  poses = np.zeros((frames, *SKELETON.shape))
  rate = np.full(frames, 0.04)  # less than pi in total, so that no angle wraps
  rate[np.round(np.asarray(stops_s) * FPS).astype(int)] = 0
  turned = np.cumsum(rate)
  for side, sign in (("right", -1), ("left", 1)):
    shoulder, elbow, wrist = (
      SKELETON.index[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist")
    )
    angle = turned if side == "right" else 0 * turned
    poses[:, 0, shoulder] = sign * 150
    poses[:, :, elbow] = poses[:, :, shoulder] + [0, 200]
    along = np.stack([np.sin(angle), np.cos(angle)], 1)
    poses[:, :, wrist] = poses[:, :, elbow] + 200 * along
  return poses


CLICKS_S = np.array([0.8, 1.6, 2.4, 3.2])


def clicks(times_s, seconds=64 / FPS):
  audio = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
  decay = np.exp(-np.arange(800) / 100)
  noise = np.random.default_rng(0).normal(0, 0.3, 800)
  for start in (np.asarray(times_s) * SAMPLE_RATE).astype(int):
    audio[start : start + 800] = noise * decay
  return audio


@pytest.fixture(scope="module")
def onsets():
  return metrics.audio_onsets(clicks(CLICKS_S))


def test_onsets_are_at_the_clicks(onsets):
  assert onsets.shape == CLICKS_S.shape
  np.testing.assert_allclose(onsets, CLICKS_S, atol=0.05)
  assert metrics.audio_onsets(np.zeros(68266, np.float32)).size == 0


def test_motion_beats_are_at_the_pauses_of_the_arm():
  poses = swinging_arms(CLICKS_S)
  mean_change = metrics.mean_angle_change(poses[None])
  assert (mean_change > 0).sum() == 1  # only one angle changes
  found = metrics.motion_beats(poses, mean_change)
  np.testing.assert_allclose(found, CLICKS_S, atol=0.5 / FPS)


def test_beats_in_time_with_the_audio_score_higher(onsets):
  fitting, late = swinging_arms(CLICKS_S), swinging_arms(CLICKS_S + 0.4)
  still = np.zeros_like(fitting)
  mean_change = metrics.mean_angle_change(fitting[None])
  poses = np.stack([fitting, late, still, fitting])
  times = [onsets, onsets, onsets, np.empty(0)]
  scores, weights = metrics.bc_ha2g(poses, times, mean_change)
  assert scores[0] > 0.9
  assert scores[1] < 0.2
  np.testing.assert_array_equal(weights, [len(onsets), len(onsets), 0, 0])


def naive_bc(poses, onsets, mean_change):
  names = [
    [f"{s}_{j}" for j in ("shoulder", "elbow", "wrist")] for s in ("right", "left")
  ]
  rate = [0.0]
  angles = []
  for frame in poses:
    angles.append([])
    for chain in names:
      joints = [np.zeros(2)] + [frame[:, SKELETON.index[n]] for n in chain]
      bones = [b - a for a, b in itertools.pairwise(joints)]
      units = [b / np.linalg.norm(b) for b in bones]
      angles[-1] += [np.arccos(units[i] @ units[i + 1]) for i in (0, 1)]
  for last, now in itertools.pairwise(np.array(angles)):
    rate.append(np.mean(abs(now - last) / mean_change))
  beats = []
  for t in range(2, len(poses) - 1):
    lowest = rate[t] < rate[t - 1] and rate[t] < rate[t + 1]
    if lowest and max(rate[t - 1], rate[t + 1]) - rate[t] >= 0.03:
      beats.append(t / 15)
  return np.mean(
    [np.exp(-min((o - b) ** 2 for b in beats) / (2 * 0.1**2)) for o in onsets]
  )


def test_beat_consistency_equals_naive_loop(onsets):
  poses = random_poses(5, clips=4, frames=64).astype(np.float64)
  mean_change = metrics.mean_angle_change(poses)
  scores, _ = metrics.bc_ha2g(poses, [onsets] * 4, mean_change)
  expected = [naive_bc(p, onsets, mean_change) for p in poses]
  np.testing.assert_allclose(scores, expected, rtol=1e-6)
