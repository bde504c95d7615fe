"""What a trained run contributes to choosing its templates."""

import functools
from collections.abc import Callable

import numpy as np

from sdt_jax.templates.sources import Abilities
from sdt_jax.training.runs import Run


def of(run: Run, encode: Callable[[], np.ndarray] | None = None) -> Abilities:
  """The abilities of a run; nothing is opened before it is asked for.

  Args:
    run: the run of a gesture model.
    encode: see `Abilities`; only where there are true clips.
  """
  return Abilities(encode=encode, like=functools.partial(_like, run))


def _like(run: Run, what: str) -> np.ndarray:
  from sdt_jax.templates import like

  return like.find(run, what)
