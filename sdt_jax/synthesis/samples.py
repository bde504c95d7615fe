"""Pictures of a training run: sample videos and maps of the template bank."""

import concurrent.futures
import pathlib
import threading
from collections.abc import Callable

import matplotlib
import numpy as np
from tensorboardX import summary

from sdt_jax import audio, files
from sdt_jax.synthesis import render, video
from sdt_jax.training.hooks import Sample
from sdt_jax.training.logs import Board, Guard

matplotlib.use("agg")

from matplotlib import pyplot as plt

_WAITING = 8  # pictures in the queue before training waits
_BOARD_SIZE = (480, 135)  # of videos in TensorBoard, which stores GIFs


def write_sample(folder: pathlib.Path, sample: Sample) -> None:
  """Writes `<folder>/<sample.name>.mp4`: prediction beside truth, with sound."""
  files.check_writable(folder, "videos")
  frames = render.side_by_side_frames(sample.poses_px, sample.truth_px)
  video.write_video(folder / f"{sample.name}.mp4", frames, audio=sample.audio)


def write_template_map(path: pathlib.Path, bank: np.ndarray, title: str) -> None:
  """Writes a PNG of the bank's first two principal components (the paper's Fig. 4).

  A bank (N, T, D) counts as N points of T x D dimensions.
  """
  points, shares = principal_components(bank)
  figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
  dots = axes.scatter(*points.T, c=np.arange(len(points)), s=9, cmap="viridis")
  figure.colorbar(dots, label="training clip")
  axes.set_title(title)
  axes.set_xlabel(f"1st component ({shares[0]:.0%} of variance)")
  axes.set_ylabel(f"2nd component ({shares[1]:.0%})")
  axes.set_aspect("equal", "datalim")
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=110)
  plt.close(figure)


def principal_components(bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """First two principal components (N, 2), and their shares of the variance (2,)."""
  centred = bank.reshape(len(bank), -1) - bank.reshape(len(bank), -1).mean(0)
  u, s, _ = np.linalg.svd(centred, full_matrices=False)
  total = max(float(np.square(s).sum()), np.finfo(np.float32).tiny)
  return u[:, :2] * s[:2], np.square(s[:2]) / total


class Gallery:
  """Makes the pictures of a run in a thread of its own.

  Adding to a full queue blocks. Failures are skipped and reported once: pictures never
  stop a training run.

  Args:
    folder: where the files go.
    board: the TensorBoard file, for the maps and optionally the videos.
    board_videos: whether TensorBoard gets the sample videos and their sound.
  """

  def __init__(self, folder: pathlib.Path, board: Board, board_videos: bool):
    self._folder, self._board, self._board_videos = folder, board, board_videos
    self._guard = Guard(str(folder))
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "gallery")
    self._slots = threading.BoundedSemaphore(_WAITING)

  def add_sample(self, sample: Sample, step: int) -> None:
    """Writes a sample video."""
    self._submit(self._sample, sample, step)

  def add_templates(self, bank: np.ndarray, epoch: int, step: int) -> None:
    """Draws the map of the template bank."""
    self._submit(self._templates, bank, epoch, step)

  def close(self) -> None:
    """Waits for the pictures in the queue."""
    self._thread.shutdown()

  def _submit(self, make: Callable, *args) -> None:
    self._slots.acquire()
    made = self._thread.submit(self._guard, make, *args)
    made.add_done_callback(lambda _: self._slots.release())

  def _sample(self, sample: Sample, step: int) -> None:
    write_sample(self._folder, sample)
    if self._board_videos:
      tag = f"samples/{sample.name.split('_', 1)[-1]}"
      frames = render.side_by_side_frames(
        sample.poses_px, sample.truth_px, size=_BOARD_SIZE
      )
      clip = np.stack(list(frames)).transpose(0, 3, 1, 2)
      self._board.add(summary.video(tag, clip[None], fps=audio.FPS), step)
      sound = sample.audio[:, None]
      self._board.add(summary.audio(tag, sound, sample_rate=audio.SAMPLE_RATE), step)

  def _templates(self, bank: np.ndarray, epoch: int, step: int) -> None:
    path = self._folder / f"epoch{epoch:04d}_templates.png"
    write_template_map(path, bank, f"templates after epoch {epoch}")
    picture = plt.imread(path)[..., :3]
    self._board.add(summary.image("templates", picture, dataformats="HWC"), step)
