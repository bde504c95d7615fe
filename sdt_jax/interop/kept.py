"""Stores the parts of first-version checkpoints that this package does not use.

These are a second mel spectrogram and, of models other than SDT-VAE, the networks of
the sequence model (section 4.4 of the paper): the code mapper and the code
discriminator, with the states of their optimizers. They stay in
`<workdir>/original.npz` and are exported unchanged. Names of the arrays:

    <tensor>                         as in the state dict, without "module."
    <optimizer>/<parameter>/<entry>  state of Adam: exp_avg, exp_avg_sq, step
    <optimizer>/param_group          its other settings, as JSON text
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdt_jax import files

FILE_NAME = "original.npz"

State = dict[str, np.ndarray]

CONSTANTS, MAPPER, DISCRIMINATOR = "mel_transfm_lip.", "netG.code_mapper.", "netD_code."

# Optimizer -> prefix of the kept parameters, which are the last that it trains.
_OPTIMIZERS = {"optimizerG": MAPPER, "optimizerD_code": DISCRIMINATOR}
_NOT_TRAINED = ("running_mean", "running_var", "num_batches_tracked")


def take(
  model: State, optimizers: Mapping[str, Any], has_sequence: bool
) -> tuple[State, dict[str, Any], State]:
  """Splits a checkpoint into what is imported and what is kept.

  Args:
    model: state dict of the original, names without "module.".
    optimizers: e.g. "optimizerG" -> state dict of a torch optimizer.
    has_sequence: whether the sequence model is imported, instead of kept.

  Returns:
    The model and the optimizers without the kept parts, and the kept arrays. An
    optimizer that does not belong to these parameters is left as it is.
  """
  prefixes = (CONSTANTS,) if has_sequence else (CONSTANTS, MAPPER, DISCRIMINATOR)
  kept = {name: a for name, a in model.items() if name.startswith(prefixes)}
  rest = dict(optimizers)
  moments: State = {}
  for key, prefix in _OPTIMIZERS.items():
    shapes = {name: kept[name].shape for name in _parameters(kept, prefix)}
    try:
      others, own = _split(key, rest[key], shapes)
    except (LookupError, TypeError, ValueError, AttributeError):
      continue
    moments |= own
    rest.pop(key)
    rest |= {key: others} if others else {}
  model = {name: a for name, a in model.items() if name not in kept}
  return model, rest, kept | moments


def _parameters(kept: Mapping[str, Any], prefix: str) -> list[str]:
  """Names of the kept parameters in the order of the optimizer."""
  return [
    name for name in kept if name.startswith(prefix) and not name.endswith(_NOT_TRAINED)
  ]


def _split(
  key: str, saved: Any, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any] | None, State]:
  """State of the optimizer without these parameters, None if there are no others.

  Also returns the arrays that are kept. Any error means that this is not the Adam of
  these parameters.
  """
  if not shapes:
    raise LookupError
  [group] = saved["param_groups"]
  others, own = group["params"][: -len(shapes)], group["params"][-len(shapes) :]
  arrays: State = {}
  for (name, shape), i in zip(shapes.items(), own, strict=True):
    for entry, value in saved["state"].get(i, {}).items():
      array = np.asarray(value)
      if array.dtype.kind not in "biuf" or (entry != "step" and array.shape != shape):
        raise ValueError
      arrays[f"{key}/{name}/{entry}"] = array
  settings = {k: v for k, v in group.items() if k != "params"}
  if others:  # `original` writes the settings of optimizers that we have
    state = {i: entry for i, entry in saved["state"].items() if i not in own}
    return {"state": state, "param_groups": [settings | {"params": others}]}, arrays
  return None, arrays | {f"{key}/param_group": np.array(json.dumps(settings))}


def part(kept: State, prefix: str) -> State:
  """The kept tensors whose names begin with `prefix`."""
  return {name: array for name, array in kept.items() if name.startswith(prefix)}


def add_optimizers(content: dict[str, Any], kept: State) -> None:
  """Adds the kept states of optimizers to a checkpoint, in place.

  Args:
    content: "optimizerG_state_dict" -> state dict of a torch optimizer, ...
    kept: as returned by `take`.
  """
  for key, prefix in _OPTIMIZERS.items():
    saved = content.get(f"{key}_state_dict")
    if saved is None:
      if f"{key}/param_group" not in kept:
        continue
      settings = json.loads(str(kept[f"{key}/param_group"]))
      tuples = {k: tuple(v) if type(v) is list else v for k, v in settings.items()}
      saved = {"state": {}, "param_groups": [tuples | {"params": []}]}
      content[f"{key}_state_dict"] = saved
    ids = saved["param_groups"][0]["params"]
    for name in _parameters(kept, prefix):
      entries = part(kept, f"{key}/{name}/")
      if entries:
        saved["state"][len(ids)] = {
          path.rpartition("/")[2]: int(a) if a.dtype.kind == "i" else a
          for path, a in entries.items()
        }
      ids.append(len(ids))


def write(folder: pathlib.Path, kept: State) -> None:
  """Writes the file, unless there is nothing to keep."""
  if kept:
    with files.replacing(folder / FILE_NAME) as temporary:
      np.savez(temporary, allow_pickle=False, **kept)


def read(folder: pathlib.Path) -> State:
  """Inverse of `write`; nothing is unpickled.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / FILE_NAME
  return files.read_arrays(path) if path.exists() else {}
