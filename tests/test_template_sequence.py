"""The model of template sequences: its contexts, training, director and judgement."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import sdt_jax
from sdt_jax import audio, methods, workdir
from sdt_jax import config as config_lib
from sdt_jax.errors import UserError
from sdt_jax.evaluation import run as evaluation
from sdt_jax.evaluation import sequences
from sdt_jax.interop import convert
from sdt_jax.methods import base, template_sequence
from sdt_jax.methods.base import Clips
from sdt_jax.methods.template_sequence import TemplateSequence
from sdt_jax.models.template_sequence import Context
from sdt_jax.templates import auto
from sdt_jax.templates.director import BLOCK
from sdt_jax.training import runs

pytestmark = pytest.mark.usefixtures("compile_fast")

SIZE = 3
RECORDINGS, BLOCKS = 10, 12
NUM_CLIPS = RECORDINGS * BLOCKS


def _build() -> TemplateSequence:
  config = config_lib.experiment("template_sequence")
  config.template.of, config.template.size = "run", SIZE
  config.optimizer.learning_rate = 2e-2
  config.optimizer.milestones = ()
  method = methods.build(config, steps_per_epoch=1)
  assert isinstance(method, TemplateSequence)
  return method


METHOD = _build()


def _clips(sounds: np.ndarray | None = None) -> Clips:
  """Recordings of clips that touch, in an order of their own."""
  if sounds is None:
    sounds = np.zeros((NUM_CLIPS, base.CLIP_SAMPLES), np.float32)
  order = np.random.default_rng(1).permutation(NUM_CLIPS)
  videos = np.repeat([b"v%02d" % i for i in range(RECORDINGS)], BLOCKS)
  starts = np.tile(np.arange(BLOCKS), RECORDINGS) * audio.CLIP_FRAMES
  return Clips(videos[order], starts[order], [sounds[order]])


def _cyclic(clips: Clips) -> np.ndarray:
  """Templates that walk through the corners of a triangle, with noise."""
  recording = np.unique(clips.videos, return_inverse=True)[1]
  corner = (clips.starts // audio.CLIP_FRAMES + recording) % SIZE
  noise = np.random.default_rng(0).standard_normal((NUM_CLIPS, SIZE))
  return (4 * np.eye(SIZE)[corner] + 0.3 * noise).astype(np.float32)


def _state(templates: np.ndarray, clips: Clips):
  state = runs.init_state(METHOD, 0, NUM_CLIPS)
  return METHOD.with_templates(state, templates, clips)


def _step(state, index: np.ndarray, keys: jax.Array):
  """A step over as many devices as `index` (devices, b) has rows."""
  step = jax.vmap(METHOD.update, (None, 0, 0), axis_name=base.AXIS)
  return jax.jit(lambda *a: step(*a)[:2])(state, {"index": jnp.asarray(index)}, keys)


def _train(state, steps: int):
  index = np.arange(NUM_CLIPS)[None]
  keys = lambda n: jax.random.split(jax.random.key(n), (1, NUM_CLIPS))  # noqa: E731
  step = jax.jit(jax.vmap(METHOD.update, (None, 0, 0), axis_name=base.AXIS, out_axes=0))
  metrics = {}
  for number in range(steps):
    state, metrics, _ = step(state, {"index": index}, keys(number))
    state, metrics = jax.tree.map(lambda x: x[0], (state, metrics))
  return state, metrics


# --- Contexts


def test_previous_clips_are_consecutive_and_of_the_same_recording():
  clips = _clips()
  recording = template_sequence.recordings(clips)
  previous = template_sequence.predecessors(recording, clips.starts, 3)
  for row, chain in enumerate(previous):
    for number, before in enumerate(chain, start=1):
      start = clips.starts[row] - number * audio.CLIP_FRAMES
      assert (before >= 0) == (start >= 0)
      if before >= 0:
        assert clips.videos[before] == clips.videos[row]
        assert clips.starts[before] == start


def test_previous_clips_of_a_pack_do_not_overlap():
  starts = np.arange(0, 400, 5)
  recording = np.zeros(len(starts), int)
  latest = template_sequence.predecessors(recording, starts, 1)[:, 0]
  gaps = starts - (starts[latest] + audio.CLIP_FRAMES)
  assert set(gaps[latest >= 0]) == {1}
  np.testing.assert_array_equal(latest >= 0, starts >= 65)


def test_a_gap_in_the_recording_ends_the_sequence():
  starts = np.array([0, 64, 128 + 9, 210])
  latest = template_sequence.predecessors(np.zeros(4, int), starts, 1)[:, 0]
  np.testing.assert_array_equal(latest, [-1, 0, -1, -1])


def test_a_single_recording_counts_as_five_that_share_no_frame():
  starts = np.arange(0, 2000, 16)
  clips = Clips(np.full(len(starts), b"v"), starts, [])
  recording = template_sequence.recordings(clips)
  assert set(recording) == {-1, 0, 1, 2, 3, 4}
  ends = starts + audio.CLIP_FRAMES
  for part in range(4):
    assert ends[recording == part].max() <= starts[recording == part + 1].min()


def test_too_few_clips_are_refused():
  clips = Clips(np.array([b"a"] * 3), np.array([0, 5, 10]), [])
  state = runs.init_state(METHOD, 0, 3)
  with pytest.raises(UserError, match="the 3 training clips are too few"):
    METHOD.with_templates(state, np.eye(3, dtype=np.float32), clips)


# --- Training


@pytest.fixture(scope="module")
def trained():
  clips = _clips()
  return _train(_state(_cyclic(clips), clips), 60)


def test_it_learns_a_sequence_better_than_the_others(trained):
  state, metrics = trained
  assert metrics["nll_held_out"] < 0.7
  assert metrics["nll_held_out_live"] < 0.7
  data = sequences.Data.of(METHOD, state)
  scores, _ = sequences.score_densities(data, sequences.policies(data), seed=0)
  nll = {name: by_key["nll"].value for name, by_key in scores.items()}
  # One of three corners: log 3 nats, of 3 dimensions. The bigram can learn it, too.
  for other in ("constant", "random rows", "nearest sound"):
    assert nll["auto"] < nll[other] - 0.2, other
  assert scores["auto"]["rank"].value < 0.25
  assert scores["auto"]["information"].value > 0.7


def test_it_hears_the_coming_sound():
  rng = np.random.default_rng(2)
  loud = rng.random(NUM_CLIPS) < 0.5
  noise = rng.standard_normal((NUM_CLIPS, base.CLIP_SAMPLES))
  sounds = (np.where(loud, 0.3, 0.003)[:, None] * noise).astype(np.float32)
  clips = _clips(sounds)
  [heard] = clips.sounds
  is_loud = heard.std(axis=1) > 0.1
  templates = rng.standard_normal((NUM_CLIPS, SIZE)) * 0.3
  templates[:, 0] += 4 * is_loud
  _, metrics = _train(_state(templates.astype(np.float32), clips), 60)
  assert metrics["nll_held_out"] < metrics["nll_held_out_live"] - 0.1


def test_held_out_clips_do_not_change_the_parameters():
  clips = _clips()
  templates = _cyclic(clips)
  state = _state(templates, clips)
  held_out = np.asarray(state.bank["held_out"])
  assert 0 < held_out.sum() < NUM_CLIPS / 2
  changed = templates.copy()
  changed[held_out] += 7
  other = _state(changed, clips)
  index = np.arange(NUM_CLIPS)[None]
  keys = jax.random.split(jax.random.key(0), (1, NUM_CLIPS))
  (one, metrics), (two, others) = (_step(s, index, keys) for s in (state, other))
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  assert metrics["nll_held_out"] != others["nll_held_out"]


def test_two_devices_equal_one():
  clips = _clips()
  state = _state(_cyclic(clips), clips)
  index = np.arange(NUM_CLIPS)
  keys = jax.random.split(jax.random.key(0), NUM_CLIPS)
  one = _step(state, index[None], keys[None])
  two = _step(state, index.reshape(2, -1), keys.reshape(2, -1))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=2e-3, atol=1e-4), one, two
  )


# --- The whole way


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """An SDT-BP run with its model of template sequences."""
  folder = tmp_path_factory.mktemp("auto")
  fields = {"dataset.num_train_clips": 120, "evaluation.every_epochs": 0}
  config = tiny.config(folder / "data", num_epochs=1, **fields)
  tiny.train(config, folder / "bp")
  tiny.train(_sequence_of(folder / "bp"), _folder(folder / "bp"))
  return folder / "bp"


def _bank(path: pathlib.Path) -> np.ndarray:
  bank = sdt_jax.load(path).bank
  assert bank is not None
  return bank


def _sequence_of(path: pathlib.Path, **fields):
  config = config_lib.experiment("template_sequence")
  config.template.of = str(path)
  config.num_epochs, config.log.every_steps = 2, 1
  config.batch_size = 32
  config.update_from_flattened_dict(fields)
  return config


def _folder(path: pathlib.Path) -> pathlib.Path:
  return path / workdir.TEMPLATE_SEQUENCE


def test_it_trains_resumes_and_logs_the_held_out_recordings(run, tmp_path):
  config = workdir.read_config(_folder(run))
  assert config.dataset == workdir.read_config(run).dataset
  assert config.template.size == 4
  for epochs in (1, 2):
    tiny.train(_sequence_of(run, num_epochs=epochs), tmp_path / "w")
  states = [runs.load(path).state for path in (_folder(run), tmp_path / "w")]
  jax.tree.map(np.testing.assert_array_equal, *states)
  lines = [m for m in workdir.read_metrics(_folder(run)) if m["split"] == "train"]
  assert {"loss", "nll", "nll_held_out", "nll_held_out_live"} <= lines[-1].keys()


def test_the_director_is_decided_by_its_seed(run):
  bank = _bank(run)
  make = auto.load(run, bank)
  sound = np.random.default_rng(0).uniform(-0.3, 0.3, 16000 * 11).astype(np.float32)
  one, same, other = (make(seed).direct(sound) for seed in (0, 0, 1))
  assert one.shape == (165, 4)
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - other).max() > 0
  ends = one[[BLOCK - 1, 2 * BLOCK - 1]]
  assert all(np.abs(bank - end).sum(1).min() < 1e-5 for end in ends)
  changes = np.abs(np.diff(one, axis=0)).max(1)
  assert changes[: BLOCK - 1].max() == 0  # the first block has no template before it
  assert changes[BLOCK + 8 : 2 * BLOCK - 1].max() == 0


def test_templates_of_held_out_recordings_are_not_chosen(run):
  opened = runs.load(_folder(run))
  assert isinstance(opened.method, TemplateSequence)
  held_out = np.asarray(opened.state.bank["held_out"])
  bank = np.asarray(opened.state.bank["mean"])
  # Only templates of held-out clips are near the mean of what is drawn freely.
  bank = np.where(held_out[:, None], 0.01 * bank, bank + 100)
  state = opened.state.replace(bank=opened.state.bank | {"mean": jnp.asarray(bank)})
  features = np.zeros((2, *np.shape(state.bank["sound"])[1:]), np.float32)
  context = Context(
    jnp.zeros((template_sequence.NUM_PREVIOUS, 4)),
    jnp.zeros(template_sequence.NUM_PREVIOUS, bool),
    jnp.asarray(features),
    jnp.zeros(2, bool),
  )
  choose = jax.jit(opened.method.choose)
  for seed in range(200):
    chosen = np.asarray(choose(state, context, jax.random.key(seed)))
    row = np.abs(bank - chosen).sum(1).argmin()
    assert not held_out[row]


def test_the_director_works_live(run):
  director = auto.load(run, _bank(run))(0)
  sound = np.zeros(audio.num_samples(BLOCK), np.float32)
  blocks = [director.next(None, None), *(director.next(sound, None) for _ in range(4))]
  assert all(block.shape == (BLOCK, 4) for block in blocks)
  assert all(block.dtype == np.float32 for block in blocks)
  for before, after in itertools.pairwise(blocks):
    step = np.abs(after[0] - before[-1]).max()
    assert step <= 0.02 * np.abs(after[-1] - before[-1]).max() + 1e-6


def test_bad_directories_get_one_line(run, tmp_path):
  bank = _bank(run)
  for directory, changed, message in [
    (
      str(tmp_path / "none"),
      bank,
      "none does not exist; train it with python train.py",
    ),
    (str(run), bank, "is a gesture model; train one with"),
    (None, bank + 1, "was trained for other templates"),
    (None, bank[:-1], "was trained for other templates"),
  ]:
    with pytest.raises(UserError, match=message):
      auto.load(run, changed, directory)


def test_bad_configs_get_one_line(run, tmp_path):
  folder = _folder(run)
  for config, message in [
    (_sequence_of(tmp_path / "none"), "config.template.of=.*none: no such folder"),
    (_sequence_of(pathlib.Path("")), None),
    (_sequence_of(folder), "give the workdir of an sdt_bp or sdt_vae run"),
    (_sequence_of(run, **{"template.kind": "vae"}), "give 'none'"),
    (_sequence_of(run, **{"evaluation.every_epochs": 1}), "generates no poses"),
    (
      tiny.config(tmp_path, **{"template.of": str(run)}),
      "a gesture model models no templates; leave it out",
    ),
  ]:
    if message is None:
      config.template.of, message = "", "config.template.of is empty"
    with pytest.raises(UserError, match=message):
      tiny.train(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_programs_that_need_poses_refuse(run):
  with pytest.raises(
    UserError, match="model of template sequences, which generates no"
  ):
    evaluation.evaluate_run(_folder(run), evaluation.Options())
  with pytest.raises(
    UserError, match="model of template sequences, which generates no"
  ):
    sdt_jax.load(_folder(run))


def test_it_is_not_exported_to_the_original(run, tmp_path):
  with pytest.raises(UserError, match="which the original does not have; give the"):
    convert.export_checkpoint(_folder(run), tmp_path / "x.pth")
  assert not (tmp_path / "x.pth").exists()


def test_the_judgement_compares_with_every_baseline(run, capsys):
  path = sequences.judge(_folder(run), None, seconds=12, num_samples=1, seed=0)
  result = json.loads(path.read_text())
  policies = {
    "auto",
    "auto, live",
    "constant",
    "random rows",
    "nearest sound",
    "bigram",
  }
  assert set(result["likelihood"]) == policies
  assert set(result["sequences"]) == policies | {"true templates"}
  assert result["sequences"]["constant"]["step"] == 0
  assert result["sequences"]["random rows"]["step"] > 0
  random = result["likelihood"]["random rows"]
  assert random["rank"]["value"] == pytest.approx(0.5, abs=0.05)  # rounding breaks ties
  assert random["information"]["value"] == pytest.approx(0, abs=1e-4)
  assert (path.parent / "sequences.png").stat().st_size > 1000
  assert "FTD is left out" in capsys.readouterr().out
