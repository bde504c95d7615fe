"""Whole runs: a checkpoint file of the original -> a workdir, and back."""

import contextlib
import importlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax

from sdt_jax import speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pack
from sdt_jax.errors import UserError
from sdt_jax.interop import original, torch_file, torch_zip
from sdt_jax.interop.original import Original
from sdt_jax.training import experiments, runs
from sdt_jax.training.checkpoints import Checkpoints
from sdt_jax.training.pose2pose import Pose2Pose
from sdt_jax.training.train_state import TrainState


def import_checkpoint(
  checkpoint: pathlib.Path,
  speaker_name: str,
  path: pathlib.Path,
  config: Config = None,
  pose_vae: pathlib.Path | None = None,
) -> list[str]:
  """Writes a workdir as a training run would have left it.

  Args:
    checkpoint: a .pth file of the original.
    speaker_name: whose published statistics the model was trained with.
    path: the workdir to make.
    config: that of the run; if None, the config whose experiment the file holds.
      Its architecture must be that of the file. With `dataset.root` set, the training
      clips get the names that they have in the pack there.
    pose_vae: .pth file of the pose VAE whose templates an SDT-VAE model was trained
      with; only for such a model.

  Returns:
    What there is to say to the user, a line each.

  Raises:
    UserError: a file, the speaker, the config or the folder cannot be used.
  """
  _check_empty(path)
  speaker = speakers.published(speaker_name)
  content = _read(checkpoint)
  with _about(checkpoint):
    kind = original.kind(content.model)
    config = _config(content, kind, config)
  config.dataset.name, config.dataset.speaker = "speech2gesture", speaker_name
  speaker.table(config.pose.hierarchical)  # some have none of the plain form
  bank = _external_bank(config, checkpoint, pose_vae)
  experiment = experiments.build(config, steps_per_epoch=1)
  with _about(checkpoint):
    state, notes = original.to_state(content, experiment, bank)
  clips = _clip_ids(config.dataset, state)
  _write(path, config, speaker, state, content.epoch, clips)
  return [f"{kind}, epoch {content.epoch}, step {content.step}", *notes]


def _check_empty(path: pathlib.Path) -> None:
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise UserError(f"--workdir={path}: exists and is not empty; choose another folder")


def _read(file: pathlib.Path) -> Original:
  content = torch_file.read(file)
  with _about(file):
    return original.parse(content)


@contextlib.contextmanager
def _about(file: pathlib.Path) -> Iterator[None]:
  """Puts the name of the file before what is said about its content."""
  try:
    yield
  except UserError as e:
    raise UserError(f"{file}: {e}") from e


def _config(content: Original, kind: str, given: Config) -> Config:
  """The given config if it is that of the file, or the file's own."""
  if given is None:
    config = importlib.import_module(f"configs.{kind}").get_config()
  else:
    config = given.copy_and_resolve_references()
  experiments.check(config)
  fields = original.config_fields(content.model, config)
  different = [
    f"config.{name} is {experiments.field(config, name)!r}, in the file {value!r}"
    for name, value in fields.items()
    if experiments.field(config, name) != value
  ]
  if given is not None and different:
    raise UserError(
      f"not the checkpoint of this config: {'; '.join(different)}; give another "
      f"--config, or none (the file holds {kind})"
    )
  config.update_from_flattened_dict(fields)
  return config


def _external_bank(config, checkpoint: pathlib.Path, pose_vae: pathlib.Path | None):
  """(N, D) the templates of an SDT-VAE model, which are in another file; else None."""
  is_sdt_vae = config.experiment == "voice2pose" and config.template.kind == "vae"
  if is_sdt_vae and pose_vae is None:
    raise UserError(
      f"{checkpoint}: holds an SDT-VAE model, whose templates are in the checkpoint of "
      "its pose VAE; give that as --pose_vae=FILE.pth"
    )
  if pose_vae is None:
    return None
  if not is_sdt_vae:
    raise UserError(
      f"--pose_vae={pose_vae}: only an SDT-VAE model takes its templates from a pose "
      f"VAE, and {checkpoint} is none; leave it out"
    )
  bank = _read(pose_vae).model.get("clip_code_mu")
  if bank is None:
    raise UserError(f"--pose_vae={pose_vae}: has no templates (clip_code_mu)")
  return bank


def _clip_ids(dataset: Config, state: TrainState) -> list[str]:
  """Names of the training clips, as far as they are known."""
  templates = state.templates()
  if not dataset.root:
    count = 0 if templates is None else len(templates)
    return workdir.unnamed_clips(dataset.speaker, count)
  rows = pack.read_index(dataset.root, dataset.speaker).rows["train"]
  if templates is not None and len(rows) != len(templates):
    raise UserError(
      f"config.dataset.root={dataset.root}: has {len(rows)} training clips, the model "
      f"templates of {len(templates)}; give the data it was trained on, or none"
    )
  return [row.clip_id for row in rows]


def _write(
  path: pathlib.Path,
  config: Config,
  speaker: speakers.Speaker,
  state: TrainState,
  epoch: int,
  clip_ids: list[str],
) -> None:
  """Writes the workdir beside its place, then renames it."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=".import-", dir=path.parent))
  except OSError as e:
    raise UserError(
      f"--workdir={path}: cannot be made ({e.strerror or e}); choose another"
    ) from e
  try:
    workdir.create(unfinished, config, speaker, clip_ids)
    saved = Checkpoints(unfinished / workdir.CHECKPOINTS, config.checkpoint.best_metric)
    meta = {"epoch": epoch, "num_clips": len(clip_ids)}
    saved.save(jax.device_put(state), meta, {})
    saved.close()
    unfinished.chmod(0o755)  # mkdtemp makes it private
    unfinished.replace(path)
  except OSError as e:
    raise UserError(f"--workdir={path}: cannot be written ({e.strerror or e})") from e
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def export_checkpoint(
  path: pathlib.Path,
  output: pathlib.Path,
  step: str = "latest",
  pose_vae: pathlib.Path | None = None,
) -> list[str]:
  """Writes a checkpoint of a run as the original would have saved it.

  Args:
    path: workdir of the run.
    output: the .pth file.
    step: "latest", "best" or the number of a step.
    pose_vae: workdir of a pose2pose run, whose encoder a gesture model's checkpoint
      carries along; see `original.from_state`.

  Returns:
    What there is to say to the user, a line each.

  Raises:
    UserError: a workdir or the checkpoint cannot be used, or the file not be written.
  """
  run = runs.load(path, step)
  vae = runs.load(pose_vae) if pose_vae else None
  if vae and not isinstance(vae.experiment, Pose2Pose):
    raise UserError(f"--pose_vae={pose_vae}: holds no pose VAE; give a pose2pose run")
  content = original.from_state(
    run.state, run.config, run.epoch, vae.state if vae else None
  )
  torch_zip.write(output, content)
  notes = [f"epoch {run.epoch}, step {run.step}"]
  if isinstance(run.experiment, Pose2Pose):
    return notes
  if vae is None:
    notes.append("pose_encoder: untrained weights; give --pose_vae for FTD's")
  if "mean" in run.state.bank:
    notes.append("templates: the original reads them from the pose VAE's checkpoint")
  return notes
