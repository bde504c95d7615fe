"""Directions in the space of templates: hands higher, calmer, head to the left.

    python -m sdt_jax.templates.directions --workdir=DIR [--step=latest|best|N] \
      [--audio=FILE] [--seed=N]

Finds the directions of an SDT-BP or SDT-VAE run, and measures on generated motion what
they do. Writes into the workdir:

directions.npz    for `demo.py --direction`: `names` (n,) and `vectors` (n, D), named
                  directions; `v` (D, D), the closed-form ones as unit rows, and `v_sd`
                  (D,), the standard deviation of the bank along each; `step`
directions.json   what the directions do, for other programs; see `_report`
directions.png    each direction at -2 to 2, on one sound

A named direction moves one attribute (`attributes.ATTRIBUTES`); the others stay, as far
as the bank can tell them apart. A mean of both hands, such as hands_high, moves both by
the same amount. The unit is one standard deviation of the attribute over the training
clips. Directions come from the response of the generator: templates of the bank are
moved at random, and the change of the attributes is regressed on the change of the
template. `linear.separate` turns this map into directions.
"""

import json
import logging
import math
import pathlib
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from sdt_jax import audio as audio_lib
from sdt_jax import audio_file, cli, files, pose, workdir
from sdt_jax import keypoints as kp
from sdt_jax.data import pipeline
from sdt_jax.errors import UserError
from sdt_jax.synthesis import generate, render
from sdt_jax.templates import attributes, linear, pictures
from sdt_jax.templates.attributes import ATTRIBUTES, MEASURED
from sdt_jax.training import runs, setup

ARRAYS, REPORT, PICTURE = "directions.npz", "directions.json", "directions.png"
VERSION = 1  # of the JSON file

_CLOSED_FORM = "sefa"  # prefix of names; semantic factorisation
_AMOUNTS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_LARGEST_AMOUNT = 100.0

_SOUNDS = 6
_PAIRS = 256  # of templates that are moved to and fro
_STEP = 0.5  # standard deviation of these moves, in those of the bank
_BASES, _BASE_SOUNDS = 4, 3  # templates and sounds that the effects are measured on
_LONGEST = 2.5  # a direction per unit, in standard deviations of the bank
_TIED = 0.9  # correlation of attributes that the speaker does not separate
_LEAST_EFFECT = 0.1  # below, leakage relative to the effect says nothing
_CLOSED_FORM_SHOWN = 3
_AT_ONCE = 16
_DECODED_AMOUNT = 10.0  # as the authors' code

_log = logging.getLogger(__name__)


class Directions(NamedTuple):
  """The directions of a run.

  Attributes:
    step: the checkpoint that they were found for.
    names: of the named directions.
    vectors: (n, D), the change of the template per unit.
    closed_form: (D, D), unit vectors, the largest eigenvalue first.
    closed_form_sd: (D,), the standard deviation of the bank along each: their unit.
  """

  step: int
  names: tuple[str, ...]
  vectors: np.ndarray
  closed_form: np.ndarray
  closed_form_sd: np.ndarray

  def vector(self, name: str) -> np.ndarray | None:
    """(D,) the change of the template per unit; None for an unknown name."""
    if name in self.names:
      return self.vectors[self.names.index(name)]
    match = re.fullmatch(rf"{_CLOSED_FORM}(0|[1-9]\d{{0,5}})", name)
    if match and int(match[1]) < len(self.closed_form):
      return self.closed_form[int(match[1])] * self.closed_form_sd[int(match[1])]
    return None

  def offset(self, spec: str) -> np.ndarray:
    """What is added to a template.

    Args:
      spec: names with amounts, for example "hands_high:+1.5,energy:-1,sefa0:2".

    Returns:
      (D,) float32.

    Raises:
      UserError: a name is unknown, or an amount is not a number.
    """
    total = np.zeros(self.vectors.shape[1])
    for part in spec.split(","):
      name, _, amount = (text.strip() for text in part.partition(":"))
      vector = self.vector(name)
      if vector is None:
        last = f"{_CLOSED_FORM}{len(self.closed_form) - 1}"
        raise UserError(
          f"--direction={spec}: unknown direction {name!r}; known: "
          f"{', '.join(self.names)}, and {_CLOSED_FORM}0 to {last}"
        )
      total += _amount(amount, spec, name) * vector
    return total.astype(np.float32)


def _amount(text: str, spec: str, name: str) -> float:
  try:
    amount = float(text)
  except ValueError:
    amount = math.nan
  if not abs(amount) <= _LARGEST_AMOUNT:  # also catches NaN
    raise UserError(
      f"--direction={spec}: {name} has the amount {text!r}; give a number of standard "
      f"deviations, for example {name}:+1.5"
    )
  return amount


def read(path: str | pathlib.Path) -> Directions:
  """The directions of the run in a workdir.

  Raises:
    UserError: they have not been found yet, or the file is damaged.
  """
  file = pathlib.Path(path) / ARRAYS
  if not file.is_file():
    raise UserError(
      f"{file}: no such file; write it with: python -m sdt_jax.templates.directions "
      f"--workdir={path}"
    )
  arrays = files.read_arrays(file, "names", "vectors", "v", "v_sd", "step")
  names, vectors, v, v_sd, step = arrays.values()
  count, size = names.size, v_sd.size
  shapes = [(count,), (count, size), (size, size), (size,), ()]
  kinds = "".join(array.dtype.kind for array in arrays.values())
  fits = kinds == "Ufffi" and [a.shape for a in arrays.values()] == shapes
  if not fits or not all(np.isfinite(a).all() for a in (vectors, v, v_sd)):
    raise UserError(
      f"{file}: not a file of directions; write it again with: python -m "
      f"sdt_jax.templates.directions --workdir={path}"
    )
  return Directions(int(step), tuple(map(str, names)), vectors, v, v_sd)


def decode(
  path: str | pathlib.Path,
  file: str | pathlib.Path,
  output_dir: str | pathlib.Path,
  step: str = "latest",
) -> list[pathlib.Path]:
  """Decodes directions with the pose VAE alone, without sound.

  As in the authors' code (`DEMO.CODE_PATH`), each row of `v` (n, D) is multiplied by 10
  and decoded as a template. A file of this program also has named directions: each is
  decoded at -2 and 2, from the mean of the bank.

  Writes `decoded.npz` with `poses_pred_batch` (m, 64, dims, joints) final poses and
  `condition_code` (m, D); `decoded.png`, a page with every 8th frame of each; and
  `decoded_<name>.png`, a film strip of each.

  Args:
    path: workdir of a pose VAE.
    file: npz with `v`.
    output_dir: created if it is missing.
    step: the checkpoint.

  Returns:
    The files.

  Raises:
    UserError: the run is no pose VAE, the file does not fit, or the folder cannot be
      written.
  """
  path, file, output_dir = map(pathlib.Path, (path, file, output_dir))
  run = runs.load(path, step)
  runs.require_encoder(type(run.method), path, "--workdir")
  bank_mean = np.asarray(run.state.bank["mean"]).mean(0)
  labels, codes = _codes_in(file, bank_mean)
  files.check_writable(output_dir, "--output_dir")
  poses_norm = np.asarray(run.method.decode(run.state, jnp.asarray(codes)))
  poses_px = np.asarray(pose.to_final(poses_norm, run.table), np.float32)
  written = [output_dir / "decoded.npz", output_dir / "decoded.png"]
  with files.replacing(written[0]) as temporary:
    np.savez_compressed(temporary, poses_pred_batch=poses_px, condition_code=codes)
  rows = [
    pictures.strip_row(label, "", motion)
    for label, motion in zip(labels, poses_px, strict=True)
  ]
  title = f"Directions of {file}, decoded by the pose VAE {path}"
  pictures.write_page(written[1], title, pictures.strip_times(poses_px[0]), rows)
  for label, motion in zip(labels, poses_px, strict=True):
    written.append(output_dir / f"decoded_{label}.png")
    render.write_png(written[-1], render.film_strip(motion))
  return written


def _codes_in(file: pathlib.Path, mean: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Labels, and templates (m, D) to decode, of the directions in a file."""
  found = _rows(file, "v", len(mean))
  labels = [f"v{i:02d}" for i in range(len(found))]
  codes = [_DECODED_AMOUNT * found]
  arrays = files.read_arrays(file)
  if {"names", "vectors"} <= arrays.keys():
    vectors = _rows(file, "vectors", len(mean))
    names = arrays["names"].tolist()
    if len(names) != len(vectors) or not set(names) <= set(ATTRIBUTES):
      raise UserError(
        f"--directions={file}: 'names' are not {len(vectors)} of the directions "
        f"{', '.join(ATTRIBUTES)}"
      )
    for name, vector in zip(names, vectors, strict=True):
      labels += [f"{name}{amount:+d}" for amount in (-2, 2)]
      codes.append(mean + np.array([[-2], [2]]) * vector)
  return labels, np.concatenate(codes).astype(np.float32)


def _rows(file: pathlib.Path, key: str, size: int) -> np.ndarray:
  """The array (n, size) of a file given as --directions."""
  try:
    array = files.read_arrays(file, key)[key]
  except UserError as e:
    raise UserError(f"--directions={e}") from e
  if array.dtype.kind not in "fiu":
    raise UserError(
      f"--directions={file}: {key!r} has type {array.dtype}; give numbers"
    )
  if array.ndim != 2 or array.shape[1] != size or not len(array):
    raise UserError(
      f"--directions={file}: {key!r} has shape {array.shape}, expected (number, {size})"
    )
  with np.errstate(over="ignore"):  # infinite numbers are refused below
    rows = array.astype(np.float32)
  if not np.isfinite(rows).all():
    raise UserError(f"--directions={file}: {key!r} contains NaN or infinite numbers")
  return rows


class Clips(NamedTuple):
  """The training clips of a run.

  Attributes:
    rows: (n,) rows of the bank with complete poses.
    values: (n, K) their attributes.
    recordings: (n,) the recording of each.
    hidden: (n, H) true templates of the synthetic speaker; else None.
  """

  rows: np.ndarray
  values: np.ndarray
  recordings: np.ndarray
  hidden: np.ndarray | None


class Model(NamedTuple):
  """A run that templates of the bank (N, D) are tried on, with sounds for it."""

  gestures: generate.GestureModel
  bank: np.ndarray
  sounds: Sequence[np.ndarray]

  def attributes(
    self, sounds: np.ndarray, templates: np.ndarray, progress: tqdm.tqdm
  ) -> np.ndarray:
    """(n, K) of the motion for sounds (n,), by number, with templates (n, D)."""
    templates = templates.astype(np.float32)
    values = []
    for first in range(0, len(sounds), _AT_ONCE):
      part = slice(first, first + _AT_ONCE)
      chosen = [self.sounds[i] for i in sounds[part]]
      poses_px = self.gestures.generate_many(chosen, list(templates[part]))
      values += [attributes.measure(motion) for motion in poses_px]
      progress.update(len(chosen))
    return np.array(values)


class Response(NamedTuple):
  """How the generator responds to templates.

  Attributes:
    weights: (K, D) change of the attributes per change of the template.
    r2: (K,) how linear it is: R^2 of the changes on templates held out.
    spread: (K,) standard deviation of the attributes over templates.
    correlation: (K, K) of the attributes over templates.
  """

  weights: np.ndarray
  r2: np.ndarray
  spread: np.ndarray
  correlation: np.ndarray


class Named(NamedTuple):
  """The named directions.

  Attributes:
    vectors: (K, D), one for each of `ATTRIBUTES`.
    lengths: (K,) per unit, in standard deviations of the bank.
    others: (K, K) bool: which attributes a direction should not move.
  """

  vectors: np.ndarray
  lengths: np.ndarray
  others: np.ndarray


def find(
  path: pathlib.Path, step: str = "latest", audio: str | None = None, seed: int = 0
) -> dict[str, Any]:
  """Finds the directions of a run, and writes the three files.

  Args:
    path: the workdir.
    step: "latest", "best" or the number of a step.
    audio: a sound to measure on; default: sounds of the dev split, or if there are
      none the speech sample of the package.
    seed: for the templates that are tried.

  Returns:
    The content of the JSON file.

  Raises:
    UserError: the run has no templates that hold for a clip, or a file is unusable.
  """
  run, bank = load_with_bank(path, step)
  files.check_writable(path, "--workdir")
  splits = open_splits(run)
  sounds = choose_sounds(audio, splits)
  clips = measure_clips(run, splits)
  model = Model(generate.GestureModel(run, run.speaker), bank, sounds)
  rng = np.random.default_rng(seed)
  bases = rng.choice(len(bank), min(_BASES, len(bank)), replace=False)
  tests = len(bases) * min(_BASE_SOUNDS, len(sounds))
  total = 2 * _PAIRS + tests * len(ATTRIBUTES) * len(_AMOUNTS)
  with tqdm.tqdm(total=total, desc="generating", unit="clip") as progress:
    response = _respond(model, np.setdiff1d(np.arange(len(bank)), bases), rng, progress)
    sd = response.spread if clips is None else clips.values.std(0)
    tied = response.correlation if clips is None else np.corrcoef(clips.values.T)
    sd = np.maximum(sd, np.finfo(float).tiny)
    covariance = np.atleast_2d(np.cov(bank.T))
    named = _separate(response.weights, sd, np.abs(tied) >= _TIED, covariance)
    effects = _effects(model, bank[bases], named.vectors, progress) / sd
  layer, weights = _first_layer(run)
  closed_form, eigenvalues = linear.closed_form(weights)
  along = np.sqrt(np.einsum("id,de,ie->i", closed_form, covariance, closed_form))
  found = Directions(run.step, tuple(ATTRIBUTES), named.vectors, closed_form, along)
  report = _report(run, clips, bank, response, sd, named, effects)
  report["closed_form"] = {
    "layer": layer,
    "eigenvalues": eigenvalues.tolist(),
    "sd": along.tolist(),
  }
  report["sounds"] = {"source": audio or _source(splits), "count": len(sounds)}
  report["seed"] = seed
  _write_arrays(path / ARRAYS, found)
  workdir.write_text(path / REPORT, json.dumps(report, indent=2) + "\n")
  _draw(path / PICTURE, model, found, bank[bases[0]], report)
  return report


def load_with_bank(path: pathlib.Path, step: str) -> tuple[runs.Run, np.ndarray]:
  """A run, and its templates (N, D).

  Raises:
    UserError: the run has no templates, or they change from frame to frame.
  """
  run = generate.load_speaking(path, step)
  bank = run.method.bank(run.state)
  if bank is None:
    raise UserError(f"{path}: this model has no templates; give an SDT run")
  if bank.ndim != 2:
    raise UserError(
      f"{path}: its templates change from frame to frame, shape {bank.shape}; give a "
      "run with config.template.frame_wise=False"
    )
  if len(bank) < 2:
    raise UserError(f"{path}: has {len(bank)} template; give a run with more clips")
  return run, bank.astype(np.float64)


def open_splits(run: runs.Run) -> dict[str, pipeline.Split]:
  """The data of a run by split; {}, with a message, if it is not there any more."""
  try:
    sources = setup.build_data(run.config).sources
    splits = {
      name: pipeline.Split(source, run.table) for name, source in sources.items()
    }
    train = splits["train"]
    workdir.check_clips(run.path, [train.clip_id(row) for row in range(len(train))])
  except UserError as e:
    _log.warning("the training clips are left out: %s", e)
    return {}
  return splits


def choose_sounds(
  audio: str | None, splits: dict[str, pipeline.Split]
) -> list[np.ndarray]:
  """Up to 6 sounds: of a file, else of the dev split, else of the speech sample."""
  dev = splits.get("dev")
  if dev and audio is None:
    return list(dev.read(pipeline.spread_rows(len(dev), _SOUNDS))["audio"])
  sound = audio_file.load_audio(audio or audio_file.SAMPLE_SPEECH)
  length = audio_lib.num_samples(audio_lib.CLIP_FRAMES)
  starts = range(0, max(len(sound) - length, 0) + 1, length)
  return [sound[start : start + length] for start in starts][:_SOUNDS]


def _source(splits: dict[str, pipeline.Split]) -> str:
  return "dev split" if splits.get("dev") else audio_file.SAMPLE_SPEECH.name


def measure_clips(run: runs.Run, splits: dict[str, pipeline.Split]) -> Clips | None:
  """The attributes of the training clips; None without the data."""
  if not splits:
    return None
  train = splits["train"]
  values = np.concatenate(
    [
      attributes.measure(train.poses_px(rows))
      for rows in np.array_split(np.arange(len(train)), -(-len(train) // 256))
    ]
  )
  rows = np.flatnonzero(np.isfinite(values).all(1))
  hidden = None
  if run.config.dataset.name == "synthetic":
    hidden = np.stack([train.source[row]["template"].mean(0) for row in rows.tolist()])
  recordings = np.unique(train.source.clips["video"][rows], return_inverse=True)[1]
  return Clips(rows, values[rows], recordings, hidden)


def _respond(
  model: Model, rows: np.ndarray, rng: np.random.Generator, progress: tqdm.tqdm
) -> Response:
  """Moves templates of the bank (`rows`) to and fro, and regresses what changes."""
  bases = model.bank[rng.choice(rows if rows.size else len(model.bank), _PAIRS)]
  centred = model.bank - model.bank.mean(0)
  # A random sum of all rows has the covariance of the bank.
  draws = rng.standard_normal((_PAIRS, len(centred))) / math.sqrt(len(centred) - 1)
  moves = _STEP * draws @ centred
  sounds = np.arange(_PAIRS) % len(model.sounds)
  there, back = (
    model.attributes(sounds, bases + sign * moves, progress) for sign in (1, -1)
  )
  changes, pairs = (there - back) / 2, np.arange(_PAIRS)
  columns = [list(ATTRIBUTES).index(name) for name in MEASURED]
  weights = linear.ridge(moves, changes[:, columns], pairs, intercept=False)
  values = np.concatenate([there, back])
  for sound in range(len(model.sounds)):  # what the sound changes is left out
    same = np.tile(sounds == sound, 2)
    values[same] -= values[same].mean(0)
  return Response(
    attributes.combination() @ weights,
    linear.held_out_r2(moves, changes, pairs, intercept=False),
    values.std(0),
    np.corrcoef(values.T),
  )


def _separate(
  weights: np.ndarray, sd: np.ndarray, tied: np.ndarray, covariance: np.ndarray
) -> Named:
  """Directions (K, D) from the response (K, D); `sd` (K,) and `tied` (K, K)."""
  names = list(ATTRIBUTES)
  scaled = weights / sd[:, None]
  found, others = [], np.zeros_like(tied)
  for i, (name, attribute) in enumerate(ATTRIBUTES.items()):
    parts = [names.index(part) for part in attribute.parts]
    wholes = [j for j, n in enumerate(names) if name in ATTRIBUTES[n].parts]
    others[i] = ~tied[i]
    others[i, [i, *parts, *wholes]] = False
    measured = [names.index(n) for n in MEASURED]
    held = [scaled[j] for j in measured if others[i, j]]
    held += [(weights[j] - weights[i]) / sd[j] for j in parts]  # parts move alike
    rows = np.reshape(held, (-1, weights.shape[1]))
    found.append(linear.separate(scaled[i], rows, covariance, _LONGEST))
  vectors, lengths = (np.array(column) for column in zip(*found, strict=True))
  return Named(vectors, lengths, others)


def _effects(
  model: Model, bases: np.ndarray, vectors: np.ndarray, progress: tqdm.tqdm
) -> np.ndarray:
  """(n, K) slope of the attributes over the amount of each direction (n, D)."""
  amounts = np.array(_AMOUNTS)
  sounds = np.arange(min(_BASE_SOUNDS, len(model.sounds)))
  slopes = []
  for vector in vectors:
    moved = bases[:, None] + amounts[:, None] * vector  # (bases, amounts, D)
    templates = np.tile(moved.reshape(-1, moved.shape[-1]), (len(sounds), 1))
    numbers = np.repeat(sounds, len(bases) * len(amounts))
    values = model.attributes(numbers, templates, progress)
    values = values.reshape(-1, len(amounts), values.shape[-1])
    slopes.append(np.einsum("a,nak->k", amounts, values) / len(values))
  return np.array(slopes) / np.square(amounts).sum()


def _first_layer(run: runs.Run) -> tuple[str, np.ndarray]:
  """Name and weights (outputs, D) of the layer for the closed form."""
  pose_vae = workdir.pose_vae_of_templates(run.path, run.config)
  if pose_vae and pose_vae.is_dir():
    source, name = runs.load(pose_vae), "first layer of the pose VAE's decoder"
  else:
    if pose_vae:
      _log.warning("%s: no longer there; the generator's layer is used", pose_vae)
    source, name = run, "first layer of the generator that reads the template"
  weights = source.method.template_weights(source.state)
  if weights is None:
    raise UserError(f"{run.path}: a {run.method.title} has no layer for templates")
  return name, weights.astype(np.float64)


def _report(
  run: runs.Run,
  clips: Clips | None,
  bank: np.ndarray,
  response: Response,
  sd: np.ndarray,
  named: Named,
  effects: np.ndarray,
) -> dict[str, Any]:
  """The JSON file: NaN is null; lists of K numbers are in the order of the attributes.

  `r2`: of the attribute of a training clip, predicted from its template, on recordings
  held out. `linearity`: R^2 of the response of generated motion. `effect`: by how many
  units the attribute of generated motion moves per unit of the direction. `effects`:
  the same for every attribute. `leakage`: |movement| of the others, each in its own
  unit, for a movement of the attribute by 1; null if the direction hardly moves it.
  `tied`: attributes that the clips do not separate from it, which move too.
  `length`: of a unit, in standard deviations of the bank.
  """
  names = list(ATTRIBUTES)
  r2 = np.full(len(names), np.nan)
  mean = np.full(len(names), np.nan)
  hidden: dict[str, float | None] = {}
  if clips is not None:
    templates, mean = bank[clips.rows], clips.values.mean(0)
    r2 = linear.held_out_r2(templates, clips.values, clips.recordings)
    hidden = _hidden_r2(templates, clips)
  entries = {}
  for i, (name, attribute) in enumerate(ATTRIBUTES.items()):
    others = named.others[i]
    family = {name, *attribute.parts}
    family |= {n for n, a in ATTRIBUTES.items() if name in a.parts}
    tied = [n for j, n in enumerate(names) if not others[j] and n not in family]
    entries[name] = {
      **{"meaning": attribute.meaning, "unit": attribute.unit},
      **{"mean": _finite(mean[i]), "sd": _finite(sd[i]), "r2": _finite(r2[i])},
      "linearity": _finite(response.r2[i]),
      "effect": _finite(effects[i, i]),
      "effects": [_finite(effect) for effect in effects[i]],
      "leakage": _leakage(effects[i], i, others),
      **{"tied": tied, "length": _finite(named.lengths[i])},
    }
  packages = ("jax", "flax", "numpy")
  return {
    "version": VERSION,
    "step": run.step,
    "num_templates": len(bank),
    "unit": "standard deviation over "
    + ("the training clips" if clips is not None else "generated motion"),
    "names": names,
    "directions": entries,
    "hidden_r2": hidden,
    "versions": {package: metadata.version(package) for package in packages},
  }


def _hidden_r2(templates: np.ndarray, clips: Clips) -> dict[str, float | None]:
  if clips.hidden is None:
    return {}
  from sdt_jax.data.synthetic_speaker import TEMPLATE_NAMES

  scores = linear.held_out_r2(templates, clips.hidden, clips.recordings)
  return dict(zip(TEMPLATE_NAMES, map(_finite, scores), strict=True))


def _leakage(effects: np.ndarray, i: int, others: np.ndarray) -> dict[str, Any] | None:
  if not abs(effects[i]) >= _LEAST_EFFECT or not others.any():
    return None
  relative = np.where(others, np.abs(effects / effects[i]), 0)
  return {
    "mean": _finite(relative[others].mean()),
    "largest": _finite(relative.max()),
    "largest_of": list(ATTRIBUTES)[relative.argmax()],
  }


def _finite(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None  # JSON has no NaN


def _write_arrays(path: pathlib.Path, found: Directions) -> None:
  with files.replacing(path) as temporary:
    np.savez_compressed(
      temporary,
      names=np.array(found.names),
      vectors=found.vectors.astype(np.float32),
      v=found.closed_form.astype(np.float32),
      v_sd=found.closed_form_sd.astype(np.float32),
      step=np.int64(found.step),
    )


def _draw(
  path: pathlib.Path,
  model: Model,
  found: Directions,
  base: np.ndarray,
  report: dict[str, Any],
) -> None:
  """The picture: one sound, one template, moved along each direction."""
  shown = {name: _label(name, report) for name in found.names}
  for i in range(min(_CLOSED_FORM_SHOWN, len(found.closed_form))):
    shown[f"{_CLOSED_FORM}{i}"] = f"closed form, number {i} by its eigenvalue"
  rows = []
  for name, text in shown.items():
    vector = found.vector(name)
    assert vector is not None
    codes = [(base + amount * vector).astype(np.float32) for amount in _AMOUNTS]
    motions = model.gestures.generate_many([model.sounds[0]] * len(codes), codes)
    cells = [pictures.Cell(m[_highest(motions)], m) for m in motions]
    rows.append(pictures.Row(name, text, cells))
  title = (
    "One template, moved along each direction, on one sound.\n"
    "A row shows the same moment; thin lines are the paths of the wrists in the clip."
  )
  pictures.write_page(path, title, [f"{a:+g}" if a else "0" for a in _AMOUNTS], rows)


def _highest(motions: Sequence[np.ndarray]) -> int:
  """The frame in which the wrists of the middle motion are highest: a stroke."""
  wrists = kp.UPPER_BODY.indices("left_wrist", "right_wrist")
  return int(motions[len(motions) // 2][:, 1, wrists].mean(-1).argmin())


def _label(name: str, report: dict[str, Any]) -> str:
  entry = report["directions"][name]
  lines = [entry["meaning"], f"+1 moves it by {entry['effect'] or 0:.2f} sd"]
  if leakage := entry["leakage"]:
    lines.append(f"the others move {leakage['mean']:.2f} times as much")
  return "\n".join(lines)


def table(report: dict[str, Any]) -> str:
  """The report as lines of text."""
  lines = [f"{'direction':<16} {'R2':>6} {'effect':>7} {'leakage':>8}  largest"]
  for name, entry in report["directions"].items():
    leakage = entry["leakage"]
    cells = f"{_short(entry['r2']):>6} {_short(entry['effect']):>7}"
    if leakage:
      cells += f" {leakage['mean']:>8.2f}  {leakage['largest']:.2f} "
      cells += leakage["largest_of"]
    if entry["tied"]:
      cells += f"  (with it: {', '.join(entry['tied'])})"
    lines.append(f"{name:<16} {cells}")
  if report["hidden_r2"]:
    scores = ", ".join(f"{n} {_short(v)}" for n, v in report["hidden_r2"].items())
    lines.append(f"R2 of the hidden templates: {scores}")
  return "\n".join(lines)


def _short(value: float | None) -> str:
  return "-" if value is None else f"{value:.2f}"


def main() -> None:
  given: Any = flags.FLAGS.flag_values_dict()
  path = pathlib.Path(given["workdir"])
  report = find(path, given["step"], given["audio"], given["seed"])
  print(table(report))
  print(
    "R2: of the training clips' attributes, from their templates, on recordings held "
    "out. effect: movement of generated motion per unit. leakage: mean and largest "
    "movement of the others per unit that the attribute moves."
  )
  for name in (ARRAYS, REPORT, PICTURE):
    print(f"written: {path / name}")


def run() -> None:
  """Parses the flags and runs the program."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
  flags.DEFINE_string("audio", None, "Sound to measure on; default: the dev split.")
  flags.DEFINE_integer("seed", 0, "Seed for drawing templates.", lower_bound=0)
  cli.run(main)


if __name__ == "__main__":
  run()
