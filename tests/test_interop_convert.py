"""Checkpoints of the original -> workdirs and back, through files."""

import copy
import functools
import json
import pathlib
import shutil
import wave

import golden
import jax
import jax.numpy as jnp
import numpy as np
import packs
import programs
import pytest
import test_torch_zip

import sdt_jax
from sdt_jax import config as config_lib
from sdt_jax import keypoints as kp
from sdt_jax import methods, speakers, workdir
from sdt_jax.errors import UserError
from sdt_jax.interop import convert, kept, names, original, torch_file, torch_zip
from sdt_jax.synthesis import demo, motion
from sdt_jax.training import runs, setup

EPOCH, STEP, CLIPS = 3, 30, 5
KINDS = ("sdt_bp", "sdt_vae", "sdt_vae_sequence", "s2g", "pose2pose")


def small_config(kind: str):
  config = config_lib.experiment(kind)
  config.generator.channels = 16
  config.generator.audio_channels = (4, 4, 8, 8)
  config.template.size = 6
  return config


def random_state(config, seed: int = 0):
  """A state in which all numbers differ, including the moments of Adam."""
  method = methods.build(config, steps_per_epoch=1)
  shapes = jax.eval_shape(lambda: runs.init_state(method, 0, CLIPS))
  rng = np.random.default_rng(seed)

  def draw(leaf):
    if leaf.dtype == jnp.int32:
      return np.int32(STEP)
    return rng.uniform(0.1, 1, leaf.shape).astype(np.float32)

  return jax.tree.map(draw, shapes)


def exported(config) -> dict:
  """A checkpoint of the original with random numbers."""
  return original.from_state(random_state(config), config, EPOCH)


def assert_equal_trees(ours, theirs) -> None:
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """<kind>.pth and workdir <kind> of a small model of each kind."""
  path = tmp_path_factory.mktemp("interop")
  for kind in ("pose2pose", *KINDS[:-1]):
    torch_zip.write(path / f"{kind}.pth", exported(small_config(kind)))
    vae = path / "pose2pose.pth" if kind.startswith("sdt_vae") else None
    convert.import_checkpoint(path / f"{kind}.pth", "oliver", path / kind, pose_vae=vae)
  return path


@pytest.fixture
def content(folder) -> dict:
  """The checkpoint dict of the small SDT-BP model, to change."""
  return copy.deepcopy(torch_file.read(folder / "sdt_bp.pth"))


def importing(content, tmp_path, **kwargs) -> list[str]:
  torch_zip.write(tmp_path / "a.pth", content)
  kwargs = {"speaker": "oliver", "path": tmp_path / "run"} | kwargs
  return convert.import_checkpoint(tmp_path / "a.pth", **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_comes_back_bit_for_bit(folder, kind):
  run = runs.load(folder / kind)
  expected = random_state(small_config(kind))
  if kind.startswith("sdt_vae"):  # its templates are those of the pose VAE's file
    vae = random_state(small_config("pose2pose"))
    expected = expected.replace(bank={"mean": vae.bank["mean"]})
    imported_too = runs.load_encoder(workdir.pose_vae_for_ftd(run.path, run.config), "")
    assert_equal_trees(imported_too.state, vae)
    assert imported_too.speaker.name == "oliver"
  assert (run.step, run.epoch) == (STEP, EPOCH)
  assert_equal_trees(run.state, expected)
  assert run.config.template.kind == small_config(kind).template.kind
  assert run.config.sequence.train == (kind == "sdt_vae_sequence")
  assert run.config.pose.hierarchical == (kind != "s2g")
  assert run.speaker.name == "oliver"
  assert len(workdir.read_clips(folder / kind)) == (0 if kind == "s2g" else CLIPS)
  assert not list(folder.glob(".*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_back_bit_for_bit(folder, tmp_path, kind):
  has_encoder = kind in ("sdt_bp", "sdt_vae", "s2g")
  vae = folder / "pose2pose" if has_encoder else None
  convert.export_checkpoint(folder / kind, tmp_path / "a.pth", pose_vae=vae)
  ours = torch_zip.read(tmp_path / "a.pth")
  theirs = torch_zip.read(folder / f"{kind}.pth")
  encoder = [name for name in theirs["model_state_dict"] if "pose_encoder" in name]
  assert len(encoder) == (0 if kind == "pose2pose" else 7 * 6)
  given = torch_zip.read(folder / "pose2pose.pth")["model_state_dict"]
  for name in encoder if vae else ():  # it is that of the pose VAE
    theirs["model_state_dict"][name] = given[name.replace("pose_encoder", "ae.encoder")]
  test_torch_zip.assert_same(ours, theirs)


def test_a_sequence_model_is_exported_with_its_own_encoder(folder, tmp_path):
  with pytest.raises(UserError, match=r"contains the pose encoder .* leave it out"):
    convert.export_checkpoint(
      folder / "sdt_vae_sequence", tmp_path / "a.pth", pose_vae=folder / "pose2pose"
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_model_has_the_originals_names_order_shapes_and_types(kind):
  ours = exported(config_lib.experiment(kind))["model_state_dict"]
  manifests = json.loads((golden.DATA / "state_dict_manifest.json").read_text())
  manifests["voice2pose_sdt_vae_sequence_model"] = {
    # `kept` writes this constant of imported checkpoints.
    k: v
    for k, v in _first_manifest().items()
    if not k.startswith(kept.CONSTANTS)
  }
  theirs = manifests[kind if kind == "pose2pose" else f"voice2pose_{kind}_model"]
  assert list(ours) == [f"module.{name}" for name in theirs]
  for name, (shape, dtype) in theirs.items():
    array = ours[f"module.{name}"]
    rows = name.startswith("clip")
    assert list(array.shape[rows:]) == shape[rows:], name
    assert array.dtype == dtype, name


def test_the_front_ends_constants_are_the_originals():
  constants = original._front_end()
  filters = constants["mel_transfm.mel_scale.fb"]
  np.testing.assert_allclose(filters, golden.load("mel")["fb"], atol=1e-5)
  window = constants["mel_transfm.spectrogram.window"]
  assert window.shape == (400,)
  np.testing.assert_allclose(window[[0, 100, 200]], [0, 0.5, 1], atol=1e-7)


# The golden numbers, from a .pth of the recipe's weights through a workdir.


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory):
  """Imports the original's full model by name of its manifest."""

  @functools.cache
  def load(manifest: str) -> runs.Run:
    path = tmp_path_factory.mktemp(manifest)
    model = {f"module.{k}": v for k, v in golden.state_dict(manifest).items()}
    content = {"epoch": 1, "step": 2, "model_state_dict": model}
    importing(content, path)
    run = runs.load(path / "run")
    shutil.rmtree(path / "run")
    return run

  return load


@pytest.mark.parametrize("kind", ["sdt_bp", "s2g"])
def test_an_imported_generator_gives_the_golden_poses(golden_run, kind):
  run = golden_run(f"voice2pose_{kind}_model")
  recorded = golden.load(f"generator_{kind}")
  batch = {"mel": golden.load("mel")["mel"]}
  if kind == "sdt_bp":
    batch["template"] = recorded["code"]
  poses = jax.jit(functools.partial(motion.sample, run.method))(run.state, batch)
  assert golden.relative_error(poses, recorded["poses_eval"]) < 1e-4
  if kind == "sdt_bp":
    bank = golden.recipe("clips_code", (10, 32))
    np.testing.assert_array_equal(run.state.templates(), bank)


def test_an_imported_pose_vae_gives_the_golden_codes(golden_run):
  run, recorded = golden_run("pose2pose"), golden.load("autoencoder")
  mean, log_var = run.method.encode(run.state, recorded["poses"])
  vae = run.state.network("vae")
  decoded = run.method.vae.apply(vae, recorded["z"], method="decode")
  assert golden.relative_error(mean, recorded["mu_eval"]) < 1e-4
  assert golden.relative_error(log_var, recorded["logvar_eval"]) < 1e-4
  assert golden.relative_error(decoded, recorded["decoded_eval"]) < 1e-4
  for ours, theirs in (("mean", "clip_code_mu"), ("log_var", "clip_code_logvar")):
    np.testing.assert_array_equal(run.state.bank[ours], golden.recipe(theirs, (10, 32)))


# The first public version, whose models have more parts.


def _first_manifest() -> dict[str, list]:
  return json.loads((golden.DATA / "sequence_manifest.json").read_text())


def first_version(kind: str) -> dict:
  """A checkpoint with the names and shapes of that version and random numbers."""
  manifest = _first_manifest()
  if kind == "sdt_bp":
    manifest = {k: v for k, v in manifest.items() if not k.startswith("netD_code.")}
    manifest = {"clips_code": [[CLIPS, 32], "float32"], **manifest}
  rng = np.random.default_rng(0)

  def draw(shape, dtype="float32"):
    return np.asarray(1 + 9 * rng.random(shape, np.float32), dtype)

  def counter(name: str) -> np.ndarray:
    return np.array(STEP * (3 if name.startswith("netD_") else 1))

  def adam(prefix: str, **settings) -> dict:
    trained = [
      shape
      for name, (shape, _) in manifest.items()
      if name.startswith(prefix) and not name.endswith(kept._NOT_TRAINED)
    ]
    state = {
      i: {"step": STEP, "exp_avg": draw(shape), "exp_avg_sq": draw(shape)}
      for i, shape in enumerate(trained)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(len(trained)))}
    return {"state": state, "param_groups": [settings | group]}

  optimizers = {"optimizerG": "netG.", "optimizerD_code": "netD_code."}
  if kind == "sdt_bp":
    optimizers = {"optimizerG": "netG.", "optimizerClipCode": "clips_code"}
  return {
    "epoch": EPOCH,
    "step": STEP,
    "model_state_dict": {f"module.{k}": draw(*v) for k, v in manifest.items()}
    | {f"module.{k}": counter(k) for k in manifest if k.endswith("tracked")},
  } | {f"{name}_state_dict": adam(p, foreach=None) for name, p in optimizers.items()}


@pytest.mark.parametrize("kind", ["sdt_bp", "sdt_vae"])
def test_the_first_versions_sequence_model_comes_back_bit_for_bit(tmp_path, kind):
  theirs, vae = first_version(kind), None
  if kind == "sdt_vae":
    vae, config = tmp_path / "vae.pth", small_config("pose2pose")
    config.template.size = 32
    torch_zip.write(vae, exported(config))
  notes = importing(theirs, tmp_path, pose_vae=vae)
  with np.load(tmp_path / "run" / kept.FILE_NAME, allow_pickle=False) as arrays:
    is_kept = "netG.code_mapper.blocks.7.bias" in arrays
    assert "mel_transfm_lip.mel_scale.fb" in arrays
  assert is_kept == (kind == "sdt_bp") == any("original.npz" in note for note in notes)
  assert len(notes) == 1 + is_kept
  convert.export_checkpoint(tmp_path / "run", tmp_path / "b.pth")
  ours = torch_zip.read(tmp_path / "b.pth")
  assert list(ours["model_state_dict"]) == list(theirs["model_state_dict"])
  for content in (ours, theirs):
    for name in list(content["model_state_dict"]):
      of_another_file = is_kept and name.startswith("module.pose_encoder.")
      if of_another_file or name.startswith("module.mel_transfm."):
        del content["model_state_dict"][name]
    optimizers = (key for key in content if key.startswith("optimizer"))
    for name in optimizers:  # the other settings are those of the run
      [group] = content[name]["param_groups"]
      content[name]["param_groups"] = group["params"]
  test_torch_zip.assert_same(ours, theirs)


def test_a_foreign_optimizer_of_the_sequence_model_is_not_kept(tmp_path):
  content = first_version("sdt_bp")
  group = {"params": [0]}
  state = {0: {"exp_avg": np.ones(3, np.float32)}}
  content["optimizerD_code_state_dict"] = {"state": state, "param_groups": [group]}
  given = content["optimizerG_state_dict"]
  given["state"][max(given["state"])]["exp_avg"] = ONE
  notes = importing(content, tmp_path)
  assert "optimizerD_code: not used" in notes
  assert any(n.startswith("optimizerG: not an Adam of these") for n in notes)
  convert.export_checkpoint(tmp_path / "run", tmp_path / "b.pth")
  adam = torch_zip.read(tmp_path / "b.pth")["optimizerG_state_dict"]
  ours, theirs = (a["param_groups"][0]["params"] for a in (adam, given))
  assert ours == theirs  # else the original could not resume
  assert not adam["state"]


def test_a_group_norm_is_not_taken_for_a_batch_norm():
  model = golden.state_dict("voice2pose_s2g_model")
  assert original.kind(model) == "s2g"
  config = config_lib.default()
  assert original.config_fields(model, config)["generator.norm"] == "bn"
  without = {k: v for k, v in model.items() if "running_" not in k}
  without["clips_code"] = np.zeros((CLIPS, 32), np.float32)
  assert original.kind(without) == "sdt_bp"
  assert original.config_fields(without, config)["generator.norm"] == "gn16"
  config.generator.norm = "gn8"
  assert original.config_fields(without, config)["generator.norm"] == "gn8"


# Speakers of one's own.


def test_statistics_come_from_a_pack_or_a_file(content, tmp_path):
  packs.write_pack(tmp_path / "packs", "train " * CLIPS + "dev")
  config = small_config("sdt_bp")
  config.dataset.data_dir = str(tmp_path / "data")
  options = {"speaker": "zoe", "root": str(tmp_path / "packs"), "config": config}
  importing(content, tmp_path, **options)
  by_pack = runs.load(tmp_path / "run")
  expected = setup.build_data(by_pack.config).statistics
  assert speakers.to_json(by_pack.speaker) == speakers.to_json(expected)
  assert workdir.read_clips(tmp_path / "run")[1] == "zoe/clips/npz/talk-1"
  of_pack = tmp_path / "packs" / "zoe" / "speaker.json"  # as data_prep writes it
  of_pack.write_text(json.dumps(speakers.to_json(by_pack.speaker)))
  for i, file in enumerate([tmp_path / "run" / workdir.SPEAKER, of_pack]):
    importing(content, tmp_path, speaker=str(file), path=tmp_path / f"by_file_{i}")
    by_file = runs.load(tmp_path / f"by_file_{i}")
    assert by_file.speaker.name == by_file.config.dataset.speaker == "zoe"
    assert speakers.to_json(by_file.speaker) == speakers.to_json(by_pack.speaker)


# Using imported runs.


def write_wav(path: pathlib.Path, seconds: int) -> np.ndarray:
  """Writes noise; returns its samples as they are read."""
  sound = (20_000 * packs.sound(0, seconds * 16_000)).astype("<i2")
  with wave.open(str(path), "wb") as f:
    f.setparams((1, 2, 16_000, 0, "NONE", ""))
    f.writeframes(sound.tobytes())
  return sound / np.float32(32768)


def test_demo_renders_an_imported_model(folder, tmp_path):
  model = sdt_jax.load(folder / "sdt_bp")
  sound = tmp_path / "speech.wav"
  heard = write_wav(sound, seconds=3)
  (video,) = demo.render_files(model, [sound], tmp_path / "out", template="3")
  with np.load(tmp_path / "out" / "speech.npz", allow_pickle=False) as arrays:
    poses, code = arrays["poses_pred_batch"], arrays["condition_code"]
  expected = torch_file.read(folder / "sdt_bp.pth")["model_state_dict"]
  np.testing.assert_array_equal(code[0], expected["module.clips_code"][3])
  assert poses.shape == (1, 45, *kp.UPPER_BODY.shape)
  np.testing.assert_allclose(poses[0], model.generate(heard, 16_000, 3), atol=1e-3)
  assert video.stat().st_size


@pytest.mark.slow
def test_the_programs_import_train_on_render_and_export(content, tmp_path):
  batch_size, run = jax.device_count(), str(tmp_path / "run")
  num_clips = 2 * batch_size
  packs.write_pack(tmp_path / "packs", "train " * num_clips + "dev", "oliver")
  rows = np.zeros((num_clips, 6), np.float32)
  content["model_state_dict"]["module.clips_code"] = rows
  content |= {"epoch": 1, "step": 2}
  torch_zip.write(tmp_path / "a.pth", content)
  fields = {
    "dataset.name": "speech2gesture",
    "dataset.speaker": "oliver",
    "dataset.root": tmp_path / "packs",
    "dataset.data_dir": tmp_path / "data",
    "batch_size": batch_size,
    "num_epochs": 2,
    "generator.channels": 16,
    "generator.audio_channels": "(4, 4, 8, 8)",
    "template.size": 6,
    "log.video_every_epochs": 0,
  }
  config = ["--config=configs/sdt_bp.py", *programs.config_flags(fields)]
  flags = [f"--checkpoint={tmp_path / 'a.pth'}", "--speaker=oliver", f"--workdir={run}"]
  imported = programs.run("-m", "sdt_jax.interop.import_torch", *flags, *config)
  assert imported == (
    "sdt_bp, epoch 1, step 2\n"
    "optimizerClipCode: of parameters of other shapes; "
    "Adam starts from scratch for the templates\n"
    f"imported: {run}\n"
  )
  assert workdir.read_clips(tmp_path / "run")[1] == "oliver/clips/npz/talk-1"
  programs.run("train.py", f"--workdir={run}", *config)
  trained = runs.load(run)
  assert (trained.step, trained.epoch) == (4, 2)
  write_wav(tmp_path / "speech.wav", seconds=3)
  flags = [f"--audio={tmp_path / 'speech.wav'}", f"--output_dir={tmp_path / 'out'}"]
  programs.run("demo.py", f"--workdir={run}", "--template=3", *flags)
  assert (tmp_path / "out" / "speech.mp4").stat().st_size
  for program in ("export_torch", "export_stablehlo"):
    output = tmp_path / program
    flags = [f"--workdir={run}", f"--output={output}", "--step=4"]
    programs.run("-m", f"sdt_jax.interop.{program}", *flags)
  assert torch_zip.read(tmp_path / "export_torch")["step"] == 4
  assert (tmp_path / "export_stablehlo").stat().st_size


# What cannot be imported.


def test_an_existing_workdir_is_left_alone_unless_it_is_empty(folder, tmp_path):
  notes = tmp_path / "notes.txt"
  notes.write_text("mine")
  with pytest.raises(UserError, match="is not empty"):
    convert.import_checkpoint(folder / "sdt_bp.pth", "oliver", tmp_path)
  assert list(tmp_path.iterdir()) == [notes]
  notes.unlink()
  convert.import_checkpoint(folder / "sdt_bp.pth", "oliver", tmp_path)
  assert (tmp_path / workdir.CONFIG).is_file()


def test_a_speaker_without_plain_statistics_is_refused_for_plain_poses(
  folder, tmp_path
):
  names = speakers.published_names()
  name = next(name for name in names if not speakers.published(name).global_)
  with pytest.raises(UserError, match="no published statistics of global poses"):
    convert.import_checkpoint(folder / "s2g.pth", name, tmp_path / "run")
  assert not list(tmp_path.iterdir())


def test_sdt_vae_needs_the_file_of_its_pose_vae(folder, tmp_path):
  def importing(kind, vae=None):
    options = {"pose_vae": vae and folder / f"{vae}.pth"}
    convert.import_checkpoint(folder / f"{kind}.pth", "oliver", tmp_path, **options)

  with pytest.raises(UserError, match=r"--pose_vae=FILE\.pth"):
    importing("sdt_vae")
  with pytest.raises(UserError, match="has no templates"):
    importing("sdt_vae", "sdt_bp")
  with pytest.raises(UserError, match="only an SDT-VAE model"):
    importing("sdt_bp", "pose2pose")


_NOT_THE_FILES = {
  **{"experiment": "pose2pose", "generator.channels": 32, "generator.norm": "bn"},
  **{"template.kind": "none", "template.size": 32, "discriminator.weight": 0.1},
}


@pytest.mark.parametrize(("field", "value"), _NOT_THE_FILES.items())
def test_a_config_that_contradicts_the_file_is_refused(content, tmp_path, field, value):
  config = small_config("sdt_bp")
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=f"config.{field} is"):
    importing(content, tmp_path, config=config)
  assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_the_config_supplies_what_the_file_does_not_contain(content, tmp_path):
  config = small_config("sdt_bp")
  config.generator.norm = "in"
  config.num_epochs = 7
  importing(content, tmp_path, config=config)
  ours = workdir.read_config(tmp_path / "run")
  assert (ours.generator.norm, ours.num_epochs) == ("in", 7)
  assert config.dataset.name == ""  # the caller's config is unchanged


def test_data_of_another_number_of_clips_is_refused(content, tmp_path):
  packs.write_pack(tmp_path / "packs", "train dev", "oliver")
  config = small_config("sdt_bp")
  config.dataset.root = str(tmp_path / "packs")
  with pytest.raises(UserError, match="has 1 training clips, the model templates of 5"):
    importing(content, tmp_path, config=config)


def _remove(name):
  return lambda content: content["model_state_dict"].pop(f"module.{name}")


def _set(name, array):
  return lambda content: content["model_state_dict"].update({f"module.{name}": array})


ONE = np.ones(1, np.float32)
WRONG = {
  "the file lacks netG.unet.d3.conv.weight": _remove("netG.unet.d3.conv.weight"),
  "the file lacks netG.decoder.4.bias": _remove("netG.decoder.4.bias"),
  "lacks the kernel netG.unet.e1.conv.weight": _remove("netG.unet.e1.conv.weight"),
  "the model does not, netG.unet.e9.conv.bias": _set("netG.unet.e9.conv.bias", ONE),
  "the file lacks netD_pose.seq.0.norm.bias": _set("netD_pose.seq.0.conv.weight", ONE),
  "has, but the model does not, other.weight": _set("other.weight", ONE),
  "netG.decoder.4.bias: shape": _set("netG.decoder.4.bias", ONE),
  "clips_code: shape": _set("clips_code", np.ones((5, 7), np.float32)),
  "has no 'model_state_dict'": lambda content: content.pop("model_state_dict"),
  "not tensors: module.x": _set("x", "text"),
  "epoch is None": lambda content: content.pop("epoch"),
  "step -1": lambda content: content.update(step=-1),
  "step 4294967296": lambda content: content.update(step=2**32),
  "is not a model of Speech Drives Templates; its names are fc.weight": (
    lambda content: content.update(model_state_dict={"fc.weight": ONE})
  ),
}


@pytest.mark.parametrize("complaint", WRONG)
def test_what_does_not_fit_is_named(content, tmp_path, complaint):
  WRONG[complaint](content)
  with pytest.raises(UserError) as e:
    importing(content, tmp_path)
  assert "\n" not in str(e.value)
  assert str(tmp_path / "a.pth") in str(e.value)
  assert complaint in str(e.value)
  assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_names_without_module_and_an_unknown_optimiser_are_taken(content, tmp_path):
  model = content["model_state_dict"]
  content["model_state_dict"] = {k.removeprefix("module."): model[k] for k in model}
  content["optimizerX_state_dict"] = {"state": {}, "param_groups": []}
  assert "optimizerX: not used" in importing(content, tmp_path)


def test_templates_by_frame_are_turned(tmp_path):
  config = small_config("sdt_bp")
  config.template.frame_wise = True
  content = exported(config)
  assert content["model_state_dict"]["module.clips_code"].shape == (CLIPS, 6, 64)
  importing(content, tmp_path)
  assert_equal_trees(runs.load(tmp_path / "run").state, random_state(config))


def test_a_model_without_templates_is_detected(tmp_path):
  config = small_config("sdt_bp")
  config.template.kind = "none"
  importing(exported(config), tmp_path)
  ours = workdir.read_config(tmp_path / "run")
  assert (ours.template.kind, ours.generator.norm) == ("none", "in_star")


_CODES = "optimizerClipCode_state_dict"


@pytest.mark.parametrize(
  ("damage", "reason"),
  [
    (lambda c: c.pop("optimizerG_state_dict"), "not in the file"),
    (lambda c: c["optimizerG_state_dict"].update(state={}), "not an Adam"),
    (lambda c: c.update(optimizerG_state_dict=c[_CODES]), "not"),
    (lambda c: c.update(optimizerG_state_dict=[1]), "not an Adam"),
    (lambda c: c["optimizerG_state_dict"]["state"][0].update(step=2**40), "of step"),
  ],
)
def test_an_optimiser_that_does_not_match_starts_anew(
  content, tmp_path, damage, reason
):
  damage(content)
  notes = importing(content, tmp_path)
  (note,) = (n for n in notes if n.startswith("optimizerG: "))
  assert reason in note
  state = runs.load(tmp_path / "run").state
  adam, schedule = state.opt_states["generator"]
  assert not np.any(jax.tree.leaves(jax.tree.map(np.any, adam.mu)))
  assert (int(adam.count), int(schedule.count)) == (0, STEP)
  assert int(state.opt_states["templates"][0].count) == STEP


def test_a_file_of_half_precision_is_widened(content, tmp_path):
  model = content["model_state_dict"]
  half = {k: v.astype(np.float16) for k, v in model.items() if v.dtype == np.float32}
  importing(content | {"model_state_dict": model | half}, tmp_path)
  kernel = runs.load(tmp_path / "run").state.params["generator"]["output"]["conv"]
  assert kernel["bias"].dtype == np.float32
  np.testing.assert_array_equal(kernel["bias"], half["module.netG.decoder.4.bias"])


# Against torch itself.


def test_torchs_own_adam_is_taken_over_and_given_back(tmp_path):
  torch = pytest.importorskip("torch")
  content = exported(small_config("sdt_bp"))
  model = {k: torch.tensor(v) for k, v in content["model_state_dict"].items()}
  weights = [
    v.requires_grad_() for k, v in model.items() if k.startswith("module.netG.")
  ]
  adam = torch.optim.Adam(weights, lr=1e-4)
  for _ in range(2):
    adam.zero_grad()
    sum((w**3).sum() for w in weights).backward()
    adam.step()
  content |= {"model_state_dict": model, "optimizerG_state_dict": adam.state_dict()}
  del content[_CODES]  # holds NumPy arrays
  torch.save(content, tmp_path / "a.pth")
  convert.import_checkpoint(tmp_path / "a.pth", "oliver", tmp_path / "run")

  (ours, _) = runs.load(tmp_path / "run").state.opt_states["generator"]
  assert int(ours.count) == 2
  moments = names.from_flax({"params": ours.mu}, names.GENERATOR)
  for array, weight in zip(moments.values(), weights, strict=True):
    np.testing.assert_array_equal(array, adam.state[weight]["exp_avg"].numpy())

  convert.export_checkpoint(tmp_path / "run", tmp_path / "b.pth")
  back = torch.load(tmp_path / "b.pth", weights_only=True)["optimizerG_state_dict"]
  again = torch.optim.Adam([w.detach().clone().requires_grad_() for w in weights])
  again.load_state_dict(back)
  for old, new in zip(weights, again.param_groups[0]["params"], strict=True):
    for key, value in adam.state[old].items():
      assert torch.equal(value, again.state[new][key]), key
  sum((w**3).sum() for w in again.param_groups[0]["params"]).backward()
  again.step()
