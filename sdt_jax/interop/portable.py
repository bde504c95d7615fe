"""A gesture model as one file that JAX runs without this package.

The file is a `jax.export` artefact (StableHLO with the weights inside): mel spectrogram
and template in, final poses in pixels out, for any batch size and length, on CPU and
CUDA. `docs/interop.md` has the program that loads it.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp

from sdt_jax import audio, files, pose
from sdt_jax.errors import UserError
from sdt_jax.models.generator import MIN_FRAMES
from sdt_jax.training import runs, voice2pose
from sdt_jax.training.voice2pose import Voice2Pose

PLATFORMS = ("cpu", "cuda")


def export_model(
  path: pathlib.Path, output: pathlib.Path, step: str = "latest"
) -> jax.export.Exported:
  """Writes the generator of a run.

  The function in the file takes `mel` (b, 80, m) float32, m at least 214, as
  `audio.mel_spectrogram` gives it, and, where the model has templates, `template`
  (b, D) or for a frame-wise model (b, T, D). It returns (b, T, 2, 121) float32 final
  poses in pixels relative to the neck, with T = ceil((m - 1) * 3 / 20) frames.

  Args:
    path: workdir of the run.
    output: the file.
    step: "latest", "best" or the number of a step.

  Raises:
    UserError: the workdir or the checkpoint cannot be used, or the file not be written.
  """
  run = runs.load(path, step)
  if not isinstance(run.experiment, Voice2Pose):
    raise UserError(
      f"{path}: holds a pose VAE, which has no generator; give a gesture model"
    )
  exported = jax.export.export(
    jax.jit(_generator(run, run.experiment)), platforms=PLATFORMS
  )(*_inputs(run.experiment))
  _write(output, exported)
  return exported


def _generator(run: runs.Run, experiment: Voice2Pose) -> Callable[..., jax.Array]:
  """`(mel, template) -> poses_px` with the weights and the speaker's statistics."""
  hierarchical = run.config.pose.hierarchical
  table = run.speaker.table(hierarchical)
  state = jax.device_get(run.state)  # constants belong to no device

  def generate(mel: jax.Array, template: jax.Array | None = None) -> jax.Array:
    poses_norm = voice2pose.predict(
      experiment, state, mel, template, audio.num_frames_under_mel(mel.shape[-1])
    )
    return pose.to_final(poses_norm, table, hierarchical)

  return generate


def _inputs(experiment: Voice2Pose) -> list[jax.ShapeDtypeStruct]:
  """Symbolic batch size b and spectrogram length m."""
  shortest = audio.num_samples(MIN_FRAMES) // 160 + 1
  b, m = jax.export.symbolic_shape("b, m", constraints=[f"m >= {shortest}"])
  shapes: list[tuple] = [(b, audio.NUM_MELS, m)]
  if experiment.template != "none":
    *by_frame, size = experiment.template_shape
    frames = audio.num_frames_under_mel(m)
    shapes.append((b, frames, size) if by_frame else (b, size))
  return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _write(output: pathlib.Path, exported: jax.export.Exported) -> None:
  try:
    content = exported.serialize()
  except ImportError as e:
    raise UserError("the export needs flatbuffers: pip install flatbuffers") from e
  with files.replacing(output) as temporary:
    temporary.write_bytes(content)
