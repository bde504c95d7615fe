"""Whole runs: a checkpoint file of the original -> a workdir, and back."""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from sdt_jax import config as config_lib
from sdt_jax import methods, speakers, workdir
from sdt_jax.config import Config
from sdt_jax.data import pack, pipeline
from sdt_jax.errors import UserError
from sdt_jax.interop import kept, original, torch_file, torch_zip
from sdt_jax.interop.original import Original
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import parallel, runs, setup
from sdt_jax.training.checkpoints import Checkpoints


def import_checkpoint(
  checkpoint: pathlib.Path,
  speaker: str,
  path: pathlib.Path,
  config: Config = None,
  pose_vae: pathlib.Path | None = None,
  root: str = "",
) -> list[str]:
  """Writes the workdir that a training run would have left.

  Args:
    checkpoint: a .pth file of the original.
    speaker: who the model was trained on: a published speaker, a speaker with a pack in
      `root`, or a speaker.json file with the statistics.
    path: the workdir to make.
    config: of the run; None takes the experiment file that matches the checkpoint. The
      architecture must be that of the checkpoint. With `dataset.root` set, the training
      clips get their names from the pack there.
    pose_vae: .pth file of the pose VAE whose templates an SDT-VAE model was trained
      with; only for such a model. It becomes the run `pose_vae` in the workdir.
    root: folder of data packs. The statistics are those that training on the pack of
      the speaker would use, and `dataset.root` of the run becomes this folder.

  Returns:
    Messages for the user, one line each.

  Raises:
    UserError: a file, the speaker, the config or the folder cannot be used.
  """
  _check_empty(path)
  known = None if root else _statistics(speaker)
  content = _read(checkpoint)
  with _prefix_errors(checkpoint):
    kind = original.kind(content.model)
    config = _config(content, kind, config)
  config.dataset.name = "speech2gesture"
  config.dataset.root = root or config.dataset.root
  config.dataset.speaker = known.name if known else speaker
  method = methods.build(config, steps_per_epoch=1)
  bank = _external_bank(method, checkpoint, pose_vae)
  with _prefix_errors(checkpoint):
    state, notes = original.to_state(content, method, bank)
  clips = _clip_ids(config.dataset, state)
  known = known or _statistics_of_pack(config)
  known.table(config.pose.hierarchical)  # raises if there is none of this form
  _write(path, config, known, state, content, clips, pose_vae)
  if kept.part(content.kept, kept.MAPPER):
    notes.append(
      f"sequence model: kept in {kept.FILE_NAME} and not used; export_torch writes it "
      "unchanged"
    )
  return [f"{kind}, epoch {content.epoch}, step {content.step}", *notes]


def _statistics(speaker: str) -> speakers.Speaker:
  """The statistics of a published speaker, or in a speaker.json.

  A run's file contains a name and tables. That of a data pack contains only the tables;
  its folder has the name of the speaker.
  """
  if not speaker.endswith(".json"):
    try:
      return speakers.published(speaker)
    except UserError as e:
      raise UserError(
        f"--speaker: {e}; for another speaker, add --root=DATA, the folder of its "
        "pack, or give a speaker.json"
      ) from e
  path = pathlib.Path(speaker)
  try:
    content = json.loads(path.read_text())
    name, tables = content.get("name", path.absolute().parent.name), content
    if "tables" in content:
      tables = content["tables"]
  except (OSError, ValueError, AttributeError, RecursionError) as e:
    raise UserError(
      f"--speaker={speaker}: not the statistics of a speaker ({e}); give the "
      "speaker.json of a run or of a data pack"
    ) from e
  return speakers.from_json(str(name), tables, f"--speaker={speaker}")


def _statistics_of_pack(config: Config) -> speakers.Speaker:
  """The statistics that training on the pack would use; builds the data set."""
  built = setup.build_data(config)
  return pipeline.speaker_statistics(built, config.dataset.statistics)


def _check_empty(path: pathlib.Path) -> None:
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise UserError(f"--workdir={path}: exists and is not empty; choose another folder")


def _read(file: pathlib.Path) -> Original:
  content = torch_file.read(file)
  with _prefix_errors(file):
    return original.parse(content)


@contextlib.contextmanager
def _prefix_errors(file: pathlib.Path) -> Iterator[None]:
  """Prefixes errors with the name of the file."""
  try:
    yield
  except UserError as e:
    raise UserError(f"{file}: {e}") from e


def _config(content: Original, kind: str, given: Config) -> Config:
  """The given config, which must match the file, or the one derived from the file."""
  if given is None:
    config = config_lib.experiment(kind)
  else:
    config = given.copy_and_resolve_references()
  methods.check(config)
  fields = original.config_fields(content.model, config)
  different = [
    f"config.{name} is {present!r}, in the file {value!r}"
    for name, value in fields.items()
    if (present := config_lib.get(config, name)) != value
  ]
  if given is not None and different:
    raise UserError(
      f"not the checkpoint of this config: {'; '.join(different)}; give another "
      f"--config, or none (the file holds {kind})"
    )
  config.update_from_flattened_dict(fields)
  return config


def _external_bank(
  method: Method, checkpoint: pathlib.Path, pose_vae: pathlib.Path | None
):
  """Templates (N, D) that are stored in the checkpoint of a pose VAE; else None."""
  needed = method.needs_bank
  if not needed and pose_vae is None:
    return None
  if pose_vae is None:
    raise UserError(
      f"{checkpoint}: contains an SDT-VAE model, whose templates are in the checkpoint "
      "of its pose VAE; give that as --pose_vae=FILE.pth"
    )
  if not needed:
    raise UserError(
      f"--pose_vae={pose_vae}: only an SDT-VAE model takes its templates from a pose "
      f"VAE, but {checkpoint} is not one; leave it out"
    )
  bank = _read(pose_vae).model.get("clip_code_mu")
  if bank is None:
    raise UserError(f"--pose_vae={pose_vae}: has no templates (clip_code_mu)")
  return bank


def _clip_ids(dataset: Config, state: TrainState) -> list[str]:
  """Names of the training clips; placeholders without a data pack."""
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
  content: Original,
  clip_ids: list[str],
  pose_vae: pathlib.Path | None,
) -> None:
  """Writes the workdir under a temporary name, then renames it."""
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
    kept.write(unfinished, content.kept)
    meta = {"epoch": content.epoch, "num_clips": len(clip_ids)}
    saved.save(parallel.replicate(state), meta, {})
    saved.close()
    if pose_vae:
      statistics = str(unfinished / workdir.SPEAKER)
      import_checkpoint(pose_vae, statistics, unfinished / workdir.POSE_VAE)
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
  """Writes a checkpoint of a run in the format of the original.

  Args:
    path: workdir of the run.
    output: the .pth file.
    step: "latest", "best" or the number of a step.
    pose_vae: workdir of a pose2pose run, whose encoder is included in the checkpoint
      of a gesture model; see `original.from_state`.

  Returns:
    Messages for the user, one line each.

  Raises:
    UserError: a workdir or the checkpoint is unusable, or the file cannot be written.
  """
  run = runs.load(path, step)
  if run.method.models_templates:
    raise UserError(
      f"{path}: is a {run.method.title}, which the original does not have; give the "
      "workdir of a gesture model or a pose VAE"
    )
  if run.method.look_ahead is not None:
    raise UserError(
      f"{path}: is a causal model, which the original does not have; "
      "sdt_jax.interop.export_stablehlo writes one file for other JAX programs"
    )
  has_encoder = "pose_encoder" in run.state.params
  if has_encoder and pose_vae:
    raise UserError(
      f"--pose_vae={pose_vae}: {path} contains the pose encoder it was trained with; "
      "leave it out"
    )
  vae = runs.load_encoder(pose_vae, "--pose_vae") if pose_vae else None
  content = original.from_state(
    run.state, run.config, run.epoch, vae.state if vae else None, kept.read(path)
  )
  torch_zip.write(output, content)
  notes = [f"epoch {run.epoch}, step {run.step}"]
  if run.method.has_encoder:
    return notes
  if vae is None and not has_encoder:
    notes.append("pose_encoder: untrained; give --pose_vae to compute FTD")
  if "mean" in run.state.bank:
    notes.append("templates: the original reads them from the pose VAE's checkpoint")
  return notes
