"""Maps a per-device step over all devices; the only file that names them.

A step sees its share of the batch and the axis name "data". `map_step` maps it by
`jax.jit(jax.shard_map(...))` or by `jax.pmap`, with the same results: the state is the
same on every device, batches (and per-clip outputs) are split along their first axis.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sdt_jax.errors import UserError
from sdt_jax.training.voice2pose import AXIS

Mode = Literal["jit", "pmap"]
Tree = Any


@functools.cache
def _mesh() -> jax.sharding.Mesh:
  return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int) -> None:
  """Raises a UserError unless the batch can be split over all devices."""
  if batch_size % jax.device_count():
    raise UserError(
      f"batch_size {batch_size} is not divisible by the {jax.device_count()} devices; "
      "give a multiple"
    )


def describe() -> str:
  """Such as "JAX 0.10.2 on 8 cpu device(s)"."""
  platform = jax.devices()[0].platform
  return f"JAX {jax.__version__} on {jax.device_count()} {platform} device(s)"


def round_up(batch_size: int) -> int:
  """The next batch size that can be split over all devices."""
  devices = jax.device_count()
  return -(-batch_size // devices) * devices


def on_one_device(tree: Tree) -> Tree:
  """A copy of a tree of arrays on the first device of this process."""
  return jax.device_put(tree, jax.local_devices()[0])


def replicate(state: Tree) -> Tree:
  """Puts a tree of arrays on every device."""
  return jax.device_put(state, NamedSharding(_mesh(), PartitionSpec()))


def replicated_shapes(make: Callable[[], Tree]) -> Tree:
  """What `replicate(make())` would be, in shapes alone: nothing is compiled or run."""
  sharding = NamedSharding(_mesh(), PartitionSpec())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(make),
  )


def split(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Spreads this process's part of a batch over its devices, along the first axis."""
  sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in batch.items()
  }


def map_step(step: Callable[..., tuple[Tree, Tree]], mode: Mode):
  """Maps a training step over all devices.

  Args:
    step: per-device `(state, batch) -> (state, metrics)`; what it returns must be the
      same on every device.
    mode: "jit" for jit + shard_map, "pmap" for pmap.

  Returns:
    The same function of a state from `replicate`, which it consumes, and a batch from
    `split`.
  """
  return _map(step, mode, split_outputs=False, donate=True)


def map_clips(function: Callable[[Tree, Tree], Tree], mode: Mode):
  """Maps `function(state, batch) -> outputs`, with one output row for each clip."""
  return _map(function, mode, split_outputs=True, donate=False)


def _map(function, mode: Mode, split_outputs: bool, donate: bool):
  if mode == "pmap":
    return _pmap(function, split_outputs)
  outputs = PartitionSpec(AXIS) if split_outputs else PartitionSpec()
  mapped = jax.shard_map(
    function,
    mesh=_mesh(),
    in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
    out_specs=outputs,
    # With the check on, pmean of gradients counts the devices twice.
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=0 if donate else ())


def _pmap(function, split_outputs: bool):
  devices = jax.device_count()
  mapped = jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=0 if split_outputs else None,
  )

  def run(state, batch):
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    outputs = mapped(state, shares)
    if split_outputs:
      outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
    return outputs

  return run


def fetch(tree: Tree) -> Tree:
  """NumPy copies of arrays that may be spread over devices and processes."""
  return multihost_utils.process_allgather(tree, tiled=True)
