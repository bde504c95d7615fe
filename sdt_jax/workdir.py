"""What a run leaves in its folder, and how it is read back.

config.json     every field of the config
speaker.json    the speaker's pose statistics that the run normalises with
clips.txt       the training clips; line i names the clip of template i
metrics.jsonl   one JSON object for each logged step
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
from sdt_jax.config import Config
from sdt_jax.errors import UserError

CONFIG, SPEAKER, CLIPS, METRICS = (
  "config.json",
  "speaker.json",
  "clips.txt",
  "metrics.jsonl",
)
CHECKPOINTS, VIDEOS, LOCK = "checkpoints", "videos", ".lock"

_log = logging.getLogger(__name__)

# Fields that say how long or with what a run goes on, not what it is.
_MAY_CHANGE = (
  "num_epochs",
  "parallel",
  "steps_at_once",
  "dataset.root",
  "dataset.data_dir",
  "dataset.cache_gb",
  "dataset.num_threads",
  "log",
  "checkpoint",
  "debug",
)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file as a whole; see `files.replacing`."""
  with files.replacing(path) as temporary:
    temporary.write_text(text)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Keeps a second training run out of a workdir.

  The lock belongs to the open file, so it ends with the process in any case. On a file
  system without locks it only logs a warning.

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
  path: pathlib.Path,
  config: Config,
  speaker: speakers.Speaker,
  clip_ids: list[str],
) -> None:
  """Writes what describes a run. A run that is resumed keeps its own speaker."""
  write_text(path / CLIPS, "".join(f"{clip}\n" for clip in clip_ids))
  tables = {"name": speaker.name, "tables": speakers.to_json(speaker)}
  write_text(path / SPEAKER, json.dumps(tables))
  write_text(path / CONFIG, config.to_json_best_effort(indent=2) + "\n")


def read_clips(path: pathlib.Path) -> list[str]:
  """The training clips of a run; row i of its template bank belongs to clip i.

  Raises:
    UserError: the file is missing or no text.
  """
  return _read_text(path / CLIPS).splitlines()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The logged steps of a run; a line that was cut off by a crash is left out.

  Raises:
    UserError: the file is missing or no text.
  """
  entries = []
  for line in _read_text(path / METRICS).splitlines():
    with contextlib.suppress(ValueError, RecursionError):
      entries.append(json.loads(line))
  return [entry for entry in entries if isinstance(entry, dict)]


def unnamed_clips(speaker: str, count: int) -> list[str]:
  """Stands in for the names that a checkpoint of the original does not tell."""
  return [f"{speaker}: training clip {i}" for i in range(count)]


def check_clips(path: pathlib.Path, clip_ids: list[str]) -> None:
  """Checks that a run was trained on these clips, as far as it knows their names.

  Raises:
    UserError: it was trained on others, or on the same in another order.
  """
  known = read_clips(path)
  if not known:  # imported, and without templates
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
  """The config of a run.

  Raises:
    UserError: the folder or the file is missing, or it is not a config.
  """
  if not path.is_dir():
    raise UserError(f"{path}: no such folder; give the workdir of a training run")
  fields = _read_json(path / CONFIG)
  if not isinstance(fields, dict):
    raise UserError(
      f"{path / CONFIG}: not the config of a training run; restore it, or train again"
    )
  try:
    return ml_collections.ConfigDict(fields)
  except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as e:
    raise UserError(
      f"{path / CONFIG}: not the config of a training run ({e}); restore it"
    ) from e


def read_speaker(path: pathlib.Path) -> speakers.Speaker:
  """The statistics that a run normalises with.

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
    raise UserError(f"{path}: is no JSON ({e}); restore it, or train again") from e


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
  """Raises a UserError that lists what differs from the config of the run in `path`."""
  old, new = flatten(read_config(path)), flatten(json.loads(config.to_json()))
  changed = [
    f"{name} ({old.get(name)!r} -> {new.get(name)!r})"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not _may_change(name)
  ]
  if changed:
    raise UserError(
      f"{path} holds a run with another config: {', '.join(changed)}; "
      "give the same fields to resume it, or another --workdir"
    )


def _may_change(name: str) -> bool:
  return any(name == field or name.startswith(field + ".") for field in _MAY_CHANGE)


def flatten(fields: Any, prefix: str = "") -> dict[str, Any]:
  """Fields of a config, or of its JSON, by dotted name; tuples become lists."""
  flat = {}
  for name, value in fields.items():
    if isinstance(value, dict | ml_collections.ConfigDict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat
