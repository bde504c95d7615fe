"""Where templates come from at generation time: what `--template` accepts.

random         rows of the bank, drawn with the seed
normal         standard normal numbers, drawn with the seed
7              row 7 of the bank
7:12           a blend: from row 7 to row 12 over the renderings
7:12:0.3       the same blend in every rendering: 0.7 x row 7 + 0.3 x row 12
FILE.npz       array `condition_code`: (D,) or (S, D) for S renderings, or (S, T, D) for
               templates that change over time; demo.py and eval.py write such files
FILE.json      a timeline, see `keyframes`
cluster:3      the medoid of cluster 3 of the bank, see `map`
like:FILE      the template of a clip or of a moment of a video, see `like`
sequence       templates over time, drawn by the code mapper of the model (section 4.4
               of the paper)
auto[:DIR]     templates over time, chosen by a model that hears the speech, see `auto`
encoder        the pose VAE's mean of the true poses (evaluation only)

Demo, evaluation and validation all call `choose`. A new source is one function and one
line in `SOURCES`.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from sdt_jax import files
from sdt_jax.errors import UserError
from sdt_jax.templates import keyframes
from sdt_jax.templates.director import Constant, Director, Moved

T = TypeVar("T")


class Chosen(NamedTuple):
  """The templates of one rendering.

  Attributes:
    name: for labels, for example "index 7".
    codes: (num_clips, D) or (num_clips, T, D) float32; None for templates that are
      chosen while the sound is heard.
    direct: makes what chooses them, given the number of the clip.
  """

  name: str
  codes: np.ndarray | None
  direct: Callable[[int], Director] | None = None

  def director(self, clip: int = 0) -> Director:
    """Chooses the templates of a clip; a new one."""
    if self.direct:
      return self.direct(clip)
    assert self.codes is not None
    return Constant(self.codes[clip])

  def code(self, sound: np.ndarray, clip: int = 0) -> np.ndarray:
    """The template of a clip, (D,) or (T, D), whose sound is (samples,) at 16 kHz."""
    if self.codes is not None:
      return self.codes[clip]
    return self.director(clip).direct(sound)

  def heard(self, sounds: Iterable[np.ndarray]) -> "Chosen":
    """The same with `codes`, given the sounds of the clips, all of one length."""
    if self.codes is not None:
      return self
    codes = [self.code(sound, clip) for clip, sound in enumerate(sounds)]
    return self._replace(codes=np.stack(codes))


@dataclasses.dataclass(frozen=True)
class Abilities:
  """What sources need of the model at hand; None for what it does not have.

  Attributes:
    encode: gives (num_clips, D) templates of the true clips.
    sequence: makes the director of a sequence, given a seed.
    auto: opens a model that chooses templates by the speech, given its folder or "" for
      the default one; the result makes a director, given a seed.
    like: the template (D,) of what FILE shows.
    medoid: row of the bank that stands for a cluster, given as "cluster:3".
    offset: what a text such as "energy:-1" adds to a template, (D,).
  """

  encode: Callable[[], np.ndarray] | None = None
  sequence: Callable[[int], Director] | None = None
  auto: Callable[[str], Callable[[int], Director]] | None = None
  like: Callable[[str], np.ndarray] | None = None
  medoid: Callable[[str], int] | None = None
  offset: Callable[[str], np.ndarray] | None = None


class Request(NamedTuple):
  """What a source chooses from.

  Attributes:
    spec: the text.
    bank: (N, D) or (N, T, D) templates of the training clips.
    num_samples: number of renderings.
    num_clips: number of clips in each rendering.
    seed: for sources that draw.
    abilities: of the model.
  """

  spec: str
  bank: np.ndarray
  num_samples: int
  num_clips: int
  seed: int
  abilities: Abilities


def choose(
  spec: str | list[keyframes.Keyframe],
  bank: np.ndarray | None,
  *,
  num_samples: int = 1,
  num_clips: int = 1,
  seed: int = 0,
  direction: str = "",
  abilities: Abilities = Abilities(),
) -> list[Chosen | None]:
  """The templates of each rendering.

  Args:
    spec: see above; or the keyframes of a timeline.
    bank: templates of the training clips; None for a model without templates, whose
      renderings get None.
    num_samples, num_clips, seed, abilities: see `Request`.
    direction: moves the templates, for example "hands_high:+1.5,energy:-1" (see
      `directions`).

  Raises:
    UserError: the spec is unknown or does not fit the bank or the model, or num_samples
      is not positive.
  """
  if num_samples < 1:
    raise UserError(f"--num_samples={num_samples}: give at least 1")
  if bank is None:
    if spec != "random":
      given = spec if isinstance(spec, str) else "<timeline>"
      raise UserError(f"--template={given}: this model has no templates; leave it out")
    if direction:
      raise UserError(
        f"--direction={direction}: this model has no templates; leave it out"
      )
    return [None] * num_samples
  request = Request(str(spec), bank, num_samples, num_clips, seed, abilities)
  chosen = _choose(request) if isinstance(spec, str) else _follow(spec, request)
  return list(_moved(chosen, direction, abilities))


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
  encode = request.abilities.encode
  if encode is None:
    raise UserError("--template=encoder: needs true poses, which only eval.py has")
  return [Chosen("encoder", encode())] * request.num_samples


def _index(request: Request) -> list[Chosen]:
  row = _row(request.spec, request)
  return [_constant(f"index {row}", request.bank[row], request)] * request.num_samples


def _blend(request: Request) -> list[Chosen]:
  first, last, *given = request.spec.split(":")
  rows = [_row(text, request) for text in (first, last)]
  count = request.num_samples
  if given:
    weight = float(given[0])
    if not 0 <= weight <= 1:
      raise UserError(
        f"--template={request.spec}: weight {given[0]} is not between 0 and 1"
      )
    weights = [weight] * count
  else:  # a single rendering gets the middle
    weights = np.linspace(0, 1, count) if count > 1 else [0.5]
  a, b = request.bank[rows]
  return [
    _constant(
      f"index {rows[0]} x {1 - w:.2f} + index {rows[1]} x {w:.2f}",
      ((1 - w) * a + w * b).astype(np.float32),
      request,
    )
    for w in weights
  ]


def _file(request: Request) -> list[Chosen]:
  codes = _read(pathlib.Path(request.spec), request.bank.shape[-1])
  rows = [i % len(codes) for i in range(request.num_samples)]
  return [_constant(f"{request.spec}[{row}]", codes[row], request) for row in rows]


def _timeline(request: Request) -> list[Chosen]:
  return _follow(keyframes.read(request.spec), request)


def _follow(timeline: Sequence[keyframes.Keyframe], request: Request) -> list[Chosen]:
  """The templates of these keyframes."""
  keyed: list[list[Chosen]] = []  # of each keyframe, for each rendering
  still: list[Chosen] = []  # of the last one without its direction
  for number, keyframe in enumerate(timeline):
    try:
      # Two keyframes with "random" draw different rows.
      seed = _seed(request.seed, number) if number else request.seed
      still = _of_keyframe(keyframe, still, request._replace(seed=seed))
      moved = _moved(still, keyframe.direction, request.abilities)
    except UserError as e:
      raise UserError(f"timeline: keyframe {number} at {keyframe.at:g} s: {e}") from e
    keyed.append(moved)
  return [
    Chosen("timeline", None, functools.partial(_directors, timeline, chosen))
    for chosen in zip(*keyed, strict=True)
  ]


def _of_keyframe(
  keyframe: keyframes.Keyframe, before: list[Chosen], request: Request
) -> list[Chosen]:
  """The templates of a keyframe without its direction."""
  if keyframe.template is None:
    return before
  if isinstance(keyframe.template, np.ndarray):
    code = check_array(keyframe.template, request.bank)
    return [_constant("numbers", code, request)] * request.num_samples
  return _choose(request._replace(spec=keyframe.template))


def _directors(
  timeline: Sequence[keyframes.Keyframe], chosen: Sequence[Chosen], clip: int
) -> Director:
  return keyframes.Timeline(timeline, [one.director(clip) for one in chosen])


def _cluster(request: Request) -> list[Chosen]:
  medoid = _need(request.abilities.medoid, f"--template={request.spec}")
  row = medoid(request.spec)
  named = _constant(f"{request.spec} (index {row})", request.bank[row], request)
  return [named] * request.num_samples


def _like(request: Request) -> list[Chosen]:
  like = _need(request.abilities.like, f"--template={request.spec}")
  code = like(request.spec.removeprefix("like:"))
  return [_constant(request.spec, code, request)] * request.num_samples


def _sequence(request: Request) -> list[Chosen]:
  if request.abilities.sequence is None:
    raise UserError(
      "--template=sequence: this model has no code mapper; train "
      "configs/sdt_vae_sequence.py"
    )
  return _directed("sequence", request.abilities.sequence, request)


def _auto(request: Request) -> list[Chosen]:
  auto = _need(request.abilities.auto, f"--template={request.spec}")
  folder = request.spec.removeprefix("auto").removeprefix(":")
  return _directed("auto", auto(folder), request)


SOURCES: dict[str, Callable[[Request], list[Chosen]]] = {
  "random": _random,
  "normal": _normal,
  "encoder": _encoder,
  r"-?\d+": _index,
  r"-?\d+:-?\d+(:\d+(\.\d*)?)?": _blend,
  r"cluster:\d+": _cluster,
  r"(?s:like:.+)": _like,
  "sequence": _sequence,
  r"(?s:auto(:.+)?)": _auto,
  r"(?s:.*)\.npz": _file,
  r"(?s:.*)\.json": _timeline,
}
"""Pattern of the whole spec -> the source; the first match is taken."""


def _choose(request: Request) -> list[Chosen]:
  """`choose` without a direction, for a model that has templates."""
  for pattern, source in SOURCES.items():
    if re.fullmatch(pattern, request.spec):
      return source(request)
  raise UserError(
    f"--template={request.spec}: expected random, normal, INDEX, INDEX:INDEX[:WEIGHT], "
    "a .npz or .json file, cluster:NUMBER, like:FILE, sequence, auto or encoder"
  )


def _need(ability: T | None, flag: str) -> T:
  """What only a trained run has; the validations of a training lack it."""
  if ability is None:
    raise UserError(f"{flag}: needs a trained run; give it to demo.py")
  return ability


def _moved(chosen: list[Chosen], direction: str, abilities: Abilities) -> list[Chosen]:
  if not direction:
    return chosen
  offset = _need(abilities.offset, f"--direction={direction}")(direction)

  def moved(one: Chosen) -> Chosen:
    name = f"{one.name}, {direction}"
    if one.codes is not None:
      return Chosen(name, (one.codes + offset).astype(np.float32))
    return Chosen(name, None, lambda clip: Moved(one.director(clip), offset))

  return [moved(one) for one in chosen]


def _directed(
  name: str, make: Callable[[int], Director], request: Request
) -> list[Chosen]:
  """Templates over time; every clip of every rendering draws its own."""

  def rendering(number: int) -> Chosen:
    return Chosen(
      f"{name} {number}" if request.num_samples > 1 else name,
      None,
      lambda clip: make(_seed(request.seed, number, clip)),
    )

  return [rendering(number) for number in range(request.num_samples)]


def _seed(*numbers: int) -> int:
  """A seed below 2**32 that depends on all of these numbers."""
  return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1)[0])


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
  try:
    key = _key(path)
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
  names = files.array_names(path)
  is_old = "condition_code" not in names and "template" in names
  return "template" if is_old else "condition_code"
