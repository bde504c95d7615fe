"""Which template a rendering gets: what `--template` may say.

random     a row of the bank, drawn by the seed, another for each rendering
7          row 7 of the bank
7:12       a blend: from row 7 to row 12 over the renderings
FILE.npz   array `template`: (D,) or (S, D) for S renderings, or (S, T, D) for
           templates that change from frame to frame
"""

import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sdt_jax import files
from sdt_jax.errors import UserError


class Template(NamedTuple):
  """A template and how to call it.

  Attributes:
    name: such as "index 7".
    code: (D,), or (T, D) for one that changes from frame to frame.
  """

  name: str
  code: np.ndarray


def choose(
  spec: str, bank: np.ndarray | None, count: int, seed: int
) -> list[Template | None]:
  """A template for each of `count` renderings.

  Args:
    spec: see above.
    bank: (N, D) or (N, T, D) templates of the training clips; None for a model without
      templates, whose renderings get None.
    count: number of renderings.
    seed: of "random".

  Raises:
    UserError: the spec cannot be read, or does not fit the bank.
  """
  if bank is None:
    if spec != "random":
      raise UserError(f"--template={spec}: this model has no templates; leave it out")
    return [None] * count
  if spec == "random":
    rows = np.random.default_rng(seed).integers(len(bank), size=count)
    return [Template(f"index {row}", bank[row]) for row in rows]
  if re.fullmatch(r"-?\d+", spec):
    row = _row(spec, spec, len(bank))
    return [Template(f"index {row}", bank[row])] * count
  if re.fullmatch(r"-?\d+:-?\d+", spec):
    first, last = (_row(part, spec, len(bank)) for part in spec.split(":"))
    return list(_blend(bank, first, last, count))
  if spec.endswith(".npz"):
    codes = _read(pathlib.Path(spec), bank.shape[-1])
    return [
      Template(f"{spec}[{i % len(codes)}]", codes[i % len(codes)]) for i in range(count)
    ]
  raise UserError(
    f"--template={spec}: expected random, an index, INDEX:INDEX or a .npz file"
  )


def check(code: np.ndarray, bank: np.ndarray | None) -> np.ndarray:
  """The template `code`, (D,) or (T, D), as float32.

  Raises:
    UserError: it does not fit the templates of `bank`.
  """
  if bank is None:
    raise UserError("template: this model has no templates; leave it out")
  size = bank.shape[-1]
  if code.ndim not in (1, 2) or code.shape[-1] != size or not code.size:
    raise UserError(
      f"template: has shape {code.shape}, expected ({size},) or (frames, {size})"
    )
  if not np.isfinite(code).all():
    raise UserError("template: holds NaN or infinite numbers")
  return code.astype(np.float32)


def _row(text: str, spec: str, size: int) -> int:
  row = int(text[:20])  # beyond, no bank is as large, and Python refuses 4300 digits
  if not 0 <= row < size:
    raise UserError(
      f"--template={spec}: index {row} is outside the bank of {size} templates; "
      f"give 0 to {size - 1}"
    )
  return row


def _blend(bank, first: int, last: int, count: int) -> Iterator[Template]:
  """From one row to the other; a single rendering stands in the middle."""
  for w in np.linspace(0, 1, count) if count > 1 else [0.5]:
    name = f"index {first} x {1 - w:.2f} + index {last} x {w:.2f}"
    yield Template(name, ((1 - w) * bank[first] + w * bank[last]).astype(np.float32))


def _read(path: pathlib.Path, size: int) -> np.ndarray:
  """Array `template` of a file, one row for each rendering."""
  try:
    array = files.read_arrays(path, "template")["template"]
  except UserError as e:
    raise UserError(f"--template={e}") from e
  if array.dtype.kind not in "fiu":
    raise UserError(
      f"--template={path}: 'template' has type {array.dtype}; give numbers"
    )
  with np.errstate(over="ignore"):  # infinite ones are refused below
    codes = array.astype(np.float32)
  if codes.ndim == 1:
    codes = codes[None]
  if codes.ndim not in (2, 3) or codes.shape[-1] != size or not codes.size:
    raise UserError(
      f"--template={path}: 'template' has shape {codes.shape}, expected ({size},), "
      f"(renderings, {size}) or (renderings, frames, {size})"
    )
  if not np.isfinite(codes).all():
    raise UserError(f"--template={path}: 'template' holds NaN or infinite numbers")
  return codes
