"""A map of the template bank: where its templates lie, and clusters of them.

    python -m sdt_jax.templates.map --workdir=DIR [--step=latest|best|N] \
      [--method=pca|tsne|umap] [--clusters=N] [--audio=FILE] [--seed=N]

Writes into the workdir:

template_map.png    the map in 2-D, and a film strip for each cluster: the motion of its
                    medoid for one sound
template_map.json   the same for other programs; see `_report`

Clusters are found by k-means in the space of the templates, not in the map; the largest
is number 0. The medoid of a cluster is the row of the bank with the smallest mean
distance to the others; `--template=cluster:3` of demo.py is the medoid of cluster 3.
"""

import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from absl import flags

from sdt_jax import cli, files, workdir
from sdt_jax.errors import UserError
from sdt_jax.synthesis import generate, samples
from sdt_jax.templates import attributes, directions, pictures

matplotlib.use("agg")

from matplotlib import pyplot as plt

REPORT, PICTURE = "template_map.json", "template_map.png"
VERSION = 1  # of the JSON file
METHODS = ("pca", "tsne", "umap")

_MAX_CLUSTERS = 40
_RESTARTS = 8
_MAP_INCHES, _BOTTOM_INCHES = 7.0, 0.1


class Clusters(NamedTuple):
  """The clusters of a bank.

  Attributes:
    labels: (N,) cluster of each row, 0 is the largest.
    medoids: (k,) row of the bank.
  """

  labels: np.ndarray
  medoids: np.ndarray


def read_clusters(path: str | pathlib.Path, bank: np.ndarray) -> list[int]:
  """The medoids of the clusters of a run: rows of its bank, by number of the cluster.

  Args:
    path: the workdir.
    bank: the templates (N, D) of the checkpoint at hand.

  Raises:
    UserError: the map has not been made yet, or is of another bank.
  """
  file = pathlib.Path(path) / REPORT
  again = f"python -m sdt_jax.templates.map --workdir={path}"
  try:
    report = json.loads(file.read_text())
    medoids, mapped = [c["medoid"] for c in report["clusters"]], report["bank"]
  except FileNotFoundError:
    raise UserError(f"{file}: no such file; write it with: {again}") from None
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
    raise UserError(
      f"{file}: not a map of templates ({type(e).__name__}); write it again: {again}"
    ) from e
  fits = all(type(row) is int and 0 <= row < len(bank) for row in medoids)
  if not medoids or not fits or mapped != _digest(bank):
    raise UserError(
      f"{file}: is not of this bank of {len(bank)} templates; write it again with: "
      f"{again}"
    )
  return medoids


def _digest(bank: np.ndarray) -> str:
  """Changes if the templates do."""
  return hashlib.sha256(bank.astype("<f4").tobytes()).hexdigest()[:12]


def medoid(path: str | pathlib.Path, spec: str, bank: np.ndarray) -> int:
  """The row of the bank that "cluster:3" stands for.

  Args:
    path, bank: see `read_clusters`.
    spec: value of `--template`.

  Raises:
    UserError: there is no such cluster, or no map.
  """
  medoids = read_clusters(path, bank)
  match = re.fullmatch(r"cluster:(\d{1,9})", spec)
  if not match or int(match[1]) >= len(medoids):
    raise UserError(
      f"--template={spec}: unknown cluster; give cluster:0 to "
      f"cluster:{len(medoids) - 1}"
    )
  return medoids[int(match[1])]


def cluster(bank: np.ndarray, count: int, seed: int) -> Clusters:
  """k-means of the best of several random starts, and the medoid of each cluster.

  Args:
    bank: (N, D) templates.
    count: number of clusters; fewer if the bank has fewer different rows.
    seed: of the starts.
  """
  from sklearn.cluster import KMeans  # slow to import

  count = min(count, len(np.unique(bank, axis=0)))
  found = KMeans(count, n_init=_RESTARTS, random_state=seed)  # pyright: ignore
  labels = found.fit_predict(bank)
  names, counts = np.unique(labels, return_counts=True)
  order = np.argsort(-counts, kind="stable")
  rank = np.empty(names.max() + 1, int)
  rank[names[order]] = np.arange(len(names))
  labels = rank[labels]
  medoids = [_medoid(bank, np.flatnonzero(labels == i)) for i in range(len(names))]
  return Clusters(labels, np.array(medoids))


def _medoid(bank: np.ndarray, rows: np.ndarray) -> int:
  """The row with the smallest mean distance to the others."""
  from sklearn.metrics import pairwise_distances_chunked

  members = bank[rows]
  parts = pairwise_distances_chunked(members, reduce_func=lambda part, _: part.sum(1))
  return int(rows[np.concatenate(list(parts)).argmin()])


def project(bank: np.ndarray, method: str, seed: int) -> np.ndarray:
  """Coordinates (N, 2) of the templates (N, D) in the map.

  Raises:
    UserError: the method is unknown or needs a package that is not installed.
  """
  if method == "pca":
    return samples.principal_components(bank)[0]
  if method == "tsne":
    from sklearn import manifold

    perplexity = min(30.0, (len(bank) - 1) / 3)
    tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(tsne.fit_transform(bank.astype(np.float32)))
  if method != "umap":
    raise UserError(f"--method={method}: unknown; give one of {', '.join(METHODS)}")
  return _umap(bank, seed)


def _umap(bank: np.ndarray, seed: int) -> np.ndarray:
  try:
    import umap  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise UserError(
      "--method=umap: needs the package umap-learn; run: pip install umap-learn, or "
      "give --method=tsne"
    ) from None
  neighbours = min(15, len(bank) - 1)
  return np.asarray(
    umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(bank)
  )


def draw(
  path: pathlib.Path,
  step: str = "latest",
  method: str = "pca",
  clusters: int = 8,
  audio: str | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Makes the map of a run, and writes both files.

  Args:
    path: the workdir.
    step: "latest", "best" or the number of a step.
    method: one of `METHODS`.
    clusters: number of clusters.
    audio: the sound of the film strips; default: of the dev split, or if there
      is none the speech sample of the package.
    seed: of the clusters and of the map.

  Returns:
    The content of the JSON file.

  Raises:
    UserError: the run has no templates that hold for a clip, or an option is unusable.
  """
  if not 1 <= clusters <= _MAX_CLUSTERS:
    raise UserError(f"--clusters={clusters}: give 1 to {_MAX_CLUSTERS}")
  run, bank = directions.load_with_bank(path, step)
  files.check_writable(path, "--workdir")
  splits = directions.open_splits(run)
  sound = directions.choose_sounds(audio, splits)[0]
  points = project(bank, method, seed)
  found = cluster(bank, clusters, seed)
  model = generate.GestureModel(run, run.speaker)
  codes = list(bank[found.medoids].astype(np.float32))
  motions = model.generate_many([sound] * len(codes), codes)
  clips = directions.measure_clips(run, splits)
  report = _report(run.step, method, seed, points, found, clips)
  report["clip_ids"], report["bank"] = workdir.read_clips(path), _digest(bank)
  workdir.write_text(path / REPORT, json.dumps(report, indent=1) + "\n")
  _draw(path / PICTURE, run.path.name, report, points, found, motions)
  return report


def _report(
  step: int,
  method: str,
  seed: int,
  points: np.ndarray,
  found: Clusters,
  clips: directions.Clips | None,
) -> dict[str, Any]:
  """The JSON file.

  `points` and `labels` have one entry for each row of the bank, as `clip_ids`, which is
  empty for runs without names of clips. Each of `clusters` has `medoid`, its `size` and
  the mean `attributes` of its clips, in standard deviations from the mean of all;
  without the training clips, {}.
  """
  names = list(attributes.ATTRIBUTES)
  entries = []
  for number, row in enumerate(found.medoids.tolist()):
    entry = {"medoid": row, "size": int((found.labels == number).sum())}
    entries.append(entry | {"attributes": {}})
    if clips is not None:
      sd = np.maximum(clips.values.std(0), np.finfo(float).tiny)
      members = found.labels[clips.rows] == number
      if members.any():
        mean = (clips.values[members].mean(0) - clips.values.mean(0)) / sd
        entries[-1]["attributes"] = dict(
          zip(names, mean.round(3).tolist(), strict=True)
        )
  return {
    "version": VERSION,
    "step": step,
    "method": method,
    "seed": seed,
    "clusters": entries,
    "points": points.round(4).tolist(),
    "labels": found.labels.tolist(),
  }


def _draw(
  path: pathlib.Path,
  title: str,
  report: dict[str, Any],
  points: np.ndarray,
  found: Clusters,
  motions: list[np.ndarray],
) -> None:
  """The picture: the map on the left, a film strip for each cluster on the right."""
  rows = [
    pictures.strip_row(f"cluster:{i}", _label(entry), motion)
    for i, (entry, motion) in enumerate(zip(report["clusters"], motions, strict=True))
  ]
  width, height = pictures.page_size(rows)
  top = pictures.TITLE_INCHES
  total = _MAP_INCHES + width, max(height, _MAP_INCHES) + top + _BOTTOM_INCHES
  figure = plt.figure(figsize=total)
  side = _MAP_INCHES - 0.7
  corner = 0.5 / total[0], 1 - (top + side) / total[1]
  axes = figure.add_axes((*corner, side / total[0], side / total[1]))
  _draw_map(axes, points, found)
  figure.suptitle(
    f"{title}: {len(points)} templates ({report['method']}), {len(rows)} clusters. "
    "Numbers are at the medoids; strips show their motion for the same sound.\n"
    "Attributes are in standard deviations from the mean of all clips.",
    fontsize=12,
    x=0.01,
    y=1 - 0.1 / total[1],
    ha="left",
    va="top",
  )
  place = (_MAP_INCHES / total[0], 1 - top / total[1], 1 - (top + height) / total[1])
  pictures.draw_rows(figure, pictures.strip_times(motions[0]), rows, *place)
  pictures.write_figure(path, figure)


def _draw_map(axes, points: np.ndarray, found: Clusters) -> None:
  colors = plt.get_cmap("tab20" if len(found.medoids) > 10 else "tab10")
  for number, row in enumerate(found.medoids):
    color = colors(number % colors.N)
    members = found.labels == number
    axes.scatter(*points[members].T, s=9, color=color, alpha=0.55, linewidths=0)
    axes.annotate(
      str(number),
      points[row],
      fontsize=13,
      weight="bold",
      ha="center",
      va="center",
      bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": color, "lw": 2},
    )
  axes.set_aspect("equal", "datalim")
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_color("#dddddd")


def _label(entry: dict[str, Any]) -> str:
  """Size, medoid, and what is special about the cluster."""
  lines = [f"{entry['size']} templates, medoid is row {entry['medoid']}"]
  strongest = sorted(entry["attributes"].items(), key=lambda item: -abs(item[1]))
  special = [f"{name} {value:+.1f}" for name, value in strongest[:3]]
  return "\n".join(lines + special)


def main() -> None:
  given: Any = flags.FLAGS.flag_values_dict()
  path = pathlib.Path(given["workdir"])
  options = (given[name] for name in ("step", "method", "clusters", "audio", "seed"))
  report = draw(path, *options)
  for number, entry in enumerate(report["clusters"]):
    print(f"cluster:{number}  " + ", ".join(_label(entry).splitlines()))
  for name in (REPORT, PICTURE):
    print(f"written: {path / name}")


def run() -> None:
  """Parses the flags and runs the program."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
  flags.DEFINE_enum("method", "pca", METHODS, "How the map is made.")
  flags.DEFINE_integer("clusters", 8, "Number of clusters.")
  flags.DEFINE_string("audio", None, "Sound of the strips; default: the dev split.")
  flags.DEFINE_integer("seed", 0, "Of clusters and map.", lower_bound=0)
  cli.run(main)


if __name__ == "__main__":
  run()
