"""Flags and config keys of the authors' code, and what they are called here.

`python -m sdt_jax.original_names` prints them as tables, which are part of
docs/coming_from_the_original.md. `cli` answers a command of the authors' code with the
same command of this package.
"""

import functools
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

DOCUMENT = "docs/coming_from_the_original.md"

_TABLE = pathlib.Path(__file__).parent / "assets" / "original_names.json"
_BOOLEAN = ("--test_only", "--test-only")
_PROGRAMS = {
  "train": "train.py",
  "eval": "eval.py",
  "evaluate": "eval.py",
  "demo": "demo.py",
}
_IMPORTED = "output/imported"  # folder for checkpoints that the command converts
_ROOT = "datasets/speakers"  # the original's default
_VAE = "VOICE2POSE.POSE_ENCODER.AE_CHECKPOINT"


@functools.cache
def table() -> dict[str, Any]:
  """`configs`, `flags` and `keys` of the original -> what corresponds to them.

  `ours` lists config fields and flags ("eval.py --num_samples"); it is missing where
  nothing corresponds, and `note` says why. `values` maps values, null to no flag;
  `translate` is false where a value cannot be converted.
  """
  return json.loads(_TABLE.read_text(encoding="utf-8"))


def answer(argv: Sequence[str]) -> str | None:
  """What to tell a user who gave flags or keys of the original; else None.

  Args:
    argv: the command line, with the program first. Only those of train.py, eval.py and
      demo.py are answered.
  """
  program = pathlib.PurePath(argv[0]).stem.removeprefix("sdt-")
  if program not in _PROGRAMS:
    return None
  given, keys, others = _parse(argv[1:])
  has_old_config = any("config_file" in a or "config-file" in a for a in argv[1:])
  has_old_config |= given.get("--config", "").endswith(".yaml")
  has_old_flags = bool(given.keys() - {"--config", "--tag"})
  if any(argument.startswith("--workdir") for argument in others):
    has_old_flags = False  # --checkpoint may be a slip
  if not (keys or has_old_config or has_old_flags):
    return None
  called = _PROGRAMS[program]
  command, missing = _Translation(called, given, keys, others).command()
  names = f"; not translated: {', '.join(missing)}" if missing else ""
  return f"this is a command of the original code; here: {command} ({DOCUMENT}{names})"


def _parse(
  arguments: Sequence[str],
) -> tuple[dict[str, str], dict[str, str], list[str]]:
  """Splits arguments into flags of the original, its keys, and all others."""
  given, keys, others = {}, {}, []
  rest = list(arguments)
  while rest:
    name, has_value, value = rest.pop(0).partition("=")
    flag = "--" + name.lstrip("-")
    if name.startswith("-") and (flag in table()["flags"] or flag == "--config"):
      if not has_value and flag not in _BOOLEAN and rest:
        value = rest.pop(0)
      given["--config" if "config" in flag else flag.replace("-only", "_only")] = value
    elif name in table()["keys"] and not has_value:
      keys[name] = rest.pop(0) if rest else ""
    else:
      others.append(name + has_value + value)
  return given, keys, others


class _Translation:
  """Converts a command; the arguments are those that `_parse` returns."""

  def __init__(
    self, program: str, given: dict[str, str], keys: dict[str, str], others: list[str]
  ):
    self._given, self._keys, self._others = given, keys, others
    stem = pathlib.PurePath(given.get("--config", "")).stem
    self._experiment = table()["configs"].get(stem.removesuffix("_speech2gesture"))
    self._program = program
    if "--demo_input" in given:
      self._program = "demo.py"
    elif "--test_only" in given:
      self._program = "eval.py"
    self._root = keys.get("DATASET.ROOT_DIR", _ROOT)
    self._imports: list[list[str]] = []

  def command(self) -> tuple[str, list[str]]:
    """The command, and keys that it does not contain."""
    flags = self._run_flags()
    missing = []
    for key, value in self._keys.items():
      translated = self._flag(key, value)
      if translated is None:
        missing.append(key)
      else:
        flags += translated
    command = ["python", self._program, *dict.fromkeys(flags), *self._others]
    return " && ".join(map(shlex.join, [*self._imports, command])), missing

  def _run_flags(self) -> list[str]:
    """What the program reads and writes."""
    given = self._given
    if self._program != "train.py":
      run = given.get("--checkpoint") or given.get("--resume_from")
      flags = [f"--workdir={self._run(run) if run else 'DIR'}"]
      if self._program == "demo.py":
        sound = given.get("--demo_input", "SOUND.wav")
        flags += [f"--audio={sound}", "--output_dir=output/demo"]
      return flags
    if run := given.get("--resume_from") or given.get("--checkpoint"):
      return [f"--resume={self._run(run)}"]
    name = self._experiment
    config = f"configs/{name}.py" if name else given.get("--config", "configs/NAME.py")
    flags = [f"--config={config}"]
    if start := given.get("--pretrain_from"):
      flags.append(f"--pretrained={self._run(start)}")
    if tag := given.get("--tag"):
      flags.append(f"--tag={tag}")
    has_root = any(other.startswith("--config.dataset.root") for other in self._others)
    if name and not has_root:
      flags.append(f"--config.dataset.root={self._root}")
    return flags

  def _flag(self, key: str, value: str) -> list[str] | None:
    """The flags of a key, [] if it needs none; None if there is no counterpart."""
    entry = table()["keys"][key]
    names = entry.get("ours", [])
    fields = [name for name in names if " " not in name]
    flags = [name.split()[1] for name in names if name.startswith(self._program)]
    if not flags and self._program == "train.py":
      flags = [f"--config.{name}" for name in fields[:1]]
    if not flags:
      return [] if fields and self._program != "train.py" else None
    if not entry.get("translate", True):
      return None
    value = entry.get("values", {}).get(value, value)
    if value is None:
      return []
    if key == "DEMO.CODE_INDEX" and "DEMO.CODE_INDEX_B" in self._keys:
      return []
    if key == "DEMO.CODE_INDEX_B":
      value = f"{self._keys.get('DEMO.CODE_INDEX', '0')}:{value}"
    if key == _VAE and self._experiment == "sdt_vae" and self._program == "train.py":
      flags = ["--config.template.pose_vae"]
    if value.endswith(".pth"):
      value = self._run(value, is_vae=key == _VAE)
    return [f"{flags[0]}={value}"]

  def _run(self, path: str, is_vae: bool = False) -> str:
    """The workdir of a checkpoint, which a command before this one imports."""
    if not path.endswith(".pth"):
      return path
    folder = f"{_IMPORTED}/{pathlib.PurePath(path).stem}"
    speaker = self._keys.get("DATASET.SPEAKER", "SPEAKER")
    flags = [f"--checkpoint={path}", f"--speaker={speaker}", f"--workdir={folder}"]
    if self._program != "demo.py":
      flags.append(f"--root={self._root}")
    if self._experiment == "sdt_vae" and not is_vae:
      flags.append(f"--pose_vae={self._keys.get(_VAE, 'VAE.pth')}")
    command = ["python", "-m", "sdt_jax.interop.import_torch", *flags]
    if command not in self._imports:
      self._imports.append(command)
    return folder


def tables() -> str:
  """The flags and the keys as Markdown tables."""
  lines = []
  for title, part in (("flag", "flags"), ("key", "keys")):
    lines += [f"| {title} of the original | here | notes |", "|---|---|---|"]
    for name, entry in table()[part].items():
      ours = ", ".join(f"`{text}`" for text in entry.get("ours", [])) or "none"
      lines.append(f"| `{name}` | {ours} | {entry['note']} |")
    lines.append("")
  return "\n".join(lines)


if __name__ == "__main__":
  print(tables())
