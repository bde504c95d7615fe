"""Data sets that are defined outside of this package; see docs/own_data_set.md.

`config.dataset.name` names one as "my_module:MyBuilder", a subclass of
`builder.ClipBuilder` in a module of the current folder or of the Python path.
"""

import contextlib
import dataclasses
import importlib
import inspect
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from sdt_jax.data import builder
from sdt_jax.errors import UserError

FIELDS = ("root", "speaker", "data_dir", "skip_bad_clips")
"""The arguments of `CustomDataSet.prepare`."""


@dataclasses.dataclass(frozen=True)
class CustomDataSet:
  """Adapts a builder class to the interface of the modules in `sdt_jax.data`."""

  builder_class: type[builder.ClipBuilder]

  def choose_speaker(self, root: str, speaker: str) -> str:
    """`speaker`, or if empty the name of the builder.

    Raises:
      UserError: the root is not a folder.
    """
    if root and not os.path.isdir(root):
      raise UserError(f"dataset.root={root!r} is not a folder; give that of the data")
    return speaker or self.builder_class.name

  def prepare(
    self, root: str, speaker: str, data_dir: str, skip_bad_clips: bool = False
  ) -> builder.Built:
    """Builds the data set in `data_dir` if it does not exist, and opens it.

    Raises:
      UserError: the root is not a folder or contains `data_dir`, or the builder raises
        a UserError.
    """
    self.choose_speaker(root, speaker)
    inside = (
      pathlib.Path(data_dir).resolve().is_relative_to(pathlib.Path(root).resolve())
    )
    if root and inside:
      raise UserError(
        f"dataset.data_dir={data_dir!r} is in dataset.root={root!r}, where every file "
        "counts as data; give another folder"
      )
    source = builder.Source(
      name="unnamed", root=root, speaker=speaker, skip_bad_clips=skip_bad_clips
    )
    bad_clips = "skip_bad" if skip_bad_clips else "stop"
    content = self.builder_class.fingerprint(source)
    named = builder.folder_name(speaker, content, bad_clips)
    source = dataclasses.replace(source, name=named)
    return builder.prepare(self.builder_class, source, data_dir)


def load(name: str) -> CustomDataSet:
  """Imports the data set "my_module:MyBuilder".

  Raises:
    UserError: the module cannot be imported, or has no such builder.
  """
  module_name, _, class_name = name.partition(":")
  where = f"config.dataset.name is {name!r}"
  try:
    with _current_folder_in_path():
      module = importlib.import_module(module_name)
  except Exception as e:  # the code of the module may raise anything
    reason = f"{type(e).__name__}: {e}".partition("\n")[0]
    raise UserError(
      f"{where}: cannot import {module_name!r} ({reason}); run from its folder, or add "
      "that to PYTHONPATH"
    ) from e
  found: Any = getattr(module, class_name, None)
  if not isinstance(found, type):
    raise UserError(
      f"{where}: the module has no class {class_name!r}; correct the name"
    )
  if not issubclass(found, builder.ClipBuilder) or inspect.isabstract(found):
    raise UserError(
      f"{where}: derive {class_name} from sdt_jax.data.builder.ClipBuilder, and define "
      "`shards`"
    )
  return CustomDataSet(found)


@contextlib.contextmanager
def _current_folder_in_path() -> Iterator[None]:
  """Python adds the folder of the program to the path instead."""
  folder = os.getcwd()
  sys.path.insert(0, folder)
  try:
    yield
  finally:
    sys.path.remove(folder)
