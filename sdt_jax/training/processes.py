"""The processes of a run: one, or several on one or many machines.

Without `start` there is one. With several, each runs the same program on its own
devices and its own share of the data; what is written is written by process 0, but for
checkpoints, which all write together. Every function here but `is_main` must then be
called by all of them.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sdt_jax.errors import UserError

T = TypeVar("T")

_MESSAGE_BYTES = 2000
_WAIT_S = 300  # for process 0 to listen; as long as JAX waits for the others


def start(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Joins the processes of a run; to be called before anything else of JAX.

  Args:
    coordinator: None for a single process; "auto" for what Slurm, a TPU pod, Open MPI
      or Kubernetes tells; or HOST:PORT, where process 0 listens.
    num_processes, process_id: with HOST:PORT.

  Raises:
    UserError: the flags do not belong together, or the processes do not meet.
  """
  if coordinator is None:
    if num_processes is not None or process_id is not None:
      raise UserError("--num_processes, --process_id: need --coordinator=HOST:PORT")
    return
  where = {}
  if coordinator != "auto":
    _check_address(coordinator, num_processes, process_id)
    where = {
      "coordinator_address": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
    }
  try:
    jax.distributed.initialize(**where)
  except (RuntimeError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f"--coordinator={coordinator}: the processes do not meet ({reason}); give "
      "HOST:PORT, --num_processes and --process_id"
    ) from e


def _check_address(
  coordinator: str, num_processes: int | None, process_id: int | None
) -> None:
  """Finds what is wrong with the flags; JAX itself would abort the process."""
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, or auto")
  if num_processes is None or process_id is None:
    raise UserError(
      f"--coordinator={coordinator}: give --num_processes and --process_id, too"
    )
  if not 0 <= process_id < num_processes:
    raise UserError(
      f"--process_id={process_id}: expected 0 to {num_processes - 1}, for "
      f"--num_processes={num_processes}"
    )
  try:
    if process_id == 0:
      socket.create_server(("", int(port))).close()
    else:
      _wait_for(host, int(port))
  except OSError as e:
    task = "listen on" if process_id == 0 else "reach"
    raise UserError(
      f"--coordinator={coordinator}: process {process_id} cannot {task} it "
      f"({e.strerror or e}); give the address of process 0 and a free port"
    ) from e


def _wait_for(host: str, port: int) -> None:
  """Returns when somebody listens there; raises the last OSError if nobody does."""
  deadline = time.monotonic() + _WAIT_S
  while True:
    try:
      socket.create_connection((host, port), timeout=10).close()
      return
    except ConnectionRefusedError:  # not yet
      if time.monotonic() > deadline:
        raise
      time.sleep(0.5)


def is_main() -> bool:
  """Whether this process is the one that writes logs, videos and files."""
  return jax.process_index() == 0


class _SharedError(UserError):
  """An error that all processes have been told."""


@contextlib.contextmanager
def errors_shared() -> Iterator[None]:
  """Raises a UserError of one process in all of them, so that none waits for it."""
  error = None
  try:
    yield
  except _SharedError:
    raise
  except UserError as e:
    error = e
  if jax.process_count() == 1:
    if error:
      raise error
    return
  text = str(error or "").encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
  texts = multihost_utils.process_allgather(np.frombuffer(text, np.uint8))
  for message in (bytes(t).rstrip(b"\0").decode(errors="ignore") for t in texts):
    if message:
      raise _SharedError(message) from error


def in_turn(make: Callable[[], T]) -> T:
  """`make()` in process 0, then in the others, which find what it left on the disk.

  Raises:
    UserError: what one of them raised, in all.
  """
  made = None
  for main in (True, False):
    with errors_shared():
      if is_main() == main:
        made = make()
  return made  # pyright: ignore[reportReturnType]


def any_process(*flags: bool, ask: bool = True) -> tuple[bool, ...]:
  """For each flag, whether it is set in one of the processes.

  To ask the others waits for the devices; without `ask` the answer is then no.
  """
  if jax.process_count() == 1:
    return flags
  if not ask:
    return (False,) * len(flags)
  everywhere = multihost_utils.process_allgather(np.array(flags))
  return tuple(bool(flag) for flag in everywhere.any(axis=0))


def share() -> dict[str, int]:
  """This process's share of every batch, as `data.pipeline` takes it."""
  return {"process_index": jax.process_index(), "process_count": jax.process_count()}
