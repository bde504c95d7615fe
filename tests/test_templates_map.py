"""The map of the bank: clusters, their medoids, and the files."""

import json

import cv2
import numpy as np
import pytest
import tiny

import sdt_jax
from sdt_jax import workdir
from sdt_jax.errors import UserError
from sdt_jax.templates import map as template_map

RNG = np.random.default_rng(0)
CENTRES = 20 * np.eye(3, 5)
SIZES = (10, 40, 25)
BANK = np.concatenate(
  [c + RNG.standard_normal((n, 5)) for c, n in zip(CENTRES, SIZES, strict=True)]
)


def test_clusters_that_are_apart_are_found_the_largest_first():
  order = RNG.permutation(len(BANK))
  found = template_map.cluster(BANK[order], 3, seed=0)
  assert np.bincount(found.labels).tolist() == [40, 25, 10]
  truth = np.repeat(range(3), SIZES)[order]
  for number, source in enumerate((1, 2, 0)):
    assert set(np.flatnonzero(found.labels == number)) == set(
      np.flatnonzero(truth == source)
    )


def test_a_medoid_is_the_row_nearest_to_its_cluster():
  found = template_map.cluster(BANK, 3, seed=0)
  for number, row in enumerate(found.medoids):
    members = BANK[found.labels == number]
    distances = np.linalg.norm(members[:, None] - members, axis=-1).mean(1)
    np.testing.assert_array_equal(BANK[row], members[distances.argmin()])


def test_clusters_depend_on_the_seed_only():
  first, again = (template_map.cluster(BANK, 5, seed=3) for _ in range(2))
  np.testing.assert_array_equal(first.labels, again.labels)
  np.testing.assert_array_equal(first.medoids, again.medoids)


def test_a_bank_of_equal_templates_is_one_cluster():
  found = template_map.cluster(np.ones((6, 3)), 4, seed=0)
  assert found.medoids.tolist() == [0]
  assert set(found.labels) == {0}
  two = template_map.cluster(np.repeat(np.eye(2), 3, axis=0), 4, seed=0)
  assert len(two.medoids) == 2


@pytest.mark.parametrize(
  "method", ["pca", pytest.param("tsne", marks=pytest.mark.slow)]
)
def test_neighbours_stay_neighbours_on_the_map(method):
  points, again = (template_map.project(BANK, method, seed=0) for _ in range(2))
  np.testing.assert_array_equal(points, again)
  assert points.shape == (len(BANK), 2)
  truth = np.repeat(range(3), SIZES)
  distances = np.linalg.norm(points[:, None] - points, axis=-1)
  np.fill_diagonal(distances, np.inf)
  assert (truth[distances.argmin(1)] == truth).mean() > 0.95


def test_unknown_methods_and_missing_packages_are_one_line(monkeypatch):
  with pytest.raises(UserError, match="--method=som: unknown; give one of pca"):
    template_map.project(BANK, "som", seed=0)
  monkeypatch.setitem(__import__("sys").modules, "umap", None)
  with pytest.raises(UserError, match="pip install umap-learn"):
    template_map.project(BANK, "umap", seed=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory, compile_fast):
  folder = tmp_path_factory.mktemp("map")
  config = tiny.config(folder / "data", num_epochs=1)
  tiny.train(config, folder / "bp")
  template_map.draw(folder / "bp", clusters=3)
  return folder / "bp"


def test_a_run_gets_a_picture_and_a_file_for_other_programs(path):
  report = json.loads((path / template_map.REPORT).read_text())
  assert report["clip_ids"] == workdir.read_clips(path)
  assert len(report["points"]) == len(report["labels"]) == len(report["clip_ids"])
  assert sum(c["size"] for c in report["clusters"]) == len(report["labels"])
  for number, entry in enumerate(report["clusters"]):
    assert report["labels"][entry["medoid"]] == number
    assert abs(entry["attributes"]["hands_high"]) < 10
  assert (cv2.imread(str(path / template_map.PICTURE)) < 128).any()


def test_a_cluster_stands_for_its_medoid(path):
  report = json.loads((path / template_map.REPORT).read_text())
  bank = sdt_jax.load(path).bank
  medoids = template_map.read_clusters(path, bank)
  assert medoids == [entry["medoid"] for entry in report["clusters"]]
  assert template_map.medoid(path, "cluster:1", bank) == medoids[1]
  for spec in ("cluster:3", "cluster:-1", "cluster:", "cluster:x"):
    with pytest.raises(UserError, match=f"{spec}: unknown .* cluster:0 to cluster:2"):
      template_map.medoid(path, spec, bank)
  with pytest.raises(UserError, match="is not of this bank of 20 templates"):
    template_map.medoid(path, "cluster:1", bank + 1)


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    *((None, "no such file"), ("{", "not a map"), ("[]", "not a map")),
    *(('{"clusters": 3}', "not a map"), ('{"clusters": []}', "not a map")),
    ('{"bank": "b", "clusters": [{"medoid": 20}]}', "not of this bank of 20"),
    ('{"bank": "b", "clusters": [{"medoid": "1"}]}', "not of this bank"),
  ],
)
def test_missing_and_damaged_maps_are_one_line(tmp_path, content, complaint):
  if content:
    (tmp_path / template_map.REPORT).write_text(content)
  with pytest.raises(UserError, match=complaint) as e:
    template_map.medoid(tmp_path, "cluster:0", np.zeros((20, 4)))
  assert "python -m sdt_jax.templates.map --workdir=" in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", [0, 41])
def test_numbers_of_clusters_have_limits(path, count):
  with pytest.raises(UserError, match=f"--clusters={count}: give 1 to 40"):
    template_map.draw(path, clusters=count)
