"""Maps parameter names of the original PyTorch code to ours.

Each table below maps name prefixes of one network, in the order in which the original
creates its layers; the original's optimizers number the parameters in this order. A
prefix stands for a block (convolution or linear layer, and norm) or a plain output
layer. PyTorch stores a kernel as (out, in, *spatial), Flax as (*spatial, in, out).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from sdt_jax.errors import UserError

Path = tuple[str, ...]

_BLOCK = {
  "conv.weight": ("params", "conv", "kernel"),
  "fc.weight": ("params", "fc", "kernel"),
  "norm.weight": ("params", "norm", "scale"),
  "norm.bias": ("params", "norm", "bias"),
  "norm.running_mean": ("batch_stats", "norm", "mean"),
  "norm.running_var": ("batch_stats", "norm", "var"),
}
_COUNTER = "norm.num_batches_tracked"  # unused by the original and by us
_PLAIN = {  # by the end of our prefix
  "output": {
    "weight": ("params", "conv", "kernel"),
    "bias": ("params", "conv", "bias"),
  },
  "linear": {"weight": ("params", "kernel"), "bias": ("params", "bias")},
}

GENERATOR = {
  **{
    f"audio_encoder.specgram_encoder_2d.{stage}.{j}": f"audio_encoder/stage{stage}_{ab}"
    for stage in range(4)
    for j, ab in enumerate("ab")
  },
  **{f"unet.e{i}": f"unet/e{i}" for i in range(7)},
  **{f"unet.d{i}": f"unet/d{i}" for i in range(5, 0, -1)},
  **{f"decoder.{i}": f"decoder_{i}" for i in range(4)},
  "decoder.4": "output",
}
DISCRIMINATOR = {**{f"seq.{i}": f"block{i}" for i in range(3)}, "seq.3": "output"}
CODE_MAPPER = {**{f"blocks.{i}": f"block{i}" for i in range(7)}, "blocks.7": "output"}
CODE_DISCRIMINATOR = {**{f"seq.{i}": f"block{i}" for i in range(7)}, "seq.7": "linear"}
POSE_ENCODER = {f"blocks.{i}": f"block{i}" for i in range(7)}
POSE_VAE = {
  **{f"encoder.{torch}": f"encoder/{ours}" for torch, ours in POSE_ENCODER.items()},
  **{f"decoder.d{i}": f"decoder/d{i}" for i in range(5, 0, -1)},
  **{f"decoder.blocks.{i}": f"decoder/block{i}" for i in range(4)},
  "decoder.blocks.4": "decoder/output",
}


def _entries(network: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
  """Yields every (PyTorch name, our path) that `network` can contain."""
  for torch_prefix, our_prefix in network.items():
    parts = tuple(our_prefix.split("/"))
    leaves = _PLAIN.get(parts[-1], _BLOCK)
    for suffix, (collection, *rest) in leaves.items():
      yield f"{torch_prefix}.{suffix}", (collection, *parts, *rest)


def known(network: Mapping[str, str], prefix: str = "") -> set[str]:
  """Returns every name of `network` in the original, including the counters."""
  return {prefix + name for name, _ in _entries(network)} | {
    f"{prefix}{block}.{_COUNTER}" for block in network
  }


def to_flax(
  state: Mapping[str, np.ndarray],
  network: Mapping[str, str],
  target: Mapping[str, Any],
  prefix: str = "",
) -> dict[str, Any]:
  """Converts the original's state dict to variables of a Flax network.

  Args:
    state: PyTorch name -> array; only names that begin with `prefix` are used.
    network: one of the tables above.
    target: variables of our network ("params" and optionally "batch_stats") whose
      leaves have the expected shapes.
    prefix: prefix of the network in `state`, such as "netG.".

  Returns:
    Variables with the structure of `target`, float32.

  Raises:
    UserError: a name is missing or left over on either side, or a shape differs.
  """
  wanted: dict[Path, Any] = flax.traverse_util.flatten_dict(dict(target))
  table = {prefix + name: path for name, path in _entries(network) if path in wanted}
  ours = {
    name
    for name in state
    if name.startswith(prefix) and not name.endswith(f".{_COUNTER}")
  }
  unnamed = {"/".join(path) for path in set(wanted) - set(table.values())}
  require_none(
    {
      "the file lacks": set(table) - ours,
      "the file has, but the network does not,": ours - set(table),
      "the table does not name": unnamed,
    }
  )

  variables = {}
  for name, path in table.items():
    array = np.asarray(state[name], np.float32)
    if path[-1] == "kernel":
      array = array.transpose(*range(2, array.ndim), 1, 0)
    if array.shape != wanted[path].shape:
      raise UserError(
        f"{name}: shape {array.shape} as {'/'.join(path)}, "
        f"expected {wanted[path].shape}; is the config that of this checkpoint?"
      )
    variables[path] = array
  return flax.traverse_util.unflatten_dict(variables)


def from_flax(
  variables: Mapping[str, Any], network: Mapping[str, str], prefix: str = ""
) -> dict[str, np.ndarray]:
  """Inverse of `to_flax`: returns arrays by the original's names, in its layouts."""
  flat = flax.traverse_util.flatten_dict(dict(variables))
  state = {}
  for name, path in _entries(network):
    if path in flat:
      array = np.asarray(flat[path])
      if path[-1] == "kernel":
        array = array.transpose(-1, -2, *range(array.ndim - 2))
      state[prefix + name] = np.ascontiguousarray(array)
  return state


def require_none(problems: Mapping[str, set[str]]) -> None:
  """Raises a UserError that lists all names of all problems, if there are any."""
  lines = [
    f"{what} {', '.join(sorted(names))}" for what, names in problems.items() if names
  ]
  if lines:
    raise UserError(f"parameter names do not match: {'; '.join(lines)}")
