"""bfloat16 changes only the activations; a step gives nearly the same result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sdt_jax import keypoints as kp
from sdt_jax import methods
from sdt_jax.methods import base
from sdt_jax.training import parallel, runs

pytestmark = pytest.mark.usefixtures("compile_fast")

_S2G = {"template.kind": "none", "generator.norm": "bn", "discriminator.weight": 0.1}
_EXPERIMENTS = {"s2g": _S2G, "sdt_bp": {}, "pose2pose": {"experiment": "pose2pose"}}


def _step(fields: dict, precision: str):
  config = tiny.config("data", precision=precision, **fields)
  method = methods.build(config, 10)
  rng = np.random.default_rng(0)
  batch = {
    "audio": 0.1 * rng.standard_normal((1, 8, 8000)).astype(np.float32),
    "poses": rng.standard_normal((1, 8, 64, *kp.UPPER_BODY.shape)).astype(np.float32),
    "index": np.arange(8, dtype=np.int32)[None],
  }

  def step(state, data, x):
    return method.train_step(state, x, base.step_key(0, state.step))[:2]

  steps = parallel.map_steps(step, "jit")
  state = parallel.replicate(runs.init_state(method, 0, 8))
  text = steps.lower(state, (), parallel.split(batch, axis=1), 1).as_text()
  return *steps(state, (), parallel.split(batch, axis=1), 1), text


@pytest.mark.parametrize("fields", _EXPERIMENTS.values(), ids=_EXPERIMENTS)
def test_bf16_changes_only_the_activations(fields):
  state, metrics, text = _step(fields, "bf16")
  exact_state, exact, exact_text = _step(fields, "float32")
  convolutions = [x for x in text.splitlines() if "stablehlo.convolution" in x]
  assert sum("bf16" in line for line in convolutions) > len(convolutions) // 2
  assert "bf16" not in exact_text
  kinds = {x.dtype for x in jax.tree.leaves((state, metrics))}
  assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
  assert metrics.keys() == exact.keys()
  # The scores of an untrained discriminator are not compared: small changes flip them.
  np.testing.assert_allclose(metrics["l1"], exact["l1"], rtol=0.02)
  assert all(np.isfinite(value).all() for value in metrics.values())
  for name in state.batch_stats:
    ours, theirs = state.batch_stats[name], exact_state.batch_stats[name]
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=0.1, atol=0.02), ours, theirs
    )
