"""Evaluation of trained runs: which templates, which rows, which numbers."""

import dataclasses
import json
import shutil
from unittest import mock

import av
import jax
import numpy as np
import pytest
import tiny

from sdt_jax import audio, pose
from sdt_jax import keypoints as kp
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.evaluation import frechet, registry, scoring
from sdt_jax.evaluation import run as evaluation
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.methods.base import Condition
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
  bank = run.method.bank(run.state)
  [chosen] = sources.choose("random", bank, num_clips=len(split))
  templates = chosen.codes
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
    assert scores[name] == pytest.approx(float(values.mean()), rel=1e-5), name


def test_ftd_of_the_truth_is_zero_and_grows_with_noise(sdt, vae):
  run, pose_vae = runs.load(sdt), runs.load(vae)
  truth_px = _truth_px(run)
  onsets = [np.array([0.5, 1.0])] * 5
  clips = scoring.Clips(truth_px, registry.Sounds(onsets, np.ones(4)), run.table)
  scorer = scoring.Scorer(clips, pose_vae)
  exact = scorer.score([truth_px]).scores
  assert exact["ftd"].value == pytest.approx(0, abs=1e-4)
  noise = np.random.default_rng(0).standard_normal(truth_px.shape)
  noisy = [truth_px + s * noise for s in (5, 20, 80)]
  values = [scorer.score([poses]).scores["ftd"].value for poses in noisy]
  assert 0 < values[0] < values[1] < values[2]


def test_every_rendering_is_scored_as_the_original_multiplies_its_batch(sdt, vae):
  run, pose_vae = runs.load(sdt), runs.load(vae)
  truth_px = _truth_px(run)
  onsets = [np.array([0.5, 1.0])] * 5
  clips = scoring.Clips(truth_px, registry.Sounds(onsets, np.ones(4)), run.table)
  scorer = scoring.Scorer(clips, pose_vae)
  rng = np.random.default_rng(0)
  renderings = [truth_px + s * rng.standard_normal(truth_px.shape) for s in (5, 20, 80)]
  together = scorer.score(renderings).scores
  alone = [scorer.score([poses]).scores for poses in renderings]
  for name in ("l2", "l1_regression", "lip_sync", "jerk"):
    mean = np.mean([scores[name].value for scores in alone])
    assert together[name].value == pytest.approx(mean, rel=1e-5), name
    assert together[name].num_clips == 5
  mean, _ = scoring.encoder(pose_vae, run.table.scale_factor)(
    np.concatenate([*renderings, *[truth_px] * 3])
  )
  expected = frechet.frechet_distance(
    *frechet.gaussian(mean[:15]), *frechet.gaussian(mean[15:])
  )
  assert together["ftd"].value == pytest.approx(float(expected), rel=1e-3)


def test_copies_of_a_rendering_score_like_one_and_narrow_no_interval(sdt, vae):
  run = runs.load(sdt)
  truth_px = _truth_px(run)
  onsets = [np.array([0.5, 1.0])] * 5
  clips = scoring.Clips(truth_px, registry.Sounds(onsets, np.ones(4)), run.table)
  scorer = scoring.Scorer(clips, runs.load(vae))
  poses_px = truth_px + 20 * np.random.default_rng(0).standard_normal(truth_px.shape)
  one, four = (scorer.score([poses_px] * count).scores for count in (1, 4))
  for name, score in one.items():
    if name.startswith("ftd"):
      # Unbiased covariances: 4 copies of 5 clips are divided by 19, 5 clips by 4.
      assert 0.5 < four[name].value / score.value <= 1
      width, expected = (s[name].high - s[name].low for s in (four, one))
      assert width > 0.5 * expected
    else:
      np.testing.assert_allclose(
        dataclasses.astuple(four[name]), dataclasses.astuple(score), rtol=1e-5
      )


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


def test_several_renderings_have_a_spread(sdt, s2g, capsys):
  result = _result(sdt, num_samples=3)
  spread = result["renderings"]
  assert spread["l2"]["min"] < spread["l2"]["mean"] < spread["l2"]["max"]
  assert result["metrics"]["l2"]["value"] == pytest.approx(spread["l2"]["mean"])
  assert result["metrics"]["l1_regression"]["original"] == "G_reg_loss"
  assert "over 5 clips x 3 renderings = 15" in result["scored"]
  printed = capsys.readouterr().out
  assert result["scored"] in printed
  assert "G_reg_loss" in printed
  assert spread["diversity_samples"]["mean"] > 0
  spread = _result(s2g, num_samples=2)["renderings"]  # a model without templates
  assert spread["l2"]["min"] == pytest.approx(spread["l2"]["max"])
  assert spread["diversity_samples"]["mean"] == pytest.approx(0, abs=1e-3)


def _saved(path, **options):
  """Names of the videos, and arrays of poses.npz."""
  folder = evaluation.evaluate_run(path, evaluation.Options(**options)).with_suffix("")
  with np.load(folder / "poses.npz", allow_pickle=False) as npz:
    arrays = dict(npz)
  names = sorted(p.name for p in folder.glob("*.mp4"))
  shutil.rmtree(folder)
  return names, arrays


def test_videos_are_spread_over_the_split_and_their_arrays_are_saved(sdt):
  names, arrays = _saved(sdt, save_videos=2)
  assert names == ["clip0000.mp4", "clip0002.mp4"]
  clip_ids = [_dev(runs.load(sdt)).clip_id(row) for row in (0, 2)]
  assert arrays["clip_ids"].tolist() == clip_ids
  assert arrays["poses_pred_batch"].shape == (2, 64, *kp.UPPER_BODY.shape)
  file = evaluation.evaluate_run(sdt, evaluation.Options(save_videos=0))
  assert not file.with_suffix("").exists()


def test_a_video_shows_all_renderings_beside_the_truth(sdt):
  options = evaluation.Options(template="normal", save_videos=1, num_samples=2)
  folder = evaluation.evaluate_run(sdt, options).with_suffix("")
  assert {p.name for p in folder.iterdir()} == {"clip0000.mp4", "poses.npz"}
  with av.open(folder / "clip0000.mp4") as file:
    assert file.streams.audio
    frame = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)
  cells = frame[:320, :640], frame[:320, 640:], frame[360:680, :640]
  for i, cell in enumerate(cells):
    assert (cell < 128).any()
    assert all(np.abs(cell - other).max() > 100 for other in cells[:i])
  shutil.rmtree(folder)


def test_the_arrays_of_a_test_have_the_original_names_in_one_order(sdt, vae, s2g):
  options = {"template": "normal", "num_samples": 2, "pose_vae": str(vae)}
  _, arrays = _saved(sdt, save_npz=True, **options)
  names = {"poses_pred_batch", "poses_gt_batch", "clip_ids", "condition_code"}
  codes = {"mu_pred", "logvar_pred", "mu_gt", "logvar_gt"}
  assert set(arrays) == names | codes
  assert {len(array) for array in arrays.values()} == {10}
  run = runs.load(sdt)
  split = _dev(run)
  assert arrays["clip_ids"].tolist() == [split.clip_id(row) for row in range(5)] * 2
  np.testing.assert_array_equal(arrays["poses_gt_batch"][5:], _truth_px(run))
  # Each row of poses comes from the template of the same row.
  rows = np.arange(5)
  again = Evaluator(run.method, run.table, run.config).generate(
    run.state, split, arrays["condition_code"][5:], rows
  )
  np.testing.assert_allclose(arrays["poses_pred_batch"][5:], again, atol=1e-3)
  encode = scoring.encoder(runs.load(vae), run.table.scale_factor)
  for kind in ("pred", "gt"):
    mean, log_var = encode(arrays[f"poses_{kind}_batch"])
    np.testing.assert_allclose(arrays[f"mu_{kind}"], mean, atol=1e-5)
    np.testing.assert_allclose(arrays[f"logvar_{kind}"], log_var, atol=1e-5)
  _, arrays = _saved(s2g, save_npz=True)  # neither templates nor a pose VAE
  assert set(arrays) == names - {"condition_code"}


@pytest.mark.parametrize(
  ("sizes", "split", "known"),
  [
    ({"train": 3}, "dev", "train"),
    ({"train": 3, "dev": 0}, "dev", "train"),
    ({"train": 3, "dev": 2}, "test", "train, dev"),
  ],
)
def test_a_split_that_the_data_lacks_is_an_error_that_names_the_others(
  sizes, split, known
):
  sources = {name: range(size) for name, size in sizes.items()}
  with pytest.raises(UserError, match=f"--split={split}: .* it has {known}$"):
    evaluation._check_split(split, sources)


def test_any_split_of_the_data_can_be_evaluated(sdt, monkeypatch):
  def with_test(config):
    built = build(config)
    return built._replace(sources=built.sources | {"test": built.sources["dev"]})

  build = setup.build_data
  monkeypatch.setattr(setup, "build_data", with_test)
  tested, dev = _result(sdt, split="test"), _result(sdt)
  assert (sdt / "eval_test_2.json").exists()
  assert tested["metrics"] == dev["metrics"]


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
  with pytest.raises(UserError, match="is the pose VAE of ada, but the data is of bob"):
    _train(tmp_path / "w", data_dir, **fields, **{"dataset.speaker": "bob"})
  with pytest.raises(UserError, match="other clips"):
    _train(tmp_path / "v", data_dir, **fields, **{"dataset.num_train_clips": 24})


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
