"""Exports a gesture model as one file that JAX runs without this package.

The file is a `jax.export` artifact (StableHLO with the weights inside): mel spectrogram
and template in, final poses in pixels out, for any batch size and length, on CPU and
CUDA. `docs/interop.md` has a program that loads it.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp

from sdt_jax import audio, files
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Method
from sdt_jax.models.generator import MIN_FRAMES
from sdt_jax.synthesis import generate, motion
from sdt_jax.training import runs

PLATFORMS = ("cpu", "cuda")


def export_model(
  path: pathlib.Path, output: pathlib.Path, step: str = "latest"
) -> jax.export.Exported:
  """Writes the generator of the run in `path` at `step` (see `runs.load`) to a file.

  The function in the file takes `mel` (b, 80, m) float32, m at least 214, as
  `audio.mel_spectrogram` gives it at the rate of the method (100/s, 120/s for a causal
  one), and, where the model has templates, `template`
  (b, D) or for a frame-wise model (b, T, D). It returns (b, T, dims, joints) float32
  final poses in pixels relative to the neck, with T = ceil((m - 1) * 15 / rate) frames.

  Raises:
    UserError: the workdir or checkpoint is unusable, or the file cannot be written.
  """
  run = generate.load_speaking(path, step)
  export = jax.export.export(jax.jit(_generator(run)), platforms=PLATFORMS)
  exported = export(*_inputs(run.method))
  try:
    content = exported.serialize()
  except ImportError as e:
    raise UserError("the export needs flatbuffers: pip install flatbuffers") from e
  with files.replacing(output) as temporary:
    temporary.write_bytes(content)
  return exported


def _generator(run: runs.Run) -> Callable[..., jax.Array]:
  """`(mel, template) -> poses_px` with the weights and the speaker's statistics."""
  state = jax.device_get(run.state)  # constants are not tied to a device

  def sample_px(mel: jax.Array, template: jax.Array | None = None) -> jax.Array:
    batch = {"mel": mel} if template is None else {"mel": mel, "template": template}
    return motion.sample_px(run.method, run.table, state, batch)

  return sample_px


def _inputs(method: Method) -> list[jax.ShapeDtypeStruct]:
  """Mel spectrogram and template, with symbolic batch size b and mel frames m."""
  shortest = audio.num_mel_frames(audio.num_samples(MIN_FRAMES), method.mel_rate)
  b, m = jax.export.symbolic_shape("b, m", constraints=[f"m >= {shortest}"])
  shapes: list[tuple] = [(b, audio.NUM_MELS, m)]
  if method.template_shape is not None:
    *by_frame, size = method.template_shape
    frames = audio.num_frames_under_mel(m, method.mel_rate)
    shapes.append((b, frames, size) if by_frame else (b, size))
  return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
