"""Everything that training changes, in one explicit tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
  """State of a run.

  Attributes:
    step: () int32, number of optimization steps so far.
    params: network name -> parameters; also "templates", (N, D) or (N, T, D), where
      they are learnt. Entries without an optimizer, such as averaged weights, are
      changed by the method itself.
    batch_stats: network name -> running statistics, {} where it has none.
    opt_states: entry of `params` -> state of its optimizer.
    bank: arrays with one row per training clip that no optimizer changes: "mean" (N, D)
      for templates from the encoder of another run; "mean" and "log_var" in a run that
      records the output of its encoder; else {}.
  """

  step: jax.Array
  params: Variables
  batch_stats: Variables
  opt_states: dict[str, optax.OptState]
  bank: dict[str, jax.Array]

  def network(self, name: str) -> Variables:
    """Variables of a network for `Module.apply`."""
    return {"params": self.params[name], "batch_stats": self.batch_stats[name]}

  def templates(self) -> jax.Array | None:
    """The template of each training clip, (N, D) or (N, T, D), or None."""
    return self.params.get("templates", self.bank.get("mean"))


def create(
  params: Variables,
  batch_stats: Variables,
  bank: dict[str, jax.Array],
  optimizers: dict[str, optax.GradientTransformation],
) -> TrainState:
  """State before the first step; optimizer state only for entries with an optimizer."""
  opt_states = {
    name: optimizers[name].init(params[name]) for name in params if name in optimizers
  }
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, batch_stats, opt_states, bank)


def apply_gradients(
  state: TrainState,
  grads: Variables,
  optimizers: dict[str, optax.GradientTransformation],
) -> TrainState:
  """One update of those entries of `params` that `grads` names."""
  params, opt_states = dict(state.params), dict(state.opt_states)
  for name, grad in grads.items():
    updates, opt_states[name] = optimizers[name].update(
      grad, opt_states[name], params[name]
    )
    params[name] = optax.apply_updates(params[name], updates)
  return state.replace(params=params, opt_states=opt_states)
