"""The wheel is complete, has `sdt_jax` as its only top-level name, and works."""

import functools
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import programs
import pytest

ROOT = programs.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RENAMED = ("configs", "data_prep")  # folder -> sdt_jax.<folder>


def _expected_files() -> set[str]:
  """Paths in the wheel of the sources and data files of the checkout."""
  found = set()
  for folder in ("sdt_jax", *RENAMED):
    for path in (ROOT / folder).rglob("*"):
      if path.is_file() and path.suffix != ".pyc":
        name = path.relative_to(ROOT).as_posix()
        found.add(f"sdt_jax/{name}" if folder in RENAMED else name)
  return found


def test_every_package_is_listed():
  folders = {pathlib.PurePosixPath(name).parent for name in _expected_files()}
  data = {"sdt_jax.assets", "sdt_jax.live.page"}
  packages = {".".join(f.parts) for f in folders} - data
  assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_the_licence_of_the_published_statistics_is_in_the_package():
  text = (ROOT / "sdt_jax/assets/LICENSES.md").read_text()
  for part in ("`speaker_stats.json`", "MIT License", "(c) 2021 Qian Shenhan"):
    assert part in text
  assert "assets/*" in PROJECT["tool"]["setuptools"]["package-data"]["sdt_jax"]
  assert PROJECT["project"]["license"] == "Apache-2.0 AND MIT"


def test_the_package_is_installed(tmp_path):
  """`make` installs it; anywhere else: pip install --no-deps -e ."""
  subprocess.run([sys.executable, "-c", "import sdt_jax"], cwd=tmp_path, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
  """Built in a copy, since setuptools leaves its files in the source folder."""
  source = tmp_path_factory.mktemp("source")
  for path in filter(pathlib.Path.is_file, ROOT.iterdir()):
    shutil.copy(path, source)
  for name in ("sdt_jax", *RENAMED, "benchmarks", "tests"):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  output = tmp_path_factory.mktemp("wheel")
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  if int(metadata.version("setuptools").split(".")[0]) >= 77:
    command.append("--no-build-isolation")
  subprocess.run([*command, "--wheel-dir", output, source], check=True)
  (built,) = output.iterdir()
  return built


@pytest.mark.slow
def test_the_wheel_is_complete_and_has_one_top_level_name(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
  assert names - info == _expected_files()


@pytest.mark.slow
def test_the_wheel_works_in_any_folder(wheel, tmp_path):
  installed, folder = tmp_path / "installed", tmp_path / "work"
  folder.mkdir()
  run = functools.partial(programs.python, cwd=folder, PYTHONPATH=str(installed))
  install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  subprocess.run([*install, "--target", installed, wheel], check=True)
  (distribution,) = metadata.distributions(path=[str(installed)])
  commands = distribution.entry_points.select(group="console_scripts")
  assert {c.name for c in commands} == {
    f"sdt-{name}" for name in ("train", "eval", "demo", "prepare")
  }
  for command in commands:
    assert "\n  --" in run(installed / "bin" / command.name, "--help").stdout
  train = ("-m", "sdt_jax.programs.train")
  for config in ("sdt_bp", "configs/sdt_bp.py"):
    flags = (f"--config={config}", "--config.batch_size=0")
    assert "batch_size is 0" in run(*train, *flags).stderr
