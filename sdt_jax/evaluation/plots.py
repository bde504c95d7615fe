"""Line plots of the report and of the documentation."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

from sdt_jax import files

matplotlib.use("agg")

from matplotlib import pyplot as plt


class Curve(NamedTuple):
  """Points of a line, and optionally its format for matplotlib, such as "C0--"."""

  x: Sequence[float]
  y: Sequence[float]
  style: str = ""


class Panel(NamedTuple):
  """One pair of axes.

  Attributes:
    x_label, y_label: of the axes.
    curves: label -> curve; labels that start with "_" are not in the legend.
    ticks: positions of ticks on a logarithmic x axis; empty for a linear one.
  """

  x_label: str
  y_label: str
  curves: Mapping[str, Curve]
  ticks: Sequence[float] = ()


def write_panels(path: pathlib.Path, panels: Sequence[Panel]) -> None:
  """Writes a PNG of panels side by side."""
  figure, all_axes = plt.subplots(
    1, len(panels), figsize=(6 * len(panels), 4), layout="constrained", squeeze=False
  )
  for axes, panel in zip(all_axes[0], panels, strict=True):
    for label, curve in panel.curves.items():
      axes.plot(curve.x, curve.y, curve.style, label=label, linewidth=1.5)
    if panel.ticks:
      axes.set_xscale("log")
      axes.minorticks_off()
      axes.set_xticks(panel.ticks, [f"{tick:.3g}" for tick in panel.ticks])
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.legend()
    axes.grid(alpha=0.3)
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=110)
  plt.close(figure)
