"""What a trained run contributes to choosing its templates."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from sdt_jax.errors import UserError
from sdt_jax.templates.director import Director
from sdt_jax.templates.sources import Abilities
from sdt_jax.training.runs import Run


def of(run: Run, encode: Callable[[], np.ndarray] | None = None) -> Abilities:
  """The abilities of a run; nothing is opened before it is asked for.

  Args:
    run: the run of a gesture model.
    encode: see `Abilities`; only where there are true clips.
  """
  return Abilities(
    encode=encode,
    sequence=_sequence(run),
    auto=functools.cache(functools.partial(_auto, run)),
    like=functools.partial(_like, run),
    medoid=functools.partial(_medoid, run),
    offset=functools.partial(_offset, run),
  )


def _sequence(run: Run) -> Callable[[int], Director] | None:
  size = run.method.noise_size
  if size is None:
    return None
  from sdt_jax.templates.sequence import SequenceDirector

  draw = jax.jit(run.method.draw_templates)
  return functools.partial(
    SequenceDirector, lambda noise: draw(run.state, noise[None])[0], size
  )


def _auto(run: Run, folder: str) -> Callable[[int], Director]:
  from sdt_jax.templates import auto

  return auto.load(run.path, _bank(run, "--template=auto"), folder or None)


def _like(run: Run, what: str) -> np.ndarray:
  from sdt_jax.templates import like

  return like.find(run, what)


def _medoid(run: Run, spec: str) -> int:
  from sdt_jax.templates import map as template_map

  return template_map.medoid(run.path, spec, _bank(run, f"--template={spec}"))


def _offset(run: Run, spec: str) -> np.ndarray:
  from sdt_jax.templates import directions

  found = directions.read(run.path)
  size = _bank(run, f"--direction={spec}").shape[-1]
  if found.vectors.shape[-1] != size or found.step != run.step:
    raise UserError(
      f"--direction={spec}: the directions in {run.path} are of step {found.step} with "
      f"{found.vectors.shape[-1]} dimensions, not of step {run.step} with {size}; run "
      f"python -m sdt_jax.templates.directions --workdir={run.path} --step={run.step}"
    )
  return found.offset(spec)


def _bank(run: Run, flag: str) -> np.ndarray:
  bank = run.method.bank(run.state)
  if bank is None:
    raise UserError(f"{flag}: this model has no templates; leave it out")
  return bank
