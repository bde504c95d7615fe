"""Whole training runs: resuming, evaluating and reading their workdirs."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import tiny

from sdt_jax import workdir
from sdt_jax.errors import UserError
from sdt_jax.evaluation import run as evaluation
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.synthesis.samples import Gallery
from sdt_jax.training import loop, runs, setup


class _NoGallery:
  """Accepts the plot of the templates; fails if a sample video is requested."""

  def __init__(self, folder, board, board_videos):
    pass

  def add_sample(self, sample, step):
    raise AssertionError("unexpected request for a sample video")

  def add_templates(self, bank, epoch, step):
    assert bank.ndim >= 2

  def close(self):
    pass


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
  """Workdir of a run of two epochs of two steps."""
  path = tmp_path_factory.mktemp("run") / "workdir"
  tiny.train(tiny.config(data_dir), path, _NoGallery)
  return path


@pytest.fixture
def train(data_dir, tmp_path):
  """Function that trains, with some fields changed, and returns the workdir."""

  def train(
    path=tmp_path / "w", gallery=_NoGallery, pretrained=None, from_step=None, **fields
  ):
    config = tiny.config(data_dir, **fields)
    tiny.train(config, path, gallery, pretrained, from_step)
    return path

  return train


def _timeless(path):
  times = {"clips_per_s", "input_wait", "seconds", "seconds_left"}
  lines = workdir.read_metrics(path)
  return [{k: v for k, v in x.items() if k not in times} for x in lines]


def _steps(path):
  return {p.name for p in (path / workdir.CHECKPOINTS).iterdir()}


def _assert_same_run(path, other):
  states = [runs.load(p).state for p in (path, other)]
  jax.tree.map(np.testing.assert_array_equal, *states)
  assert _timeless(path) == _timeless(other)


def test_a_workdir_describes_itself(trained):
  assert workdir.read_config(trained).template.size == 4
  assert workdir.read_speaker(trained).name == "ada"
  assert len((trained / workdir.CLIPS).read_text().splitlines()) == 20
  assert list(trained.glob("events.*"))
  lines = workdir.read_metrics(trained)
  expected = ["1 1 train", "2 1 train", "2 1 dev", "2 1 epoch"]
  expected += ["3 2 train", "4 2 train", "4 2 dev", "4 2 epoch"]
  assert ["{step} {epoch} {split}".format(**line) for line in lines] == expected
  assert {"loss", "l1", "kl", "l2", "lip_sync", "learning_rate"} <= lines[0].keys()
  assert {"l1", "l2", "lip_sync"} <= lines[2].keys()
  assert all(np.isfinite(v) for x in lines for v in x.values() if v != x["split"])


def test_a_resumed_run_equals_one_that_was_not_interrupted(train, trained):
  train(num_epochs=1)
  _assert_same_run(train(), trained)


def test_the_seed_decides(train, trained):
  ours, theirs = (workdir.read_metrics(p)[0] for p in (train(seed=1), trained))
  assert ours["loss"] != theirs["loss"]


def test_pmap_trains_like_jit(train, trained):
  lines = map(workdir.read_metrics, (train(parallel="pmap"), trained))
  for ours, theirs in zip(*lines, strict=True):
    assert ours.get("l1", 0) == pytest.approx(theirs.get("l1", 0), rel=1e-3)


def test_another_number_of_clips_is_refused(train, trained, tmp_path):
  path = shutil.copytree(trained, tmp_path / "w")
  text = (path / workdir.CONFIG).read_text()
  (path / workdir.CONFIG).write_text(text.replace('clips": 20', 'clips": 24'))
  with pytest.raises(UserError, match="24 clips"):
    train(**{"dataset.num_train_clips": 24})


@pytest.mark.parametrize(
  ("fields", "complaint"),  # test_bad_inputs.py has others
  [
    ({"batch_size": 12}, "not divisible by the 8 devices"),
    ({"parallel": "dask"}, "config.parallel is 'dask'"),
    ({"dataset.name": "imagenet"}, "config.dataset.name is 'imagenet'"),
  ],
)
def test_bad_fields_are_named_before_anything_is_written(
  train, tmp_path, fields, complaint
):
  with pytest.raises(UserError, match=complaint):
    train(**fields)
  assert not (tmp_path / "w").exists()


def test_pretrained_takes_the_weights_alone(train, trained):
  still = {"optimizer.learning_rate": 1e-12}
  path = train(pretrained=str(trained), num_epochs=1, seed=5, **still)
  ours, theirs = runs.load(path).state, runs.load(trained).state
  assert int(ours.step) == 2
  for a, b in zip(*map(jax.tree.leaves, (ours.params, theirs.params)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_pretrained_refuses_another_shape(train, trained):
  with pytest.raises(UserError, match=r"--pretrained=.*has shape"):
    train(pretrained=str(trained), **{"generator.channels": 16})


def test_evaluation_counts_every_clip(trained):
  file = evaluation.evaluate_run(trained, evaluation.Options())
  assert file == trained / "eval_dev_4.json"
  result = json.loads(file.read_text())
  assert result["num_clips"] == 5
  l2 = result["metrics"]["l2"]
  assert l2["low"] <= l2["value"]
  # The validation at the end of the run scored the same clips and templates.
  last = [m for m in workdir.read_metrics(trained) if m["split"] == "dev"][-1]
  assert l2["value"] == pytest.approx(last["l2"])


@pytest.mark.parametrize("step", ["2", "best"])
def test_any_checkpoint_can_be_scored(trained, step):
  options = evaluation.Options(step=step, split="train")
  file = evaluation.evaluate_run(trained, options)
  assert json.loads(file.read_text())["num_clips"] == 20


def test_sample_videos_are_written(train):
  log = dict.fromkeys(("video_every_epochs", "dev_videos", "train_videos"), 1)
  log["tensorboard_videos"] = True
  path = train(gallery=Gallery, num_epochs=1, **{f"log.{k}": v for k, v in log.items()})
  files = sorted(p.name for p in (path / workdir.VIDEOS).iterdir())
  names = ("dev0.mp4", "templates.png", "train0.mp4")
  assert files == [f"epoch0001_{name}" for name in names]


def test_a_finished_run_is_left_as_it_is_but_for_a_truncated_line(train, trained):
  whole = (trained / workdir.METRICS).read_text()
  (trained / workdir.METRICS).write_text(whole + '{"step": 5, "ep')
  train(trained)
  assert (trained / workdir.METRICS).read_text() == whole


def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(train, tmp_path):
  class StopsAfterTheFirstStep(_NoGallery):
    def __init__(self, *args):
      os.kill(os.getpid(), signal.SIGTERM)

  fields = {"log.every_steps": 3}
  for _ in range(4):  # a step of each, all in the middle of an epoch or a log line
    parts = train(gallery=StopsAfterTheFirstStep, **fields)
  assert runs.load(parts).step == 4
  _assert_same_run(parts, train(tmp_path / "whole", **fields))


def test_two_trainings_in_one_workdir(train, trained):
  with (
    workdir.locked(trained),
    pytest.raises(UserError, match=f"process {os.getpid()} on .* is training there"),
  ):
    train(trained, num_epochs=3)


def test_a_loss_that_is_not_finite_names_step_term_and_clips(train, tmp_path):
  with pytest.raises(UserError, match=r"step \d: \w+ is (nan|inf).*ada/") as e:
    train(**{"optimizer.learning_rate": 1e30})
  assert "\n" not in str(e.value)
  assert str(e.value) in (tmp_path / "w" / workdir.LOG).read_text()


@pytest.mark.parametrize(
  "fields", [{"checkpoint.every_steps": 1}, {"checkpoint.every_minutes": 1e-9}], ids=str
)
def test_checkpoints_by_steps_and_by_time(train, fields):
  assert {"1", "2"} <= _steps(train(num_epochs=1, **fields))


@pytest.mark.parametrize(
  "fields", [{"dataset.cache_gb": 0.0}, {"steps_at_once": 3}], ids=str
)
def test_results_do_not_depend_on_how_data_is_fed(fields, train, trained):
  lines = map(_timeless, (train(**fields), trained))
  for ours, theirs in zip(*lines, strict=True):
    assert ours.pop("split") == theirs.pop("split")
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_blocks_end_where_something_is_due(train):
  """Lines, checkpoints and epochs of steps 3, 2 and 5 in blocks of up to 4."""
  every = {"log.every_steps": 3, "checkpoint.every_steps": 2}
  more = {"dataset.num_train_clips": 40, "checkpoint.keep_latest": 9}
  path = train(steps_at_once=4, **every, **more)
  lines = [
    (x["step"], x["split"]) for x in workdir.read_metrics(path) if x["split"] != "epoch"
  ]
  training = [(step, "train") for step in (3, 6, 9, 10)]
  assert lines == [training[0], (5, "dev"), *training[1:], (10, "dev")]
  assert {"2", "4", "5", "6", "8", "10"} <= _steps(path)


def test_failed_logging_does_not_stop_a_run(train, caplog):
  class Breaks(_NoGallery):
    """Makes writing metrics and events fail from the start."""

    def __init__(self, folder, board, board_videos):
      board._file.close()
      (folder.parent / workdir.METRICS).mkdir()

  assert runs.load(train(gallery=Breaks, num_epochs=1)).step == 2
  warnings = [message for message in caplog.messages if "skipped" in message]
  assert len(warnings) == 2, warnings
  assert any("metrics.jsonl" in w for w in warnings)
  assert any("TensorBoard" in w for w in warnings)


def test_failed_sample_videos_are_reported_once(train, tmp_path, caplog):
  path = tmp_path / "w"
  path.mkdir()
  (path / workdir.VIDEOS).write_text("in the way")
  train(gallery=Gallery, **{"log.video_every_epochs": 1, "log.dev_videos": 1})
  assert runs.load(path).step == 4
  assert sum("skipped" in message for message in caplog.messages) == 1


def _lines(path, split):
  return [line for line in workdir.read_metrics(path) if line["split"] == split]


@pytest.fixture(scope="module")
def five_epochs(data_dir, tmp_path_factory):
  """Workdir of a run of five epochs with its own schedule."""
  fields = {
    "num_epochs": 5,
    "optimizer.milestones": (-1,),
    "evaluation.every_epochs": 2,
    "checkpoint.keep_latest": 1,
    "checkpoint.keep_best": 0,
    "checkpoint.keep_every_epochs": 2,
  }
  path = tmp_path_factory.mktemp("five") / "w"
  tiny.train(tiny.config(data_dir, **fields), path, _NoGallery)
  return path


def test_the_log_has_rate_times_versions_and_messages(five_epochs):
  rates = [line["learning_rate"] for line in _lines(five_epochs, "train")]
  assert rates == [1e-3] * 8 + [1e-4] * 2
  times = _lines(five_epochs, "epoch")
  assert all(line["seconds"] > 0 for line in times)
  assert times[0]["seconds_left"] > 0 == times[-1]["seconds_left"]
  text = (five_epochs / workdir.LOG).read_text()
  for part in ("jax ", "devices: 8 x ", "config.num_epochs = 5", "epoch 5 of 5: loss"):
    assert part in text, part
  assert "generator/" in text  # clu's overview of the parameters


def test_validation_every_second_epoch_and_at_the_end(five_epochs):
  assert [line["epoch"] for line in _lines(five_epochs, "dev")] == [2, 4, 5]


def test_checkpoints_are_kept_every_so_many_epochs(five_epochs):
  assert {"4", "8", "10"} <= _steps(five_epochs)
  assert not {"2", "6"} & _steps(five_epochs)


def test_training_scores_are_those_of_the_clips_of_the_step(train, data_dir, tmp_path):
  """Before the first update, the L2 error of all clips in one batch is known."""
  fields = {"batch_size": 16, "dataset.num_train_clips": 16, "num_epochs": 1}
  path = train(**fields, **{"evaluation.every_epochs": 0})
  assert not _lines(path, "dev")
  [line] = _lines(path, "train")
  plan = setup.check(tiny.config(data_dir, **fields), tmp_path / "x", Evaluator)
  job, state = setup.prepare(plan, Evaluator)
  zeros = np.zeros((16, 4), np.float32)
  scores = job.evaluator.scores(state, job.train, zeros)
  assert line["l2"] == pytest.approx(scores["l2"], rel=1e-4)
  assert line["lip_sync"] == pytest.approx(scores["lip_sync"], rel=1e-4)


def test_data_without_dev_clips_trains(train):
  path = train(gallery=Gallery, **{"dataset.num_dev_clips": 0, "log.dev_videos": 2})
  assert runs.load(path, "best").step == 4
  assert not _lines(path, "dev")


def test_a_run_goes_on_from_any_checkpoint_and_nothing_is_lost(
  train, trained, tmp_path
):
  path = shutil.copytree(trained, tmp_path / "w")
  before = (path / workdir.METRICS).read_text()
  train(path, from_step=2)
  _assert_same_run(path, trained)
  [folder] = path.glob("set_aside_*")
  assert (folder / "4").is_dir()
  assert (folder / workdir.METRICS).read_text() == before


def test_a_checkpoint_that_is_not_there_is_named(train, trained):
  with pytest.raises(UserError, match=r":3: no such checkpoint; there are 2, 4"):
    train(trained, from_step=3)


def test_an_extended_run_is_told_its_schedule(train, trained, tmp_path, caplog):
  path = shutil.copytree(trained, tmp_path / "w")
  train(path, num_epochs=3)
  assert "learning rate decays: 2 of 3 (before: 1 of 2)" in caplog.text
  assert "learning rate decays: 2 of 3" in (path / workdir.LOG).read_text()
  rates = [line["learning_rate"] for line in _lines(path, "train")]
  assert rates == [1e-3] * 2 + [1e-4] * 2 + [1e-4] * 2


VAE = {"template.kind": "vae"}


@pytest.fixture(scope="module")
def with_pose_vae(data_dir, tmp_path_factory):
  """An SDT-VAE run that trained its pose VAE first."""
  path = tmp_path_factory.mktemp("vae") / "w"
  fields = VAE | {"checkpoint.best_metric": "ftd"}
  assert tiny.train(tiny.config(data_dir, **fields), path, _NoGallery)
  return path


def test_sdt_vae_trains_its_pose_vae_first(with_pose_vae):
  vae = runs.load(with_pose_vae / workdir.POSE_VAE)
  assert (vae.method.title, vae.step) == ("pose VAE", 4)
  bank = runs.load(with_pose_vae).state.bank["mean"]
  np.testing.assert_array_equal(bank, vae.state.bank["mean"])
  assert np.any(np.asarray(bank))


def test_ftd_at_validation_is_that_of_evaluation(with_pose_vae):
  scores = [line["ftd"] for line in _lines(with_pose_vae, "dev")]
  assert len(scores) == 2
  options = evaluation.Options(pose_vae=str(with_pose_vae / workdir.POSE_VAE))
  result = json.loads(evaluation.evaluate_run(with_pose_vae, options).read_text())
  assert result["metrics"]["ftd"]["value"] == pytest.approx(scores[-1], rel=1e-3)
  best = runs.load(with_pose_vae, "best").step
  assert best == 2 * (1 + int(np.argmin(scores)))


@pytest.mark.slow
def test_sdt_vae_goes_on_in_both_phases(train, with_pose_vae, tmp_path):
  class Stops(_NoGallery):
    def __init__(self, *args):
      os.kill(os.getpid(), signal.SIGTERM)

  fields = VAE | {"checkpoint.best_metric": "ftd"}
  for _ in range(8):  # four steps of each phase
    path = train(gallery=Stops, **fields)
  _assert_same_run(path, with_pose_vae)
  _assert_same_run(path / workdir.POSE_VAE, with_pose_vae / workdir.POSE_VAE)


@pytest.mark.slow
def test_a_sequence_model_has_the_encoder_of_its_templates(
  train, with_pose_vae, tmp_path
):
  vae = with_pose_vae / workdir.POSE_VAE
  fields = VAE | {"sequence.train": True, "template.pose_vae": str(vae)}
  with pytest.raises(UserError, match=r"generator\.channels 8, here it is 16"):
    train(tmp_path / "v", **fields, **{"generator.channels": 16})
  pretrained = {"pretrained": str(with_pose_vae), "pretrained_partial": True}
  path = train(**pretrained, **fields)
  state, of_vae = runs.load(path).state, runs.load(vae).state
  jax.tree.map(
    np.testing.assert_array_equal,
    state.params["pose_encoder"],
    of_vae.params["vae"]["encoder"],
  )
  losses = [line for line in _lines(path, "train") if "code_kl" in line]
  assert losses
  assert all(np.isfinite(line["code_d_gan"]) for line in losses)
  again = train(tmp_path / "again", pretrained=str(path), **fields)
  encoder = runs.load(again).state.batch_stats["pose_encoder"]
  jax.tree.map(
    np.testing.assert_array_equal, encoder, of_vae.batch_stats["vae"]["encoder"]
  )


def test_ftd_and_templates_of_the_truth_with_any_pose_vae(train, with_pose_vae):
  vae = str(with_pose_vae / workdir.POSE_VAE)
  fields = {"evaluation.pose_vae": vae, "evaluation.template": "encoder"}
  path = train(num_epochs=1, **fields)
  [line] = _lines(path, "dev")
  assert line["ftd"] > 0
  options = evaluation.Options(pose_vae=vae, template="encoder")
  result = json.loads(evaluation.evaluate_run(path, options).read_text())
  assert result["metrics"]["l2"]["value"] == pytest.approx(line["l2"], rel=1e-4)


@pytest.mark.parametrize(
  ("fields", "complaint"),
  [
    ({"checkpoint.best_metric": "ftd"}, "best_metric is 'ftd'; expected one of"),
    ({"dataset.name": "", "dataset.speaker": "oliver"}, "'oliver' needs dataset.root"),
    ({"template.frozen": True}, "no templates to keep; give --pretrained"),
    ({"template.frozen": True, "template.kind": "none"}, "only templates of kind 'bp'"),
    ({"evaluation.template": "encoder"}, "give config.evaluation.pose_vae"),
    ({"evaluation.pose_vae": "nowhere"}, "nowhere: no such folder"),
    ({"template.kind": "vae", "template.pose_vae": "nowhere"}, "nowhere"),
    ({"sequence.train": True}, "needs templates of kind 'vae'"),
  ],
)
def test_what_is_wrong_is_said_before_the_data_is_built(tmp_path, fields, complaint):
  config = tiny.config(tmp_path / "data", **fields)
  with pytest.raises(UserError, match=complaint):
    tiny.train(config, tmp_path / "w")
  assert not (tmp_path / "data").exists()
  assert not (tmp_path / "w").exists()


def test_a_workdir_without_a_run_is_not_resumed(data_dir, tmp_path):
  loop_arguments = (tiny.config(data_dir), tmp_path / "w", Evaluator, Gallery)
  with pytest.raises(UserError, match=r"--resume=.*w: has no checkpoint"):
    loop.train(*loop_arguments, must_resume=True)
  assert not (tmp_path / "w").exists()


def test_the_pose_vae_of_the_templates_is_not_that_for_ftd(
  train, with_pose_vae, tmp_path
):
  """Phase 1 trains its own, also if another one is named for FTD."""
  other = with_pose_vae / workdir.POSE_VAE
  before = (other / workdir.METRICS).read_text()
  path = train(num_epochs=1, seed=1, **VAE, **{"evaluation.pose_vae": str(other)})
  assert runs.load(path / workdir.POSE_VAE).step == 2
  assert (other / workdir.METRICS).read_text() == before
  with pytest.raises(UserError, match=r"leave out config\.evaluation\.pose_vae"):
    train(
      tmp_path / "v",
      **VAE,
      **{"evaluation.pose_vae": str(other), "evaluation.template": "encoder"},
    )
  options = evaluation.Options(pose_vae=str(other), template="encoder")
  with pytest.raises(UserError, match="is not the pose VAE that the templates"):
    evaluation.evaluate_run(path, options)


def test_a_missing_run_to_start_from_is_named_before_the_data_is_built(tmp_path):
  with pytest.raises(UserError, match="nowhere: no such folder"):
    tiny.train(tiny.config(tmp_path / "data"), tmp_path / "w", pretrained="nowhere")
  assert not (tmp_path / "data").exists()


CAUSAL = {"generator.causal": True, "generator.norm": "bn"}


def test_a_causal_model_learns_from_a_teacher(train, trained, tmp_path):
  fields = CAUSAL | {"teacher": str(trained), "num_epochs": 1}
  path = train(**fields)
  both = train(tmp_path / "both", **fields | {"loss.regression_weight": 0.0})
  first, other = (_lines(p, "train")[0] for p in (path, both))
  # The first step compares the same poses with the data and with the teacher's.
  assert first["teacher"] == pytest.approx(other["teacher"], rel=1e-5)
  assert first["teacher"] != pytest.approx(first["l1"], rel=1e-3)
  kl = 0.1 * first["kl"]
  assert first["loss"] == pytest.approx(first["l1"] + first["teacher"] + kl, rel=1e-5)
  assert other["loss"] == pytest.approx(other["teacher"] + kl, rel=1e-5)
  # Poses come out as for any other run, and the teacher is no longer needed.
  assert runs.load(path).method.look_ahead == 1


def test_a_teacher_of_itself_has_nothing_to_teach(train, trained):
  path = train(
    pretrained=str(trained), teacher=str(trained), num_epochs=1, **{"seed": 3}
  )
  assert _lines(path, "train")[0]["teacher"] < 1e-5


def test_unusable_teachers(train, trained, with_pose_vae, data_dir, tmp_path):
  other = tiny.config(data_dir, num_epochs=1, **{"dataset.num_train_clips": 24})
  tiny.train(other, tmp_path / "other", _NoGallery)
  for teacher, message in [
    (tmp_path / "none", "config.teacher=.*none"),
    (with_pose_vae / workdir.POSE_VAE, "takes no audio"),
    (tmp_path / "other", "was trained on other clips"),
  ]:
    with pytest.raises(UserError, match=message):
      train(tmp_path / "new", teacher=str(teacher))
  with pytest.raises(UserError, match="a pose VAE has no teacher"):
    train(tmp_path / "new", teacher=str(trained), experiment="pose2pose")
  with pytest.raises(UserError, match="normalises poses in another way"):
    train(tmp_path / "new", teacher=str(trained), **{"pose.hierarchical": False})
  assert not (tmp_path / "new").exists()
