"""`--template=like:FILE`: the template of poses that one has seen."""

import dataclasses
import functools
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from test_generate import _save

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.templates import like
from sdt_jax.training import runs

pytestmark = pytest.mark.usefixtures("compile_fast")

SOUND = (
  np.random.default_rng(1).uniform(-0.1, 0.1, audio.num_samples(64)).astype(np.float32)
)


@pytest.fixture(scope="module")
def bp(tmp_path_factory):
  path = tmp_path_factory.mktemp("bp") / "run"
  _save(path)
  return runs.load(path)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vae")
  _save(folder / "pose_vae", experiment="pose2pose")
  fields = {"template.kind": "vae", "template.pose_vae": str(folder / "pose_vae")}
  _save(folder / "run", **fields)
  run, pose_vae = (runs.load(folder / name) for name in ("run", "pose_vae"))
  bank = {"mean": pose_vae.state.bank["mean"]}
  return dataclasses.replace(run, state=run.state.replace(bank=bank))


def _clip(run, folder, name="clip.npz", seed=2, **changes):
  """A clip in a pack of this name; returns its path and its keypoints."""
  rng = np.random.default_rng(seed)
  table = run.table
  spread = rng.standard_normal((1, *kp.UPPER_BODY.shape)) + 0.1 * rng.standard_normal(
    (64, *kp.UPPER_BODY.shape)
  )
  poses_px = pose.to_final(spread, table) / table.scale_factor
  keypoints = pose.to_openpose(poses_px, (640.0, 360.0))
  clips = folder / "clips" / "npz"
  clips.mkdir(parents=True, exist_ok=True)
  (folder / "clips.csv").write_text("dataset,pose_fn\n")
  arrays = {"pose": keypoints, "audio": SOUND} | changes
  np.savez(clips / name, **arrays)
  return clips / name, keypoints


def _expected(run, poses_norm):
  pose_vae = runs.load(run.config.template.pose_vae)
  mean, _ = pose_vae.method.encode(pose_vae.state, jnp.asarray(poses_norm)[None])
  return np.asarray(mean[0])


def test_a_clip_gets_the_code_of_the_pose_vae(vae, tmp_path):
  path, keypoints = _clip(vae, tmp_path / vae.speaker.name)
  code = like.find(vae, str(path))
  poses_norm = pose.from_global(pose.from_openpose(keypoints), vae.table)
  np.testing.assert_allclose(code, _expected(vae, poses_norm), atol=1e-4)
  other, _ = _clip(vae, tmp_path / vae.speaker.name, "other.npz", seed=3)
  assert np.abs(like.find(vae, str(other)) - code).max() > 1e-3
  model = GestureModel(vae, vae.speaker)
  np.testing.assert_array_equal(model.choose_template(f"like:{path}"), code)


def test_a_moment_of_a_rendering_gets_the_code_of_its_poses(vae, tmp_path):
  rng = np.random.default_rng(4)
  norm = rng.standard_normal((100, *kp.UPPER_BODY.shape)).astype(np.float32)
  path = tmp_path / "sample.npz"
  np.savez(path, poses_pred_batch=pose.to_final(norm, vae.table)[None])
  np.testing.assert_allclose(
    like.find(vae, f"{path}@2"), _expected(vae, norm[30:94]), atol=1e-4
  )
  with pytest.raises(UserError, match=r"no 64 frames \(4.3 s\) .* from 3 s on"):
    like.find(vae, f"{path}@3")


def test_a_moment_of_a_video_comes_from_data_preparation(vae, tmp_path, monkeypatch):
  _, keypoints = _clip(vae, tmp_path)
  asked = []

  def read(video, seconds):
    asked.append((video.name, seconds))
    return keypoints, SOUND

  moment = types.SimpleNamespace(read=read)
  monkeypatch.setitem(sys.modules, "data_prep.moment", moment)
  (tmp_path / "talk.mp4").touch()
  code = like.find(vae, f"{tmp_path}/talk.mp4@12.5")
  assert asked == [("talk.mp4", 12.5)]
  # Data preparation has scaled it to the size of final poses.
  poses_norm = pose.from_final(pose.from_openpose(keypoints), vae.table)
  np.testing.assert_allclose(code, _expected(vae, poses_norm), atol=1e-4)


def test_a_learnt_template_is_optimised_to_generate_the_clip(bp, monkeypatch):
  model = GestureModel(bp, bp.speaker)
  make = functools.partial(model.generate, SOUND, audio.SAMPLE_RATE)
  target = model.bank.mean(0) + model.bank.std(0) * [1, -1, 1, -1]
  truth_px = make(template=target.astype(np.float32))
  code = like.optimise(bp, like.Shown(truth_px / bp.table.scale_factor, SOUND))
  assert code.dtype == np.float32

  def distance(template):
    return np.abs(make(template=template) - truth_px).mean()

  of_rows = [distance(row) for row in model.bank]
  assert distance(code) < 0.6 * min(of_rows)


@pytest.mark.parametrize(
  ("changes", "complaint"),
  [
    ({"pose": np.zeros((64, 3, 137), np.float32)}, "was not found in all frames"),
    ({"pose": np.zeros((60, 3, 137), np.float32)}, "pose has shape (60, 3, 137)"),
    ({"audio": np.zeros((3, 5), np.float32)}, "audio has shape (3, 5)"),
  ],
)
def test_clips_that_show_no_person_are_refused(vae, tmp_path, changes, complaint):
  path, _ = _clip(vae, tmp_path / vae.speaker.name, **changes)
  with pytest.raises(UserError) as e:
    like.find(vae, str(path))
  assert str(e.value).startswith(f"--template=like:{path}: ")
  assert complaint in str(e.value)
  assert "\n" not in str(e.value)


def test_other_files_are_refused(vae, tmp_path):
  path, _ = _clip(vae, tmp_path / "somebody")
  with pytest.raises(UserError, match="is a clip of somebody, whose body differs"):
    like.find(vae, str(path))
  with pytest.raises(UserError, match="no such file; give a clip or a video"):
    like.find(vae, str(tmp_path / "missing.mp4"))
  with pytest.raises(UserError, match="no such file"):
    like.find(vae, str(tmp_path))
  damaged = tmp_path / "damaged.npz"
  damaged.write_bytes(b"PK")
  with pytest.raises(UserError, match=r"like:.*not a readable npz"):
    like.find(vae, str(damaged))
  (tmp_path / "no.mp4").write_bytes(b"no video")
  with pytest.raises(UserError, match=r"like:.*not a video that can be read"):
    like.find(vae, str(tmp_path / "no.mp4"))
  np.savez(tmp_path / "shape.npz", poses_pred_batch=np.zeros((1, 64, 2, 5)))
  with pytest.raises(UserError, match=r"has shape \(1, 64, 2, 5\)"):
    like.find(vae, str(tmp_path / "shape.npz"))


def test_the_pose_vae_must_be_that_of_the_templates(vae, tmp_path):
  path, _ = _clip(vae, tmp_path / vae.speaker.name)
  other = vae.state.replace(bank={"mean": vae.state.bank["mean"] + 1})
  with pytest.raises(
    UserError, match="has been trained on since it gave the templates"
  ):
    like.find(dataclasses.replace(vae, state=other), str(path))


def test_moments_are_refused_where_there_are_none(vae, tmp_path):
  path, _ = _clip(vae, tmp_path / vae.speaker.name)
  with pytest.raises(UserError, match="a clip has no moments; leave out @5"):
    like.find(vae, f"{path}@5")
  for count in (0, 2):
    many = tmp_path / f"{count}.npz"
    np.savez(many, poses_pred_batch=np.zeros((count, 64, 2, 121), np.float32))
    with pytest.raises(UserError, match=rf"has shape \({count}, 64, 2, 121\)"):
      like.find(vae, str(many))


def test_templates_by_frame_have_no_like(tmp_path):
  _save(tmp_path / "run", **{"template.frame_wise": True})
  with pytest.raises(UserError, match=r"config\.template\.frame_wise=False"):
    like.find(runs.load(tmp_path / "run"), "clip.npz")
