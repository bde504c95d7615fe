"""Runs written by an earlier version open, evaluate and resume with the same results.

tests/data/README.md says how the runs and the expected numbers were made.
"""

import contextlib
import json
import pathlib
import tarfile

import golden
import ml_collections
import numpy as np
import pytest
import tiny

import sdt_jax
from sdt_jax import workdir
from sdt_jax.evaluation import run as evaluation

DATA = golden.DATA / "old_workdirs"
EXPECTED = json.loads((DATA / "expected.json").read_text())
GENERATED = np.load(DATA / "generated.npz")


def _generate(path: str) -> np.ndarray:
  model = sdt_jax.load(path)
  template = "random" if model.bank is None else 3
  return model.generate(golden.speech()[:80_001], 16_000, template, generation="whole")


def _resume(run: str, config: ml_collections.ConfigDict) -> list[dict]:
  """Trains one epoch more than the old run; returns all its metrics."""
  config.num_epochs = 3
  assert tiny.train(config, pathlib.Path(run))
  return workdir.read_metrics(pathlib.Path(run))


def _without_times(lines: list[dict]) -> list[dict]:
  """Without the lines of split "epoch", which older versions did not write."""
  return [line for line in lines if line["split"] != "epoch"]


def _unpack(folder: pathlib.Path) -> pathlib.Path:
  for run in EXPECTED:
    with tarfile.open(DATA / f"{run}.tar.xz") as archive:
      archive.extractall(folder, filter="data")
  return folder


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory):
  """All runs, in the current folder: their configs name relative paths."""
  with contextlib.chdir(_unpack(tmp_path_factory.mktemp("old"))):
    yield


@pytest.mark.parametrize(
  "run",
  ["sdt_bp", *(pytest.param(r, marks=pytest.mark.slow) for r in ("sdt_vae", "s2g"))],
)
def test_an_old_run_generates_the_same_poses(old_runs, run):
  poses = _generate(run)
  assert len(poses) == 75
  assert golden.relative_error(poses[::15], GENERATED[run]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("run", EXPECTED)
def test_an_old_run_evaluates_to_the_same_numbers(old_runs, run):
  options = evaluation.Options(pose_vae="pose2pose")
  file = evaluation.evaluate_run(pathlib.Path(run), options)
  metrics = json.loads(file.read_text())["metrics"]
  for name, expected in EXPECTED[run]["evaluation"].items():
    # The covariance of 5 clips is nearly singular, which amplifies rounding errors.
    rel = 1e-4 if name.startswith("ftd") else 1e-5
    values = {key: metrics[name][key] for key in expected}
    assert values == pytest.approx(expected, rel=rel, abs=1e-9), name


# Rounding errors alone change the gradient norm of s2g, which has batch norm, by 4e-4.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("run", "rel"),
  [("sdt_bp", 1e-5), ("pose2pose", 1e-5), ("sdt_vae", 1e-5), ("s2g", 1e-3)],
)
def test_an_old_run_resumes_with_the_same_metrics(run, rel, tmp_path, monkeypatch):
  monkeypatch.chdir(_unpack(tmp_path))
  before = workdir.read_metrics(pathlib.Path(run))
  after = _resume(run, workdir.read_config(pathlib.Path(run)))
  assert after[: len(before)] == before
  resumed = _without_times(after[len(before) :])
  for line, expected in zip(resumed, EXPECTED[run]["epoch_3"], strict=True):
    assert line["split"] == expected["split"]
    numbers = {k: v for k, v in expected.items() if k != "split"}
    assert {k: line[k] for k in numbers} == pytest.approx(numbers, rel=rel)


@pytest.mark.slow
def test_a_config_without_newer_fields_opens_and_resumes(tmp_path, monkeypatch):
  monkeypatch.chdir(_unpack(tmp_path))
  complete = workdir.read_config(pathlib.Path("sdt_bp"))
  file = pathlib.Path("sdt_bp/config.json")
  fields = json.loads(file.read_text())
  del fields["precision"], fields["steps_at_once"], fields["debug"]
  del fields["template"]["pose_vae"], fields["checkpoint"]["every_minutes"]
  file.write_text(json.dumps(fields))
  poses = _generate("sdt_bp")
  assert golden.relative_error(poses[::15], GENERATED["sdt_bp"]) < 1e-5
  lines = _without_times(_resume("sdt_bp", complete))
  assert [line["step"] for line in lines[-3:]] == [5, 6, 6]
