"""Evaluation of trained runs: which templates, which rows, which numbers."""

import json
from unittest import mock

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation import registry, scoring
from sdt_jax.evaluation import run as evaluation
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.methods.base import Condition
from sdt_jax.synthesis import samples
from sdt_jax.templates import sources
from sdt_jax.training import runs, setup

S2G = {"template.kind": "none", "generator.norm": "bn", "pose.hierarchical": False}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def _train(path, data_dir, **fields):
  config = tiny.config(data_dir, num_epochs=1, **fields)
  config.log.video_every_epochs = 0
  tiny.train(config, path)
  return path


@pytest.fixture(scope="module")
def sdt(tmp_path_factory, data_dir):
  return _train(tmp_path_factory.mktemp("sdt") / "w", data_dir)


@pytest.fixture(scope="module")
def vae(tmp_path_factory, data_dir):
  path = tmp_path_factory.mktemp("vae") / "w"
  fields = {"checkpoint.best_metric": "l1"}
  return _train(path, data_dir, experiment="pose2pose", **fields)


@pytest.fixture(scope="module")
def s2g(tmp_path_factory, data_dir):
  path = tmp_path_factory.mktemp("s2g") / "w"
  return _train(path, data_dir, **S2G, **{"discriminator.weight": 0.1})


def _dev(run):
  return pipeline.Split(setup.build_data(run.config).sources["dev"], run.table)


def _truth_px(run):
  return _dev(run).poses_px(np.arange(5))


def test_eight_devices_generate_like_one(sdt):
  run = runs.load(sdt)
  split = _dev(run)
  templates = sources.draw_random(run.method.bank(run.state), len(split), seed=0)
  evaluator = Evaluator(run.method, run.table, run.config)
  assert jax.device_count() == 8
  batch = split.read(np.arange(len(split)))
  mel = audio.mel_spectrogram(batch["audio"])
  poses = run.method.sample(
    jax.device_put(run.state, jax.devices()[0]),
    Condition(mel=mel, template=templates),
    audio.CLIP_FRAMES,
    jax.random.split(jax.random.key(0), len(split)),
  )
  one = pose.to_final(np.asarray(poses), run.table)
  many = evaluator.generate(run.state, split, templates, np.arange(len(split)))
  np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-2)  # pixels
  scores = evaluator.scores(run.state, split, templates)
  alone = registry.per_clip(one, _truth_px(run), np.asarray(poses), batch["poses"])
  alone["l1"] = alone.pop("l1_regression")
  for name, values in alone.items():
    assert scores[name].mean() == pytest.approx(float(values.mean()), rel=1e-5), name


def test_ftd_of_the_truth_is_zero_and_grows_with_noise(sdt, vae):
  run, pose_vae = runs.load(sdt), runs.load(vae)
  truth_px = _truth_px(run)
  onsets = [np.array([0.5, 1.0])] * 5
  clips = scoring.Clips(truth_px, registry.Sounds(onsets, np.ones(4)), run.table)
  scorer = scoring.Scorer(clips, pose_vae)
  assert scorer.score(truth_px)["ftd"].value == pytest.approx(0, abs=1e-4)
  noise = np.random.default_rng(0).standard_normal(truth_px.shape)
  values = [scorer.score(truth_px + s * noise)["ftd"].value for s in (5, 20, 80)]
  assert 0 < values[0] < values[1] < values[2]


def test_ftd_sees_the_same_truth_through_plain_and_hierarchical_models(sdt, s2g, vae):
  pose_vae = runs.load(vae)
  features = []
  for path in (sdt, s2g):
    run = runs.load(path)
    table = run.speaker.table(run.config.pose.hierarchical)
    encode = scoring.encoder(pose_vae, table.scale_factor)
    features.append(encode(_truth_px(run))[0])
  np.testing.assert_allclose(*features, rtol=1e-3, atol=1e-4)


def _result(path, **options):
  file = evaluation.evaluate_run(path, evaluation.Options(**options))
  return json.loads(file.read_text())


def test_a_pose_vae_adds_ftd_and_references_are_reported(sdt, vae):
  assert "ftd" in _result(vae)["metrics"]  # by its own features
  result = _result(sdt, pose_vae=str(vae))
  assert result["metrics"]["ftd"]["value"] > 0
  rows = result["references"]
  # All five clips overlap, so there is no reference "truth of another".
  assert set(rows) == {"truth", "mean pose", "retrieval"}
  assert rows["truth"]["l2"]["value"] == 0
  assert rows["truth"]["ftd"]["value"] == pytest.approx(0, abs=1e-4)
  assert rows["mean pose"]["jerk"]["value"] == 0
  assert rows["mean pose"]["bc_ha2g"]["value"] is None


def test_without_a_pose_vae_the_output_names_the_config_that_trains_one(sdt, capsys):
  result = _result(sdt)
  assert "ftd" not in result["metrics"]
  assert "configs/pose2pose.py" in capsys.readouterr().out


def test_the_sound_of_a_split_is_read_in_parts(sdt, monkeypatch):
  monkeypatch.setattr(evaluation, "_SOUNDS_AT_ONCE", 4)
  with mock.patch.object(
    pipeline.Split, "read", autospec=True, side_effect=pipeline.Split.read
  ) as read:
    _result(sdt)
  # The batch size; the train split has 20 clips.
  assert max(len(call.args[1]) for call in read.call_args_list) == 8


def test_several_renderings_have_a_spread(sdt, s2g):
  spread = _result(sdt, num_samples=3)["renderings"]
  assert spread["l2"]["min"] < spread["l2"]["mean"] < spread["l2"]["max"]
  assert spread["diversity_samples"]["mean"] > 0
  spread = _result(s2g, num_samples=2)["renderings"]  # a model without templates
  assert spread["l2"]["min"] == pytest.approx(spread["l2"]["max"])
  assert spread["diversity_samples"]["mean"] == pytest.approx(0, abs=1e-3)


def test_videos_and_poses_are_kept_on_request(sdt):
  options = evaluation.Options(save_videos=1, save_npz=True, num_samples=2)
  file = evaluation.evaluate_run(sdt, options, samples.write_sample)
  folder = file.with_suffix("")
  assert {p.name for p in folder.iterdir()} == {
    "clip0000_0.mp4",
    "clip0000_1.mp4",
    "poses.npz",
  }
  with np.load(folder / "poses.npz", allow_pickle=False) as arrays:
    assert arrays["poses_pred_batch"].shape == (10, 64, *kp.UPPER_BODY.shape)
    assert arrays["poses_gt_batch"].shape == (5, 64, *kp.UPPER_BODY.shape)


def test_the_encoder_gives_each_clip_the_template_of_its_truth(sdt, vae):
  result = _result(sdt, template="encoder", pose_vae=str(vae))
  drawn = _result(sdt, pose_vae=str(vae))
  assert result["metrics"]["l2"] != drawn["metrics"]["l2"]


def test_a_gesture_model_is_no_pose_vae(s2g, data_dir, tmp_path):
  fields = {"template.kind": "vae", "template.pose_vae": str(s2g)}
  with pytest.raises(UserError, match="has no encoder"):
    _train(tmp_path / "w", data_dir, **fields)


def test_sdt_vae_has_the_templates_of_its_vae(vae, data_dir, tmp_path):
  fields = {"template.kind": "vae", "template.pose_vae": str(vae)}
  path = _train(tmp_path / "w", data_dir, **fields)
  bank = runs.load(vae).state.bank["mean"]
  assert np.abs(bank).max() > 0
  np.testing.assert_array_equal(runs.load(path).state.templates(), bank)
  assert "ftd" in _result(path)["metrics"]


def test_sdt_vae_needs_a_vae_of_the_same_clips(vae, data_dir, tmp_path):
  fields = {"template.kind": "vae", "template.pose_vae": str(vae)}
  with pytest.raises(UserError, match="other clips"):
    _train(tmp_path / "w", data_dir, **fields, **{"dataset.speaker": "bob"})
  with pytest.raises(UserError, match="pose_vae is not set"):
    _train(tmp_path / "v", data_dir, **{"template.kind": "vae"})


def test_pretrained_lists_networks_that_one_side_lacks(sdt, s2g, data_dir, tmp_path):
  config = tiny.config(data_dir, num_epochs=1, **S2G)
  with pytest.raises(UserError, match=r"discriminator.*pretrained_partial"):
    tiny.train(config, tmp_path / "w", pretrained=str(s2g))
  config.pretrained_partial = True
  config.optimizer.learning_rate = 1e-12
  tiny.train(config, tmp_path / "w", pretrained=str(s2g))
  ours, theirs = runs.load(tmp_path / "w").state, runs.load(s2g).state
  assert set(ours.params) == {"generator"}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8),
    ours.params["generator"],
    theirs.params["generator"],
  )
