"""Timelines: templates at given times, in a JSON file.

    {
      "version": 1,
      "keyframes": [
        {"at": 0, "template": 7},
        {"at": 6.5, "template": "7:12:0.3", "over": 1.5},
        {"at": 12, "direction": "hands_high:+1.5"},
        {"at": 20, "template": "auto", "ease": "linear"}
      ]
    }

at         seconds from the start of the sound; the first keyframe is at 0
template   what --template accepts (a number is a row of the bank), but no timeline; or
           the template itself as a list of numbers; if left out, the one before stays
direction  what --direction accepts; without it, none
over       seconds that the change takes, from `at` on; default 0.5
ease       course of the change: "smooth", without a jump in speed (default); or
           "linear"
"""

import itertools
import json
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sdt_jax import audio
from sdt_jax.errors import UserError
from sdt_jax.templates.director import BLOCK, Director, minimum_jerk

VERSION = 1

EASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "smooth": minimum_jerk,
  "linear": lambda x: np.clip(x, 0, 1),
}
"""Course of a change: from 0 at x <= 0 to 1 at x >= 1."""

_DEFAULT_OVER_S = 0.5
_MAX_BYTES = 2**20


class Keyframe(NamedTuple):
  """A keyframe as in the file; see above.

  Attributes:
    at: seconds.
    template: text, (D,) numbers, or None for the one before.
    direction: "" for none.
    over: seconds; 0 for the first keyframe.
    ease: a key of `EASES`.
  """

  at: float
  template: str | np.ndarray | None
  direction: str
  over: float
  ease: str


class Timeline(Director):
  """Follows keyframes; each is directed by a director of its own.

  Args:
    keyframes: as returned by `parse`.
    directors: of the keyframes. All of them hear the sound from its start.
  """

  def __init__(self, keyframes: Sequence[Keyframe], directors: Sequence[Director]):
    self._keyframes, self._directors = keyframes, directors
    self._frame = 0

  def next(self, heard: np.ndarray | None, coming: np.ndarray | None) -> np.ndarray:
    frames = np.arange(self._frame, self._frame + BLOCK)
    self._frame += BLOCK
    rows = None
    for keyframe, director in zip(self._keyframes, self._directors, strict=True):
      own = director.next(heard, coming)
      since = frames / audio.FPS - keyframe.at
      if rows is None:
        rows = own
      else:
        weight = EASES[keyframe.ease](since / keyframe.over)[:, None]
        rows = (1 - weight) * rows + weight * own
    assert rows is not None  # a timeline has keyframes
    return rows.astype(np.float32)


def read(path: str | os.PathLike) -> list[Keyframe]:
  """Reads a timeline.

  Raises:
    UserError: the file cannot be read, or is not a timeline.
  """
  try:
    with open(path, "rb") as file:
      text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
      raise UserError(f"{path}: is larger than 1 MiB; give a timeline")
    content = json.loads(text)
  except OSError as e:
    raise UserError(f"{path}: cannot be read ({e.strerror}); give a timeline") from e
  except (ValueError, RecursionError) as e:
    raise UserError(f"{path}: is not JSON ({e}); see docs/templates.md") from e
  return parse(content, os.fspath(path))


def parse(content: Any, name: str = "timeline") -> list[Keyframe]:
  """The keyframes of a timeline, which was read from JSON.

  Raises:
    UserError: it is not a timeline; the message begins with `name`.
  """
  _check_keys(content, {"version", "keyframes"}, name)
  if content.get("version") != VERSION:
    raise UserError(
      f'{name}: "version" is {content.get("version")!r:.40}; give {VERSION}'
    )
  entries = content.get("keyframes")
  if not isinstance(entries, list) or not entries:
    raise UserError(f'{name}: "keyframes" must be a list of at least one keyframe')
  keyframes = []
  for number, entry in enumerate(entries):
    where = f"{name}: keyframe {number}"
    _check_keys(entry, {"at", "template", "direction", "over", "ease"}, where)
    keyframes.append(_keyframe(entry, keyframes, where))
  for number, (keyframe, after) in enumerate(itertools.pairwise(keyframes)):
    if keyframe.at + keyframe.over > after.at + 1e-6:  # of rounded decimals
      raise UserError(
        f"{name}: keyframe {number}: its change ends at {keyframe.at + keyframe.over:g}"
        f' s, after the next keyframe at {after.at:g} s; give a shorter "over"'
      )
  return keyframes


def _keyframe(
  entry: Mapping[str, Any], before: Sequence[Keyframe], where: str
) -> Keyframe:
  at = _number(entry.get("at"), f'{where}: "at"')
  if not before and at != 0:
    raise UserError(f'{where}: "at" is {at:g}; the first keyframe must be at 0')
  if before and at <= before[-1].at:
    raise UserError(
      f'{where}: "at" is {at:g}, not after the keyframe before, at {before[-1].at:g}; '
      "sort them by time"
    )
  over = _number(entry.get("over", _DEFAULT_OVER_S), f'{where}: "over"')
  if before and over == 0:
    raise UserError(f'{where}: "over" is 0; give the seconds of the change, e.g. 0.5')
  ease = entry.get("ease", "smooth")
  if not isinstance(ease, str) or ease not in EASES:
    raise UserError(f'{where}: "ease" is {ease!r:.40}; give {" or ".join(EASES)}')
  direction = entry.get("direction", "")
  if not isinstance(direction, str):
    raise UserError(
      f'{where}: "direction" is {direction!r:.40}; give text such as "energy:-1"'
    )
  template = _template(entry.get("template"), f'{where}: "template"')
  if not before and template is None:
    raise UserError(f'{where}: "template" is missing; the first keyframe needs one')
  return Keyframe(at, template, direction, over if before else 0.0, ease)


def _template(value: Any, where: str) -> str | np.ndarray | None:
  if value is None:
    return None
  if isinstance(value, numbers.Integral) and not isinstance(value, bool):
    return str(value)
  if isinstance(value, str) and not value.endswith(".json"):
    return value
  if isinstance(value, list | np.ndarray) and len(value):
    return np.array([_finite(x, where) for x in value], np.float32)
  raise UserError(
    f"{where} is {value!r:.40}; give a row, what --template accepts except a timeline, "
    "or a list of numbers"
  )


def _number(value: Any, where: str) -> float:
  if (seconds := _finite(value, where)) < 0:
    raise UserError(f"{where} is {value!r:.40}; give 0 or more seconds")
  return seconds


def _finite(value: Any, where: str) -> float:
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not is_number or not -1e9 < value < 1e9:  # pyright: ignore
    raise UserError(f"{where} is {value!r:.40}; give a number")
  return float(value)


def _check_keys(entry: Any, known: set[str], where: str) -> None:
  if not isinstance(entry, dict):
    raise UserError(f"{where}: is {entry!r:.40}; expected an object")
  if unknown := sorted(entry.keys() - known):
    raise UserError(
      f"{where}: unknown key {unknown[0]!r:.40}; known: {', '.join(sorted(known))}"
    )


def table(keyframes: Sequence[Keyframe]) -> str:
  """One line for each keyframe."""
  lines = [f"{'at':>8}  {'over':>6}  {'ease':<7} {'template':<24} direction"]
  for keyframe in keyframes:
    template = keyframe.template
    if isinstance(template, np.ndarray):
      template = f"{len(template)} numbers"
    lines.append(
      f"{keyframe.at:>6.2f} s  {keyframe.over:>4.2f} s  {keyframe.ease:<7} "
      f"{template or '(as before)':<24} {keyframe.direction}".rstrip()
    )
  return "\n".join(lines)
