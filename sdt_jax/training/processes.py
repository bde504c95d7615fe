"""Runs that consist of several processes, on one or more machines.

Without a call of `start` there is a single process. With several, each runs the same
program on its own devices and its own share of the data. Process 0 writes all files
except checkpoints, which all processes write together. All functions here except
`is_main` and `share` are collective: every process must call them.
"""

import atexit
import contextlib
import signal
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
_WAIT_S = 300  # until process 0 listens; JAX itself waits as long for the others
_EXIT_S = 30  # after an error, for JAX, which at exit waits for the other processes
_SHARED = "The other processes of the run received this error, too."


def start(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Connects the processes of a run; must precede every other use of JAX.

  Args:
    coordinator: None for a single process; "auto" to use the settings of Slurm, a TPU
      pod, Open MPI or Kubernetes; or HOST:PORT, the address where process 0 listens.
    num_processes, process_id: required with HOST:PORT.

  Raises:
    UserError: the flags are inconsistent, or the processes cannot connect.
  """
  if coordinator is None:
    if num_processes is not None or process_id is not None:
      raise UserError("--num_processes, --process_id: need --coordinator=HOST:PORT")
    return
  if coordinator == "auto":
    where = (None, None, None)
  else:
    _check_address(coordinator, num_processes, process_id)
    where = (coordinator, num_processes, process_id)
  try:
    jax.distributed.initialize(*where)
  except (RuntimeError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise UserError(
      f"--coordinator={coordinator}: the processes cannot connect ({reason}); give "
      "HOST:PORT, --num_processes and --process_id"
    ) from e


def _check_address(
  coordinator: str, num_processes: int | None, process_id: int | None
) -> None:
  """Checks the flags, because JAX would abort the process on a bad address."""
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, or auto")
  if num_processes is None or process_id is None:
    raise UserError(
      f"--coordinator={coordinator}: also give --num_processes and --process_id"
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
  """Waits until the port accepts connections; finally raises the last OSError."""
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
  """Returns whether this process writes the logs, videos and other files."""
  return jax.process_index() == 0


@contextlib.contextmanager
def errors_shared() -> Iterator[None]:
  """Raises an error of one process in all of them, so that none waits forever.

  A process where the block raised an exception re-raises it; the others raise a
  UserError. Such blocks may be nested. A process that does not catch the error ends
  within seconds, even if another one hangs.
  """
  error = None
  try:
    yield
  except Exception as e:
    if jax.process_count() == 1 or _SHARED in getattr(e, "__notes__", ()):
      raise
    error = e
  if jax.process_count() == 1:
    return
  text = _describe(error).encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
  texts = multihost_utils.process_allgather(np.frombuffer(text, np.uint8))
  messages = [bytes(t).rstrip(b"\0").decode(errors="ignore") for t in texts]
  if any(messages):
    error = error or UserError(next(filter(None, messages)))
    error.add_note(_SHARED)
    atexit.register(signal.alarm, _EXIT_S)
    raise error


def _describe(error: Exception | None) -> str:
  """Returns what the other processes report."""
  if error is None or isinstance(error, UserError):
    return str(error or "")
  reason = " ".join(str(error).split())
  return (
    f"process {jax.process_index()} failed with {type(error).__name__}: {reason}; "
    "see the traceback of that process"
  )


def in_turn(make: Callable[[], T]) -> T:
  """Calls `make` in process 0, then in the others, which find its files on disk.

  Returns:
    The result of this process's call.

  Raises:
    Exception: `make` failed in one of the processes; see `errors_shared`.
  """
  made = None
  for main in (True, False):
    with errors_shared():
      if is_main() == main:
        made = make()
  return made  # pyright: ignore[reportReturnType]


def any_process(*flags: bool, ask: bool = True) -> tuple[bool, ...]:
  """Returns, for each flag, whether it is set in at least one process.

  With several processes this waits for the devices. Pass `ask=False`, in all of them,
  to skip the exchange; every flag is then False.
  """
  if jax.process_count() == 1:
    return flags
  if not ask:
    return (False,) * len(flags)
  everywhere = multihost_utils.process_allgather(np.array(flags))
  return tuple(bool(flag) for flag in everywhere.any(axis=0))


def share() -> dict[str, int]:
  """Returns this process's share of every batch, as arguments of `data.pipeline`."""
  return {"process_index": jax.process_index(), "process_count": jax.process_count()}
