"""Maps a per-device step over all devices; the only file that names devices and meshes.

A step is written for one device: it sees its share of the batch and the axis name
`methods.base.AXIS`. It is mapped by `jax.jit(jax.shard_map(...))` or by `jax.pmap`,
with the same results: the state is replicated, batches and per-clip outputs are split
along their first axis. The devices may belong to several processes (see `processes`),
which must then all call these functions in the same order.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sdt_jax.errors import UserError
from sdt_jax.methods.base import AXIS

Mode = Literal["jit", "pmap"]
Tree = Any


@functools.cache
def _mesh() -> jax.sharding.Mesh:
  # Not `jax.make_mesh`, which may reorder devices: batch rows are grouped by process.
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int) -> None:
  """Raises a UserError unless the batch can be split over all devices."""
  if batch_size % jax.device_count():
    raise UserError(
      f"batch_size {batch_size} is not divisible by the {jax.device_count()} devices; "
      "give a multiple"
    )


def describe() -> str:
  """For example "JAX 0.10.2 on 8 cpu device(s)"."""
  platform = jax.devices()[0].platform
  return f"JAX {jax.__version__} on {jax.device_count()} {platform} device(s)"


def device_memory() -> float:
  """Memory of a device of this process, in bytes."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  # CPU devices share the memory of the machine.
  size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return size / jax.local_device_count()


def is_cpu() -> bool:
  """Whether the devices are CPUs."""
  return jax.default_backend() == "cpu"


def round_up(batch_size: int) -> int:
  """The next batch size that can be split over all devices."""
  devices = jax.device_count()
  return -(-batch_size // devices) * devices


def replicate(tree: Tree) -> Tree:
  """Puts a tree of arrays, equal in all processes, on every device."""
  sharding = NamedSharding(_mesh(), P())

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, tree)


def on_one_device(tree: Tree) -> Tree:
  """Copies a replicated tree to one device, where functions of it then run."""
  return jax.device_put(jax.device_get(tree), jax.local_devices()[0])


def replicated_shapes(make: Callable[[], Tree]) -> Tree:
  """Shapes and sharding of `replicate(make())`; nothing is compiled or run."""
  sharding = NamedSharding(_mesh(), P())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(make),
  )


def split(batch: Tree, axis: int = 0) -> Tree:
  """Spreads this process's part of a batch over its devices, along an axis."""
  sharding = NamedSharding(_mesh(), _along(axis))
  return jax.tree.map(
    functools.partial(jax.make_array_from_process_local_data, sharding), batch
  )


def _along(axis: int) -> P:
  return P(*[None] * axis, AXIS)


def map_steps(step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]], mode: Mode):
  """Maps a training step over all devices, and runs several steps per dispatch.

  Args:
    step: per-device `(state, data, x) -> (state, metrics)`; both results must be the
      same on every device.
    mode: "jit" for jit + shard_map, "pmap" for pmap.

  Returns:
    Function `(state, data, xs, count) -> (state, metrics)` that runs `count` steps; jit
    donates `state`. `data` is replicated (see `replicate`) and common to all steps;
    `xs` (K, b, ...) has one entry per step and clip, from `split(xs, axis=1)`. The
    metrics have shape (K,); the first `count` entries are valid. Compiled once for
    each K.
  """
  return _map(functools.partial(_steps, step), mode, (None, None, 1, None), None, (0,))


def _steps(step, state, data, xs, count):
  """Per-device: see `map_steps`."""
  length = jax.tree.leaves(xs)[0].shape[0]
  if length == 1:  # XLA on CPUs is faster without a loop
    state, metrics = step(state, data, jax.tree.map(lambda x: x[0], xs))
    return state, jax.tree.map(lambda m: m[None], metrics)

  def one(i, state):
    return step(state, data, jax.tree.map(lambda x: x[i], xs))

  def body(i, carry):
    state, collected = carry
    state, metrics = one(i, state)
    return state, jax.tree.map(lambda t, m: t.at[i].set(m), collected, metrics)

  _, shapes = jax.eval_shape(one, 0, state)
  collected = jax.tree.map(lambda m: jnp.zeros((length, *m.shape), m.dtype), shapes)
  return jax.lax.fori_loop(0, count, body, (state, collected))


def map_clips(function: Callable[[Tree, Tree], Tree], mode: Mode):
  """Maps `function(state, batch) -> outputs`, with one output row for each clip."""
  return _map(function, mode, (None, 0), 0, ())


def _map(function, mode: Mode, in_axes: tuple, out_axis: int | None, donated: tuple):
  """Maps `function` over all devices; the axis None means replicated."""
  specs = [P() if axis is None else _along(axis) for axis in in_axes]
  out_spec = P() if out_axis is None else _along(out_axis)
  if mode == "pmap":
    return _pmap(function, in_axes, specs, out_axis, out_spec)
  mapped = jax.shard_map(
    function, mesh=_mesh(), in_specs=tuple(specs), out_specs=out_spec, check_vma=False
  )  # with check_vma, pmean of gradients would count every device twice
  return jax.jit(mapped, donate_argnums=donated, compiler_options=compiler_options())


@functools.cache
def compiler_options() -> dict[str, str]:
  """Options that keep XLA on CPUs from using YNNPACK for convolutions.

  YNNPACK takes twice as long as Eigen for the gradients of kernels. It is faster for
  sums, so those stay with it. Empty if this XLA does not know the option.
  """
  if not is_cpu():
    return {}
  options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def _pmap(function, in_axes, specs, out_axis, out_spec):
  mapped = jax.pmap(function, axis_name=AXIS, in_axes=in_axes, out_axes=out_axis)

  def run(*args):
    # pmap sees only the devices of its own process, along an axis of their own.
    local = (
      multihost_utils.global_array_to_host_local_array(arg, _mesh(), spec)
      for arg, spec in zip(args, specs, strict=True)
    )
    shares = (
      jax.tree.map(functools.partial(_to_shares, axis=axis), arg)
      for arg, axis in zip(local, in_axes, strict=True)
    )
    outputs = jax.tree.map(
      functools.partial(_from_shares, axis=out_axis), mapped(*shares)
    )
    return multihost_utils.host_local_array_to_global_array(outputs, _mesh(), out_spec)

  return run


def _to_shares(x, axis: int | None):
  if axis is None:
    return x
  return x.reshape(*x.shape[:axis], jax.local_device_count(), -1, *x.shape[axis + 1 :])


def _from_shares(x, axis: int | None):
  if axis is None:
    return x
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def fetch(tree: Tree) -> Tree:
  """NumPy copies of arrays that may be sharded over devices and processes."""
  return multihost_utils.process_allgather(tree, tiled=True)
