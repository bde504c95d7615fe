"""Modules import only lower layers; each external library is used in one place only."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From the bottom up; a module may import its own layer and those below it.
LAYERS = (
  {"sdt_jax." + m for m in ("errors", "keypoints", "pose", "speakers", "audio")}
  | {"sdt_jax." + m for m in ("audio_file", "files", "config", "workdir", "cli")}
  | {"sdt_jax.original_names"},
  {"sdt_jax.models"},
  {"sdt_jax.methods"},
  {"sdt_jax.templates", "sdt_jax.data"},
  {"sdt_jax.training"},
  {"sdt_jax.synthesis", "sdt_jax.templates.auto"},
  {"sdt_jax.evaluation"},
  {"sdt_jax.exports", "sdt_jax.interop"},
  {"sdt_jax", "configs", "train", "eval", "demo", "data_prep", "benchmarks"},
  {"sdt_jax.live"},
)

# Packages of one layer that must not import each other.
APART = [{"sdt_jax.templates", "sdt_jax.data"}, {"sdt_jax.exports", "sdt_jax.interop"}]

# External library -> the only modules that may use it. Data preparation reads
# pictures itself; MediaPipe runs in an environment of its own.
OWNERS = {
  "jax.sharding": {"sdt_jax.training.parallel"},
  "jax.experimental": {"sdt_jax.training.parallel", "sdt_jax.training.processes"},
  "orbax": {"sdt_jax.training.checkpoints"},
  "torch": {"sdt_jax.interop"},
  "moviepy": {"sdt_jax.synthesis.overview"},
  "cv2": {"sdt_jax.synthesis.render", "data_prep"},
  "av": {"sdt_jax.audio_file", "sdt_jax.synthesis.video", "data_prep"},
  "tensorflow_datasets": {"sdt_jax.data"},
  "grain": {"sdt_jax.data.pipeline"},
  "mediapipe": {"data_prep.mediapipe_worker"},
  "fastapi": {"sdt_jax.live"},
  "starlette": {"sdt_jax.live"},
  "uvicorn": {"sdt_jax.live"},
  "tensorflow": set(),
  "clu.metric_writers": set(),
  "clu.periodic_actions": set(),
}


def _sources() -> dict[str, pathlib.Path]:
  """Module name -> file, of everything but the tests."""
  files = [ROOT / f"{program}.py" for program in ("train", "eval", "demo")]
  for folder in ("sdt_jax", "configs", "data_prep", "benchmarks"):
    files += (ROOT / folder).rglob("*.py")
  names = {}
  for file in files:
    parts = file.relative_to(ROOT).with_suffix("").parts
    names[".".join(p for p in parts if p != "__init__")] = file
  return names


SOURCES = _sources()


@functools.cache
def _tree(module: str) -> ast.Module:
  return ast.parse(SOURCES[module].read_text())


@functools.cache
def _imports(module: str) -> set[str]:
  """Full names of what a module imports, inside functions too."""
  found = set()
  for node in ast.walk(_tree(module)):
    level = 1 if _within(module, "data_prep") else 0  # sdt_jax.data_prep in a wheel
    assert getattr(node, "level", 0) <= level, f"{module}: imports are absolute"
    found |= _imported_by(node)
  return found


def _imported_by(node: ast.AST) -> set[str]:
  """Full names, if it is an import; relative imports are those of data_prep."""
  if isinstance(node, ast.Import):
    return {alias.name for alias in node.names}
  if isinstance(node, ast.ImportFrom):
    package = [*["data_prep"] * node.level, *filter(None, [node.module])]
    return {".".join([*package, alias.name]) for alias in node.names}
  return set()


@functools.cache
def _uses(module: str) -> set[str]:
  """What a module imports, and dotted names such as `jax.sharding.Mesh` in it."""
  dotted = (node for node in ast.walk(_tree(module)) if type(node) is ast.Attribute)
  return _imports(module) | {ast.unparse(node) for node in dotted}


def _within(name: str, package: str) -> bool:
  return name == package or name.startswith(package + ".")


def _layer(name: str) -> int | None:
  """Number of the layer of a module of the project, by its longest known package."""
  known = [
    (len(package), number)
    for number, packages in enumerate(LAYERS)
    for package in packages
    if _within(name, package)
  ]
  return max(known)[1] if known else None


def test_the_layers_list_every_module():
  for package in set().union(*LAYERS):
    assert any(_within(module, package) for module in SOURCES), package


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_down(module):
  own = _layer(module)
  for name in _imports(module):
    other = _layer(name)
    assert other is None or other <= own, f"{module} imports {name}"


@pytest.mark.parametrize("pair", APART, ids=lambda pair: " and ".join(sorted(pair)))
def test_packages_of_a_layer_are_independent(pair):
  for module in SOURCES:
    own = {package for package in pair if _within(module, package)}
    for other in pair - own if own else ():
      strangers = {name for name in _imports(module) if _within(name, other)}
      assert not strangers, module


def test_only_the_registry_knows_methods_by_name():
  for module in SOURCES:
    if not _within(module, "sdt_jax.methods"):
      known = {name.rsplit(".", 1)[-1] for name in _imports(module)}
      assert not known & {"voice2pose", "pose2pose", "Voice2Pose", "Pose2Pose"}, module


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_outside_libraries_stay_behind_their_owner(library):
  users = {m for m in SOURCES if any(_within(name, library) for name in _uses(m))}
  strangers = {
    m for m in users if not any(_within(m, owner) for owner in OWNERS[library])
  }
  assert not strangers


def test_models_and_steps_do_not_know_the_config():
  unaware = tuple(f"sdt_jax.{package}" for package in ("models", "data", "synthesis"))
  for module in SOURCES:
    known = {name.split(".")[0] for name in _imports(module)}
    assert not (module.startswith(unaware) and "ml_collections" in known), module


def test_modules_do_not_import_each_other():
  """No circle of modules at import time."""

  def visit(module: str, path: tuple[str, ...]) -> None:
    assert module not in path, " -> ".join((*path, module))
    if module in done:
      return
    for name in sorted(set().union(*map(_imported_by, _tree(module).body))):
      for target in (name, name.rpartition(".")[0]):
        if target in SOURCES and target != module and target != "sdt_jax":
          visit(target, (*path, module))
          break
    done.add(module)

  done: set[str] = set()
  for module in SOURCES:
    visit(module, ())
