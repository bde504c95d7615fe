"""Templates that follow from the speech: `--template=auto`.

A trained model of template sequences (`configs/template_sequence.py`) draws a template
for each block of a sound, from the templates before it, the sound of the block before,
and if it is known, the sound of the block itself.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio, workdir
from sdt_jax.errors import UserError
from sdt_jax.methods import template_sequence
from sdt_jax.methods.template_sequence import TemplateSequence
from sdt_jax.models.template_sequence import Context
from sdt_jax.templates.director import BLOCK, Director, minimum_jerk
from sdt_jax.training import runs

_CHANGE = 8  # frames from one template to the next


def load(
  path: pathlib.Path, bank: np.ndarray, directory: str | None = None
) -> Callable[[int], "AutoDirector"]:
  """Function from a seed to a director of one sound.

  Args:
    path: workdir of the gesture model.
    bank: its templates (N, D).
    directory: workdir of the model of template sequences; default: the one that was
      trained for `path`.

  Raises:
    UserError: there is none, or it was trained for other templates.
  """
  flag = f"--template=auto:{directory}" if directory else "--template=auto"
  folder = pathlib.Path(directory or path / workdir.TEMPLATE_SEQUENCE)
  train = (
    f"python train.py --config=configs/template_sequence.py --config.template.of={path}"
  )
  if not folder.is_dir():
    raise UserError(f"{flag}: {folder} does not exist; train it with {train}")
  try:
    run = runs.load(folder)
  except UserError as e:
    raise UserError(f"{flag}: {e}") from e
  if not isinstance(run.method, TemplateSequence):
    raise UserError(f"{flag}: {folder} is a {run.method.title}; train one with {train}")
  if not np.array_equal(bank, run.state.bank["mean"]):
    raise UserError(
      f"{flag}: {folder} was trained for other templates than those of this checkpoint "
      f"of {path}; delete it and train it again with {train}"
    )
  choose = functools.partial(jax.jit(run.method.choose), run.state)
  return lambda seed: AutoDirector(choose, bank.shape[-1], seed)


class AutoDirector(Director):
  """Draws the templates of one sound.

  Args:
    choose: function from a context and a random key to a template (D,).
    size: D.
    seed: decides what is drawn.
  """

  def __init__(
    self, choose: Callable[[Context, jax.Array], jax.Array], size: int, seed: int
  ):
    self._choose, self._key = choose, jax.random.key(seed)
    self._chosen = np.zeros((0, size), np.float32)  # the last one first

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    count = template_sequence.NUM_PREVIOUS
    size = self._chosen.shape[1]
    previous = np.zeros((count, size), np.float32)
    previous[: len(self._chosen)] = self._chosen[:count]
    context = Context(
      jnp.asarray(previous),
      jnp.arange(count) < len(self._chosen),
      jnp.stack([_features(heard), _features(coming)]),
      jnp.array([heard is not None, coming is not None]),
    )
    self._key, key = jax.random.split(self._key)
    chosen = np.asarray(self._choose(context, key), np.float32)
    before = self._chosen[0] if len(self._chosen) else chosen
    self._chosen = np.concatenate([chosen[None], self._chosen])[:count]
    weights = minimum_jerk(np.arange(1, BLOCK + 1) / _CHANGE)[:, None]
    return (before + weights * (chosen - before)).astype(np.float32)


_sound_features = jax.jit(template_sequence.sound_features)


def _features(sound: np.ndarray | None) -> jax.Array:
  """Features (T, F) of a block, which may be short or unknown."""
  block = audio.fit_to_frames(
    np.zeros(0, np.float32) if sound is None else sound, BLOCK
  )
  return _sound_features(block[None])[0]
