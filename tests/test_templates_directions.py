"""Directions: what they promise on a model that is known, and their files."""

import json
import shutil
import types

import cv2
import numpy as np
import pytest
import tiny
import tqdm

from sdt_jax import workdir
from sdt_jax.errors import UserError
from sdt_jax.templates import attributes, directions, linear
from sdt_jax.templates.attributes import ATTRIBUTES
from sdt_jax.training import runs

NAMES = list(ATTRIBUTES)
SIZE = 40


class KnownModel:
  """Attributes that are a known function of the template: a linear map, and a bend."""

  def __init__(self, rng):
    measured = rng.standard_normal((len(attributes.MEASURED), SIZE))
    self.map = attributes.combination() @ measured
    self.bank = rng.standard_normal((400, SIZE))
    self.sounds = [np.zeros(1)] * 3

  def attributes(self, sounds, templates, progress):
    progress.update(len(sounds))
    bend = np.square(templates).mean(1, keepdims=True)
    return templates @ self.map.T + bend + sounds[:, None]


@pytest.fixture(scope="module")
def known():
  rng = np.random.default_rng(0)
  model, progress = KnownModel(rng), tqdm.tqdm(disable=True)
  response = directions._respond(model, np.arange(4, 400), rng, progress)
  values = model.bank @ model.map.T
  sd, tied = values.std(0), np.abs(np.corrcoef(values.T)) >= 0.9
  named = directions._separate(response.weights, sd, tied, np.cov(model.bank.T))
  effects = directions._effects(model, model.bank[:4], named.vectors, progress) / sd
  return types.SimpleNamespace(
    model=model, response=response, named=named, effects=effects
  )


def test_the_response_of_the_generator_is_found(known):
  np.testing.assert_allclose(known.response.weights, known.model.map, atol=0.1)
  assert (known.response.r2 > 0.9).all()


def test_a_direction_moves_its_attribute_and_leaves_the_others(known):
  np.testing.assert_allclose(np.diag(known.effects), 1, atol=0.2)
  for i, others in enumerate(known.named.others):
    assert np.abs(known.effects[i, others]).max() < 0.15
  assert (known.named.lengths < 2).all()


def test_means_of_both_hands_hold_neither_hand_and_move_both_alike(known):
  others = known.named.others
  for i, (name, attribute) in enumerate(ATTRIBUTES.items()):
    for part in attribute.parts:
      assert not others[i, NAMES.index(part)]
      assert not others[NAMES.index(part), i]
    assert not others[i, NAMES.index(name)]
  i = NAMES.index("hands_high")
  moves = known.model.map @ known.named.vectors[i]
  left, right = (moves[NAMES.index(f"{s}_hand_high")] for s in ("left", "right"))
  assert left == pytest.approx(right, rel=0.2)


def test_attributes_that_the_speaker_never_separates_move_together():
  weights, tied = np.eye(len(NAMES)), np.eye(len(NAMES), dtype=bool)
  lean, tilt = NAMES.index("lean"), NAMES.index("head_tilt")
  weights[tilt] = 0.99 * weights[lean] + 0.01 * weights[tilt]
  free = directions._separate(weights, np.ones(len(NAMES)), tied, np.eye(len(NAMES)))
  assert free.lengths[lean] > 2
  tied[lean, tilt] = tied[tilt, lean] = True
  named = directions._separate(weights, np.ones(len(NAMES)), tied, np.eye(len(NAMES)))
  assert not named.others[lean, tilt]
  assert named.lengths[lean] == pytest.approx(1, abs=0.01)


@pytest.fixture
def found():
  rng = np.random.default_rng(0)
  return directions.Directions(
    *(7, ("energy", "lean"), rng.standard_normal((2, 3))),
    *(np.eye(3), np.array([3.0, 2.0, 1.0])),
  )


def test_an_offset_is_the_sum_of_its_parts(found):
  offset = found.offset("lean:+1.5, energy:-1,sefa1:2")
  expected = 1.5 * found.vectors[1] - found.vectors[0] + [0, 4, 0]
  np.testing.assert_allclose(offset, expected, rtol=1e-6)
  assert offset.dtype == np.float32


@pytest.mark.parametrize(
  ("spec", "complaint"),
  [
    *(
      (s, "unknown direction") for s in ("", "calm:1", "sefa3:1", "sefa-1:1", "lean:1,")
    ),
    *((s, "lean has the amount") for s in ("lean", "lean:", "lean:much", "lean:nan")),
    *((s, "lean has the amount") for s in ("lean:1e9", "lean:1:2")),
  ],
)
def test_other_offsets_are_refused_in_one_line(found, spec, complaint):
  with pytest.raises(UserError, match=complaint) as e:
    found.offset(spec)
  assert "\n" not in str(e.value)
  if complaint.startswith("unknown"):
    assert "known: energy, lean, and sefa0 to sefa2" in str(e.value)


def test_directions_are_read_as_written(tmp_path, found):
  with pytest.raises(UserError, match=r"python -m sdt_jax\.templates\.directions --w"):
    directions.read(tmp_path)
  directions._write_arrays(tmp_path / directions.ARRAYS, found)
  again = directions.read(tmp_path)
  assert (again.step, again.names) == (found.step, found.names)
  for ours, other in zip(again[2:], found[2:], strict=True):
    np.testing.assert_allclose(ours, other, rtol=1e-6)


@pytest.mark.parametrize(
  "wrong",
  [
    *({"vectors": np.zeros(s)} for s in ((2,), (3, 3), (2, 4))),
    *({"v": np.zeros((3, 2))}, {"v_sd": np.zeros(())}, {"v_sd": np.full(3, np.nan)}),
    *({"names": np.arange(2)}, {"names": np.array(["a", None])}, {"step": np.ones(2)}),
  ],
)
def test_damaged_files_are_refused(tmp_path, found, wrong):
  file = tmp_path / directions.ARRAYS
  directions._write_arrays(file, found)
  np.savez(file, **(dict(np.load(file)) | wrong))
  with pytest.raises(UserError, match=r"directions\.npz: not a") as e:
    directions.read(tmp_path)
  assert "\n" not in str(e.value)


FEW = {"_PAIRS": 6, "_BASES": 1, "_BASE_SOUNDS": 1, "_AMOUNTS": (-1.0, 1.0)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compile_fast):
  """Workdirs of tiny runs; the directions of `bp` are found."""
  folder = tmp_path_factory.mktemp("directions")
  bp = tiny.config(folder / "data", num_epochs=1)
  tiny.train(bp, folder / "bp")
  vae = tiny.config(folder / "data", num_epochs=1, experiment="pose2pose")
  vae.checkpoint.best_metric = "l1"
  tiny.train(vae, folder / "vae")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in FEW.items():
      patch.setattr(directions, name, value)
    report = directions.find(folder / "bp")
  return types.SimpleNamespace(folder=folder, report=report)


def test_a_run_gets_its_three_files(trained):
  path, report = trained.folder / "bp", trained.report
  assert report == json.loads((path / directions.REPORT).read_text())
  found = directions.read(path)
  assert found.names == tuple(report["names"]) == tuple(ATTRIBUTES)
  assert found.step == report["step"]
  assert found.vectors.shape == (len(ATTRIBUTES), 4)
  assert found.closed_form.shape == (4, 4)
  picture = cv2.imread(str(path / directions.PICTURE))
  assert (picture < 128).any()
  assert report["sounds"]["source"] == "dev split"
  assert set(report["hidden_r2"]) >= {"head_turn", "left_hand_height"}
  lines = directions.table(report).splitlines()
  assert len(lines) == 2 + len(ATTRIBUTES)


def test_without_the_data_a_sound_is_enough(trained, tmp_path, monkeypatch, caplog):
  path = tmp_path / "bp"
  shutil.copytree(trained.folder / "bp", path)
  (path / workdir.CLIPS).write_text("other\n" * 20)
  for name, value in FEW.items():
    monkeypatch.setattr(directions, name, value)
  monkeypatch.setattr(directions, "_draw", lambda *args: None)
  with caplog.at_level("WARNING", "sdt_jax"):
    report = directions.find(path)
  assert "the training clips are left out" in caplog.text
  assert report["sounds"]["source"] == "sample_speech.flac"
  assert {entry["r2"] for entry in report["directions"].values()} == {None}
  assert report["unit"].endswith("generated motion")


def test_closed_form_directions_are_of_the_layer_that_reads_the_template(trained):
  for name, part in (("bp", "generator"), ("vae", "vae")):
    run = runs.load(trained.folder / name)
    params = run.state.params[part]
    layer = params["unet"]["e0"] if name == "bp" else params["decoder"]["d5"]
    kernel = np.asarray(layer["conv"]["kernel"])
    assert kernel.shape[1] == (12 if name == "bp" else 4)
    template = np.array([1.0, 2.0, -1.0, 0.5])
    response = np.einsum("tio,i->o", kernel[:, -4:], template)
    weights = run.method.template_weights(run.state)
    np.testing.assert_allclose(weights @ template, response, rtol=1e-5)
    vectors, values = linear.closed_form(weights)
    effects = np.linalg.norm(weights @ vectors.T, axis=0)
    np.testing.assert_allclose(effects, np.sqrt(values), atol=1e-5)


def test_runs_without_a_template_for_each_clip_are_refused(trained, monkeypatch):
  with pytest.raises(UserError, match="generates no motion from audio"):
    directions.find(trained.folder / "vae")
  for bank, complaint in (
    (None, "has no templates"),
    (np.zeros((3, 64, 4)), "change from frame to frame"),
    (np.zeros((1, 4)), "has 1 template"),
  ):
    method = types.SimpleNamespace(bank=lambda state, bank=bank: bank)
    run = types.SimpleNamespace(method=method, state=None)
    monkeypatch.setattr(directions.generate, "load_speaking", lambda *args, r=run: r)
    with pytest.raises(UserError, match=complaint):
      directions.find(trained.folder / "bp")


def test_a_file_of_the_original_is_decoded_ten_times_as_far(trained, tmp_path):
  v = np.random.default_rng(0).standard_normal((3, 4))
  np.savez(tmp_path / "code.npz", v=v)
  out = tmp_path / "out"
  written = directions.decode(trained.folder / "vae", tmp_path / "code.npz", out)
  assert set(out.iterdir()) == set(written)
  assert len(written) == 2 + 3
  decoded = dict(np.load(out / "decoded.npz"))
  assert decoded["poses_pred_batch"].shape == (3, 64, 2, 121)
  np.testing.assert_allclose(decoded["condition_code"], 10 * v, rtol=1e-6)


def test_our_own_file_is_decoded_with_its_names(trained, tmp_path):
  file = trained.folder / "bp" / directions.ARRAYS
  bank = runs.load(trained.folder / "vae").state.bank["mean"]
  labels, codes = directions._codes_in(file, np.asarray(bank).mean(0))
  assert len(labels) == len(codes) == 4 + 2 * len(ATTRIBUTES)
  low, high = (codes[labels.index(f"energy{amount}")] for amount in ("-2", "+2"))
  vector = directions.read(trained.folder / "bp").vector("energy")
  np.testing.assert_allclose(high - low, 4 * vector, atol=1e-5)


@pytest.mark.parametrize(
  ("arrays", "complaint"),
  [
    ({"w": np.zeros((2, 4))}, "has no v; found: w"),
    *(({"v": np.zeros(s)}, "has shape") for s in ((4,), (2, 5), (0, 4))),
    ({"v": np.full((1, 4), np.inf)}, "NaN or infinite"),
    ({"v": np.array([["a"] * 4])}, "has type <U1"),
    ({"v": np.array([[None] * 4])}, "not a readable npz"),
  ],
)
def test_other_files_are_refused_before_anything_is_written(
  trained, tmp_path, arrays, complaint
):
  np.savez(tmp_path / "code.npz", **arrays)
  with pytest.raises(UserError, match=complaint) as e:
    directions.decode(trained.folder / "vae", tmp_path / "code.npz", tmp_path / "out")
  assert str(e.value).startswith("--directions=")
  assert not (tmp_path / "out").exists()


def test_only_a_pose_vae_decodes(trained, tmp_path):
  file = trained.folder / "bp" / directions.ARRAYS
  with pytest.raises(UserError, match="has no encoder"):
    directions.decode(trained.folder / "bp", file, tmp_path / "out")
