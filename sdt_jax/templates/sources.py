"""Where templates come from at generation time: what `--template` accepts.

random     rows of the bank, drawn with the seed
normal     standard normal numbers, drawn with the seed
encoder    the pose VAE's mean of the true poses (evaluation only)
7          row 7 of the bank
7:12       a blend: from row 7 to row 12 over the renderings
FILE.npz   array `condition_code`: (D,) or (S, D) for S renderings, or (S, T, D) for
           templates that change over time; demo.py and eval.py write such files

Demo, evaluation and validation all call `choose`. A new source is one function and one
line in `SOURCES`.
"""

import contextlib
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdt_jax import files
from sdt_jax.errors import UserError


class Chosen(NamedTuple):
  """The templates of one rendering.

  Attributes:
    name: for labels, for example "index 7".
    codes: (num_clips, D) or (num_clips, T, D) float32.
  """

  name: str
  codes: np.ndarray


class Request(NamedTuple):
  """What a source chooses from.

  Attributes:
    spec: the text.
    bank: (N, D) or (N, T, D) templates of the training clips.
    num_samples: number of renderings.
    num_clips: number of clips in each rendering.
    seed: for sources that draw.
    encode: gives (num_clips, D) templates of the true clips; None if there are none.
  """

  spec: str
  bank: np.ndarray
  num_samples: int
  num_clips: int
  seed: int
  encode: Callable[[], np.ndarray] | None


def choose(
  spec: str,
  bank: np.ndarray | None,
  *,
  num_samples: int = 1,
  num_clips: int = 1,
  seed: int = 0,
  encode: Callable[[], np.ndarray] | None = None,
) -> list[Chosen | None]:
  """The templates of each rendering.

  Args:
    spec: see above.
    bank: templates of the training clips; None for a model without templates, whose
      renderings get None.
    num_samples, num_clips, seed, encode: see `Request`.

  Raises:
    UserError: the spec is unknown or does not fit the bank, or num_samples is not
      positive.
  """
  if num_samples < 1:
    raise UserError(f"--num_samples={num_samples}: give at least 1")
  if bank is None:
    if spec != "random":
      raise UserError(f"--template={spec}: this model has no templates; leave it out")
    return [None] * num_samples
  request = Request(spec, bank, num_samples, num_clips, seed, encode)
  for pattern, source in SOURCES.items():
    if re.fullmatch(pattern, spec):
      return list(source(request))
  raise UserError(
    f"--template={spec}: expected random, normal, encoder, INDEX, INDEX:INDEX or a "
    ".npz file"
  )


def check_array(code: np.ndarray, bank: np.ndarray | None) -> np.ndarray:
  """A template given as an array, (D,) or (T, D), as float32.

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
    raise UserError("template: contains NaN or infinite numbers")
  return code.astype(np.float32)


def _random(request: Request) -> list[Chosen]:
  rng = np.random.default_rng(request.seed)
  shape = (request.num_samples, request.num_clips)
  rows = rng.integers(len(request.bank), size=shape)
  return [
    Chosen(f"index {r[0]}" if len(r) == 1 else "random", request.bank[r]) for r in rows
  ]


def _normal(request: Request) -> list[Chosen]:
  rng = np.random.default_rng(request.seed)
  shape = (request.num_samples, request.num_clips, *request.bank.shape[1:])
  codes = rng.standard_normal(shape).astype(np.float32)
  return [Chosen(f"normal {i}", code) for i, code in enumerate(codes)]


def _encoder(request: Request) -> list[Chosen]:
  if request.encode is None:
    raise UserError("--template=encoder: needs true poses, which only eval.py has")
  return [Chosen("encoder", request.encode())] * request.num_samples


def _index(request: Request) -> list[Chosen]:
  row = _row(request.spec, request)
  return [_constant(f"index {row}", request.bank[row], request)] * request.num_samples


def _blend(request: Request) -> list[Chosen]:
  first, last = (_row(part, request) for part in request.spec.split(":"))
  count, bank = request.num_samples, request.bank
  # A single rendering gets the middle.
  weights = np.linspace(0, 1, count) if count > 1 else [0.5]
  return [
    _constant(
      f"index {first} x {1 - w:.2f} + index {last} x {w:.2f}",
      ((1 - w) * bank[first] + w * bank[last]).astype(np.float32),
      request,
    )
    for w in weights
  ]


def _file(request: Request) -> list[Chosen]:
  codes = _read(pathlib.Path(request.spec), request.bank.shape[-1])
  rows = [i % len(codes) for i in range(request.num_samples)]
  return [_constant(f"{request.spec}[{row}]", codes[row], request) for row in rows]


SOURCES: dict[str, Callable[[Request], list[Chosen]]] = {
  "random": _random,
  "normal": _normal,
  "encoder": _encoder,
  r"-?\d+": _index,
  r"-?\d+:-?\d+": _blend,
  r"(?s:.*)\.npz": _file,
}
"""Pattern of the whole spec -> the source; the first match is taken."""


def _constant(name: str, code: np.ndarray, request: Request) -> Chosen:
  """One template for every clip."""
  return Chosen(name, np.repeat(code[None], request.num_clips, axis=0))


def _row(text: str, request: Request) -> int:
  size = len(request.bank)
  row = int(text[:20])  # enough for any bank; Python refuses 4300 digits
  if not 0 <= row < size:
    raise UserError(
      f"--template={request.spec}: index {row} is outside the bank of {size} "
      f"templates; give 0 to {size - 1}"
    )
  return row


def _read(path: pathlib.Path, size: int) -> np.ndarray:
  """The templates in a file, one row for each rendering."""
  key = _key(path)
  try:
    array = files.read_arrays(path, key)[key]
  except UserError as e:
    raise UserError(f"--template={e}") from e
  if array.dtype.kind not in "fiu":
    raise UserError(f"--template={path}: {key!r} has type {array.dtype}; give numbers")
  with np.errstate(over="ignore"):  # infinite numbers are refused below
    codes = array.astype(np.float32)
  if codes.ndim == 1:
    codes = codes[None]
  if codes.ndim not in (2, 3) or codes.shape[-1] != size or not codes.size:
    raise UserError(
      f"--template={path}: {key!r} has shape {codes.shape}, expected ({size},), "
      f"(renderings, {size}) or (renderings, frames, {size})"
    )
  if not np.isfinite(codes).all():
    raise UserError(f"--template={path}: {key!r} contains NaN or infinite numbers")
  return codes


def _key(path: pathlib.Path) -> str:
  """Name of the array: `condition_code`, or `template` in files of older versions."""
  with contextlib.suppress(Exception):  # `read_arrays` reports what is wrong
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
    if "condition_code.npy" not in names and "template.npy" in names:
      return "template"
  return "condition_code"
