"""The files of a run's folder.

config.json     every field of the config
speaker.json    the pose statistics that the run normalises with
clips.txt       the training clips; line i names the clip of template i
metrics.jsonl   one JSON object for each logged step
train.log       messages, versions, devices, and a line for each epoch
pose_vae/       SDT-VAE: the run of the pose VAE that was trained first
template_sequence/  the run that models the sequence of the templates, if trained
checkpoints/    Orbax
videos/         sample videos
events.*        TensorBoard
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import ml_collections

from sdt_jax import files, speakers
from sdt_jax.config import Config, differences, with_absent_fields
from sdt_jax.errors import UserError

CONFIG, SPEAKER = "config.json", "speaker.json"
CLIPS, METRICS, LOG = "clips.txt", "metrics.jsonl", "train.log"
CHECKPOINTS, VIDEOS, LOCK = "checkpoints", "videos", ".lock"
POSE_VAE, TEMPLATE_SEQUENCE = "pose_vae", "template_sequence"

_log = logging.getLogger(__name__)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file as a whole; see `files.replacing`."""
  with files.replacing(path) as temporary:
    temporary.write_text(text)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Keeps a second training run out of a workdir.

  The lock belongs to the open file, so it is released however the process ends. On a
  file system without locks, only a warning is logged.

  Raises:
    UserError: another process trains there, or the folder cannot be written.
  """
  files.check_writable(path, "--workdir")
  with (path / LOCK).open("a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN, EACCES: locked by another
      file.seek(0)
      owner = file.read().strip() or "another process"
      raise UserError(
        f"{path}: {owner} is training there; wait for it or give another --workdir"
      ) from None
    except OSError as e:
      _log.warning(
        "%s: cannot lock this folder (%s); do not start a second training run there",
        *(path, e.strerror or e),
      )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    yield


def create(
  path: pathlib.Path, config: Config, speaker: speakers.Speaker, clip_ids: list[str]
) -> None:
  """Writes the files that describe a run."""
  write_text(path / CLIPS, "".join(f"{clip}\n" for clip in clip_ids))
  tables = {"name": speaker.name, "tables": speakers.to_json(speaker)}
  write_text(path / SPEAKER, json.dumps(tables))
  write_config(path, config)


def write_config(path: pathlib.Path, config: Config) -> None:
  """Writes config.json."""
  write_text(path / CONFIG, config.to_json_best_effort(indent=2) + "\n")


def pose_vae_of_templates(path: pathlib.Path, config: Config) -> pathlib.Path | None:
  """Workdir of the pose VAE that the templates of the run in `path` come from."""
  if config.template.kind != "vae":
    return None
  return pathlib.Path(config.template.pose_vae or path / POSE_VAE)


def pose_vae_for_ftd(path: pathlib.Path, config: Config) -> pathlib.Path | None:
  """Workdir of the pose VAE for the FTD of the run in `path`; None if it has none."""
  if config.evaluation.pose_vae:
    return pathlib.Path(config.evaluation.pose_vae)
  return pose_vae_of_templates(path, config)


def read_clips(path: pathlib.Path) -> list[str]:
  """The training clips of a run; row i of its template bank belongs to clip i.

  Raises:
    UserError: the file is missing or is not text.
  """
  return _read_text(path / CLIPS).splitlines()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl; a line that was truncated by a crash is skipped.

  Raises:
    UserError: the file is missing or is not text.
  """
  entries = []
  for line in _read_text(path / METRICS).splitlines():
    with contextlib.suppress(ValueError, RecursionError):
      entries.append(json.loads(line))
  return [entry for entry in entries if isinstance(entry, dict)]


def unnamed_clips(speaker: str, count: int) -> list[str]:
  """Placeholders for clip names, which checkpoints of the original do not contain."""
  return [f"{speaker}: training clip {i}" for i in range(count)]


def check_clips(path: pathlib.Path, clip_ids: list[str]) -> None:
  """Checks that a run was trained on these clips, in this order.

  Raises:
    UserError: it was not.
  """
  known = read_clips(path)
  if not known:  # an imported run without templates
    return
  if len(known) != len(clip_ids):
    raise UserError(
      f"the train split has {len(clip_ids)} clips, that of the run in {path} had "
      f"{len(known)}; restore the data or give another folder"
    )
  if known in (clip_ids, unnamed_clips(read_speaker(path).name, len(known))):
    return
  row = next(i for i, clip in enumerate(clip_ids) if clip != known[i])
  raise UserError(
    f"training clip {row} is {clip_ids[row]}, that of the run in {path} was "
    f"{known[row]}; restore the data or give another folder"
  )


def read_config(path: pathlib.Path) -> Config:
  """The config of a run, complete even if an older version wrote it.

  Raises:
    UserError: the folder or the file is missing, or it is not a config.
  """
  if not path.is_dir():
    raise UserError(f"{path}: no such folder; give the workdir of a training run")
  fields = _read_json(path / CONFIG)
  try:
    if not isinstance(fields, dict):
      raise TypeError("expected an object")
    return ml_collections.ConfigDict(with_absent_fields(fields))
  except (
    *(LookupError, ValueError, TypeError, AttributeError, RecursionError),
    ArithmeticError,
  ) as e:
    raise UserError(
      f"{path / CONFIG}: not the config of a training run ({e}); restore it, or train "
      "again"
    ) from e


def read_speaker(path: pathlib.Path) -> speakers.Speaker:
  """The pose statistics that a run normalises with.

  Raises:
    UserError: the file is missing or broken.
  """
  content = _read_json(path / SPEAKER)
  if not isinstance(content, dict) or not isinstance(content.get("name"), str):
    raise UserError(
      f"{path / SPEAKER}: not the statistics of a speaker; restore it, or train again"
    )
  return speakers.from_json(content["name"], content.get("tables"), str(path / SPEAKER))


def _read_json(path: pathlib.Path) -> Any:
  text = _read_text(path)
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:
    raise UserError(f"{path}: not JSON ({e}); restore it, or train again") from e


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except FileNotFoundError:
    raise UserError(
      f"{path}: missing; is {path.parent} the workdir of a training run?"
    ) from None
  except (OSError, ValueError) as e:
    raise UserError(f"{path}: cannot be read ({e}); restore it, or train again") from e


def check_same(path: pathlib.Path, config: Config) -> None:
  """Raises a UserError that lists the fields in which the run in `path` differs."""
  changed = differences(read_config(path), config)
  if changed:
    raise UserError(
      f"{path} contains a run with another config: {', '.join(changed)}; "
      "give the same fields to resume it, or another --workdir"
    )
