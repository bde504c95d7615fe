"""The checkpoint dict of the original <-> a config and a training state.

The original saves {"epoch", "step", "model_state_dict", "<optimizer>_state_dict", ...}.
Names in the state dict begin with "module." (it trains inside `DataParallel`), followed
by the network. Templates of SDT-BP are `clips_code`; a pose VAE records its codes in
`clip_code_mu` and `clip_code_logvar`, where SDT-VAE reads its templates from.
"""

import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from sdt_jax import audio, methods
from sdt_jax import config as config_lib
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.interop import kept as kept_lib
from sdt_jax.interop import names
from sdt_jax.methods import base, train_state
from sdt_jax.methods.base import Method
from sdt_jax.methods.train_state import TrainState
from sdt_jax.models.pose_vae import PoseEncoder

State = dict[str, np.ndarray]  # of the original: name -> array

_PREFIX = "module."
_SUFFIX = "_state_dict"
_GAN_WEIGHT = 0.1  # of the original's S2G
_MAX_COUNT = 2**31  # of steps, which are int32


class _Network(NamedTuple):
  """What the original calls a network of ours and its optimizer.

  Attributes:
    prefix: of its names.
    table: see `names`.
    optimizer: name of its optimizer; several networks may share one, which then has
      their parameters in the order of `_NETWORKS`. None if it is not trained.
    passes: number of passes of a training step that the batch statistics record.
  """

  prefix: str
  table: dict[str, str]
  optimizer: str | None
  passes: int = 1


_MAPPER, _POSE_ENCODER = kept_lib.MAPPER, "pose_encoder."
_CODE_DISCRIMINATOR = kept_lib.DISCRIMINATOR

# In the order of the original's state dict.
_NETWORKS = {
  "generator": _Network("netG.", names.GENERATOR, "optimizerG"),
  "vae": _Network("ae.", names.POSE_VAE, "optimizer"),
  "code_mapper": _Network(_MAPPER, names.CODE_MAPPER, "optimizerG"),
  "pose_encoder": _Network(_POSE_ENCODER, names.POSE_ENCODER, None),
  "discriminator": _Network("netD_pose.", names.DISCRIMINATOR, "optimizerD_pose", 3),
  "code_discriminator": _Network(
    _CODE_DISCRIMINATOR, names.CODE_DISCRIMINATOR, "optimizerD_code", 3
  ),
}
_TEMPLATES, _TEMPLATES_OPTIMIZER = "clips_code", "optimizerClipCode"
_BANK = {"mean": "clip_code_mu", "log_var": "clip_code_logvar"}

# In the original's state dict, but not part of the model: constants of the front end,
# and the frozen encoder of another checkpoint, which computes the FTD.
_NOT_IN_OUR_MODEL = {
  "mel_transfm.spectrogram.window",
  "mel_transfm.mel_scale.fb",
  *names.known(names.POSE_ENCODER, _POSE_ENCODER),
}


class Original(NamedTuple):
  """A checkpoint of the original."""

  epoch: int  # number of completed epochs
  step: int  # number of completed optimization steps
  model: State  # state dict, names without "module."
  optimizers: dict[str, Any]  # e.g. "optimizerG" -> state dict of a torch optimizer
  kept: State  # what no method of ours has, see `kept`; not in the fields above


def parse(content: Any) -> Original:
  """Checks what `torch_file.read` returned.

  Raises:
    UserError: it is not a checkpoint of the original.
  """
  model = content.get("model_state_dict") if isinstance(content, dict) else None
  if not isinstance(model, dict):
    raise UserError(
      "has no 'model_state_dict'; expected a checkpoint that the original code of "
      "Speech Drives Templates saved while training"
    )
  strange = {str(name) for name, a in model.items() if not isinstance(a, np.ndarray)}
  names.require_none({"not tensors:": strange})
  epoch: Any = content.get("epoch")
  step: Any = content.get("step")
  if not all(isinstance(n, int) and 0 <= n < _MAX_COUNT for n in (epoch, step)):
    raise UserError(f"epoch is {epoch!r}, step {step!r}; expected two counts")
  optimizers = {
    key.removesuffix(_SUFFIX): value
    for key, value in content.items()
    if isinstance(key, str) and key.endswith(_SUFFIX) and value is not model
  }
  model = {str(name).removeprefix(_PREFIX): array for name, array in model.items()}
  parts = kept_lib.take(model, optimizers, _has_sequence(model))
  return Original(epoch, step, *parts)


def kind(model: State) -> str:
  """The experiment file that describes the model, for example "sdt_bp".

  Raises:
    UserError: it is a model of another program.
  """
  if _has(model, "ae."):
    return "pose2pose"
  if not _has(model, "netG."):
    raise UserError(
      "is not a model of Speech Drives Templates; its names are "
      f"{', '.join(sorted(model)[:3])} ..., expected netG.* or ae.*"
    )
  if _TEMPLATES in model:
    return "sdt_bp"
  if _template_size(model):
    return "sdt_vae_sequence" if _has_sequence(model) else "sdt_vae"
  return "s2g" if _has_batch_norm(model) else "sdt_bp"  # the latter without templates


def _has(model: State, prefix: str) -> bool:
  return any(name.startswith(prefix) for name in model)


def _has_sequence(model: State) -> bool:
  """Whether it is SDT-VAE with the complete sequence model of the first version."""
  prefixes = (_MAPPER, _CODE_DISCRIMINATOR)
  return _TEMPLATES not in model and all(_has(model, prefix) for prefix in prefixes)


def _has_batch_norm(model: State) -> bool:
  return "netG.unet.e0.norm.running_mean" in model


def _norm(model: State, block: str, given: str) -> str:
  """The norm of a block; `given` decides what a file does not contain.

  That is which of the two instance norms, and the number of groups of a group norm.
  """
  if f"{block}.norm.running_mean" in model:
    return "bn"
  if f"{block}.norm.weight" in model:
    return given if given.startswith("gn") else "gn16"  # as the original
  return "in" if given == "in" else "in_star"


def _audio_channels(model: State) -> tuple[int, ...]:
  """Of the stages of the audio encoder."""
  name = "netG.audio_encoder.specgram_encoder_2d.{}.0.conv.weight"
  return tuple(_array(model, name.format(stage)).shape[0] for stage in range(4))


def _template_size(model: State) -> int:
  """Input channels of the U-Net besides the audio features; 0 without templates."""
  return _array(model, "netG.unet.e0.conv.weight").shape[1] - _audio_channels(model)[-1]


def _array(model: State, name: str) -> np.ndarray:
  """A convolution's kernel."""
  if name not in model or model[name].ndim < 3 or not model[name].size:
    raise UserError(f"parameter names do not match: the file lacks the kernel {name}")
  return model[name]


def config_fields(model: State, config: Config) -> dict[str, Any]:
  """The fields that follow from the names and shapes in a file.

  Args:
    model: state dict of the original.
    config: decides what a file does not contain: the weight of the GAN, and what
      `_norm` says.

  Returns:
    Field name -> value, for example "generator.channels" -> 256.
  """
  if _has(model, "ae."):
    return {
      "experiment": methods.name_of("vae"),
      "generator.channels": _array(model, "ae.encoder.blocks.0.conv.weight").shape[0],
      "template.size": _array(model, "ae.encoder.blocks.6.conv.weight").shape[0] // 2,
      "pose_vae.norm": _norm(model, "ae.encoder.blocks.1", config.pose_vae.norm),
    }
  size = _template_size(model)
  bank = model.get(_TEMPLATES)
  gan_weight = config.discriminator.weight or _GAN_WEIGHT
  fields = {
    "experiment": methods.name_of("generator"),
    "generator.channels": _array(model, "netG.unet.e1.conv.weight").shape[0],
    "generator.audio_channels": _audio_channels(model),
    "generator.norm": _norm(model, "netG.unet.e0", config.generator.norm),
    "template.kind": "bp" if bank is not None else "vae" if size else "none",
    "template.frame_wise": bank is not None and bank.ndim == 3,
    "sequence.train": _has_sequence(model),
    "discriminator.weight": gan_weight if _has(model, "netD_pose.") else 0.0,
  }
  return fields | ({"template.size": size} if size else {})


def to_state(
  original: Original, method: Method, bank: np.ndarray | None
) -> tuple[TrainState, list[str]]:
  """The training state of a checkpoint; inverse of `from_state`.

  Args:
    original: the checkpoint.
    method: as built from the fields of `config_fields`.
    bank: (N, D) templates of an SDT-VAE model, else None.

  Returns:
    The state, and one line for each optimizer that starts from scratch.

  Raises:
    UserError: names missing or left over on either side, or a shape that differs.
  """
  model = original.model
  wanted = jax.eval_shape(lambda: method.init(jax.random.key(0), num_clips=1))
  networks = {name: _NETWORKS[name] for name in wanted.batch_stats}
  _check_leftovers(model, networks, wanted)
  variables = {name: _to_flax(model, name, wanted.network(name)) for name in networks}
  params = {name: v["params"] for name, v in variables.items()}
  if "templates" in wanted.params:
    rows = _rows(model, _TEMPLATES, wanted.params["templates"])
    params["templates"] = _templates(rows)
  if "log_var" not in wanted.bank:  # templates come from another model
    model = model | ({} if bank is None else {_BANK["mean"]: bank})
  banks: Any = {ours: _rows(model, _BANK[ours], a) for ours, a in wanted.bank.items()}
  stats = {name: v.get("batch_stats", {}) for name, v in variables.items()}
  state = train_state.create(params, stats, banks, method.optimizers)
  state = state.replace(step=jnp.asarray(original.step, jnp.int32))
  return _with_optimizers(state, original)


def _to_flax(arrays: State, name: str, target: Any) -> dict[str, Any]:
  """`names.to_flax` for the network `name`."""
  network = _NETWORKS[name]
  if network.prefix != _MAPPER:  # whose names begin with the prefix of the generator
    arrays = {k: a for k, a in arrays.items() if not k.startswith(_MAPPER)}
  return names.to_flax(arrays, network.table, target, network.prefix)


def _check_leftovers(model: State, networks, wanted: TrainState) -> None:
  """Raises a UserError if a name in the file belongs to nothing that is known."""
  known = set(_NOT_IN_OUR_MODEL)
  for network in networks.values():
    known |= names.known(network.table, network.prefix)
  if "templates" in wanted.params:
    known.add(_TEMPLATES)
  if "log_var" in wanted.bank:
    known |= set(_BANK.values())
  names.require_none({"the file has, but the model does not,": set(model) - known})


def _rows(model: Mapping[str, Any], name: str, wanted) -> np.ndarray:
  """One row for each training clip, shaped like `wanted` (1, ...)."""
  if model.get(name) is None:
    raise UserError(f"parameter names do not match: the file lacks {name}")
  rows = np.asarray(model[name], np.float32)
  expected = _templates(np.broadcast_to(np.float32(0), wanted.shape)).shape[1:]
  if not rows.size or rows.shape[1:] != expected:
    raise UserError(f"{name}: shape {rows.shape}, expected (clips, *{expected})")
  return rows


def _templates(rows: np.ndarray) -> np.ndarray:
  """Frame-wise (N, D, T) of the original <-> (N, T, D) of ours; (N, D) as it is."""
  return rows if rows.ndim == 2 else np.ascontiguousarray(rows.swapaxes(1, 2))


def _by_optimizer(entries: Iterable[str]) -> dict[str, list[str]]:
  """The original's optimizers -> the entries that each trains, in its order."""
  groups: dict[str, list[str]] = {}
  for name in sorted(entries, key=[*_NETWORKS, "templates"].index):
    network = _NETWORKS.get(name)
    key = network.optimizer if network else _TEMPLATES_OPTIMIZER
    assert key is not None
    groups.setdefault(key, []).append(name)
  return groups


class _NoMatchError(Exception):
  """A saved optimizer does not belong to these parameters."""


def _with_optimizers(
  state: TrainState, original: Original
) -> tuple[TrainState, list[str]]:
  """The state with the saved moments, and one line for each that is not in the file."""
  opt_states: dict[str, Any] = dict(state.opt_states)
  groups, notes = _by_optimizer(opt_states), []
  for key, members in groups.items():
    adams = {name: opt_states[name][0] for name in members}
    try:
      params = {name: state.params[name] for name in members}
      adams = _to_adam(original.optimizers.get(key), params, adams)
    except _NoMatchError as e:
      names_of = " and the ".join(members)
      notes.append(f"{key}: {e}; Adam starts from scratch for the {names_of}")
    for name, adam in adams.items():
      schedule = opt_states[name][1]._replace(count=state.step)
      opt_states[name] = (adam, schedule)
  unused = sorted(original.optimizers.keys() - groups.keys())
  notes += [f"{key}: not used" for key in unused]
  return state.replace(opt_states=opt_states), notes


def _to_adam(saved: Any, params: dict[str, Any], adams: dict[str, Any]):
  """Converts the state of a torch Adam to that of optax, for each entry."""
  shapes = {name: a.shape for name, a in _torch_layout(params).items()}
  try:
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    entries = [saved["state"][i] for i in ids]
    moments = [
      {name: entry[key] for name, entry in zip(shapes, entries, strict=True)}
      for key in ("exp_avg", "exp_avg_sq")
    ]
    step = max(int(entry["step"]) for entry in entries)
  except (LookupError, TypeError, ValueError, AttributeError) as e:
    reason = "not in the file" if saved is None else "not an Adam of these parameters"
    raise _NoMatchError(reason) from e
  if not 0 <= step < _MAX_COUNT:
    raise _NoMatchError(f"of step {step}")
  for moment in moments:
    if any(np.shape(moment[name]) != shape for name, shape in shapes.items()):
      raise _NoMatchError("of parameters of other shapes")
  mu, nu = (_our_layout(moment, params) for moment in moments)
  count = jnp.asarray(step, jnp.int32)
  return {
    name: adam._replace(count=count, mu=mu[name], nu=nu[name])
    for name, adam in adams.items()
  }


def _torch_layout(params: dict[str, Any]) -> State:
  """Parameters, or their moments, in the order and layout of the original."""
  arrays: State = {}
  for name, tree in params.items():
    if network := _NETWORKS.get(name):
      arrays |= names.from_flax({"params": tree}, network.table, network.prefix)
    else:
      arrays[_TEMPLATES] = _templates(np.asarray(tree))
  return arrays


def _our_layout(arrays: State, params: dict[str, Any]) -> dict[str, Any]:
  """Inverse of `_torch_layout`; `params` has the shapes."""
  return {
    name: _to_flax(arrays, name, {"params": tree})["params"]
    if name in _NETWORKS
    else _templates(np.asarray(arrays[_TEMPLATES], np.float32))
    for name, tree in params.items()
  }


def from_state(
  state: TrainState,
  config: Config,
  epoch: int,
  pose_vae: TrainState | None = None,
  kept: State | None = None,
) -> dict[str, Any]:
  """The checkpoint that the original would have saved; inverse of `to_state`.

  Args:
    state: a run of one of the original's experiments.
    config: the config of that run.
    epoch: number of completed epochs.
    pose_vae: state of a pose VAE; its encoder becomes the frozen `pose_encoder` that
      the original expects in checkpoints of gesture models, unless `state` has one.
      None gives untrained weights.
    kept: what the imported checkpoint also had, see `kept.read`.

  Returns:
    Content for `torch_zip.write`.
  """
  kept = kept or {}
  step, opt_states = int(state.step), cast(Any, state.opt_states)
  model = _rows_of(state) | _front_end() | kept_lib.part(kept, kept_lib.CONSTANTS)
  for name, network in _NETWORKS.items():
    if name in state.params:
      arrays = names.from_flax(state.network(name), network.table, network.prefix)
    elif name == "pose_encoder" and "generator" in state.params:
      arrays = _pose_encoder(pose_vae)
    else:
      model |= kept_lib.part(kept, network.prefix)
      continue
    model |= _with_counters(arrays, network.passes * step)
  content: dict[str, Any] = {
    "epoch": epoch,
    "step": step,
    "model_state_dict": OrderedDict((_PREFIX + k, v) for k, v in model.items()),
  }
  for key, members in _by_optimizer(opt_states).items():
    adams = {name: opt_states[name][0] for name in members}
    settings = _hyperparameters(config, members[0], epoch)
    content[key + _SUFFIX] = _to_torch_adam(adams, settings)
  kept_lib.add_optimizers(content, kept)
  return content


def _rows_of(state: TrainState) -> State:
  """The arrays of the original with one row per training clip."""
  if "templates" in state.params:
    return {_TEMPLATES: _templates(np.asarray(state.params["templates"]))}
  if "log_var" in state.bank:
    return {name: np.asarray(state.bank[ours]) for ours, name in _BANK.items()}
  return {}


@functools.cache
def _front_end() -> State:
  """The constant buffers of torchaudio's mel spectrogram."""
  window = np.hanning(400 + 1)[:-1]  # periodic
  return {
    "mel_transfm.spectrogram.window": window.astype(np.float32),
    "mel_transfm.mel_scale.fb": audio.mel_filters(),
  }


def _pose_encoder(pose_vae: TrainState | None) -> State:
  """The encoder of a trained pose VAE, or an untrained one of the original's size."""
  if pose_vae is not None:
    variables = {k: v["encoder"] for k, v in pose_vae.network("vae").items()}
    return names.from_flax(variables, names.POSE_ENCODER, _POSE_ENCODER)
  poses = jnp.zeros((1, *base.CLIP_SHAPE))
  init = functools.partial(PoseEncoder().init, train=True)
  rng = np.random.default_rng(0)

  def draw(path, leaf) -> np.ndarray:
    if path[-1].key == "kernel":
      normal = rng.standard_normal(leaf.shape, np.float32)
      return normal * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
    return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

  shapes = jax.eval_shape(init, jax.random.key(0), poses)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return names.from_flax(variables, names.POSE_ENCODER, _POSE_ENCODER)


def _with_counters(arrays: State, step: int) -> State:
  """Adds PyTorch's counter of batches after each running variance."""
  counted: State = {}
  for name, array in arrays.items():
    counted[name] = array
    if name.endswith(".running_var"):
      counter = name.replace(".running_var", ".num_batches_tracked")
      counted[counter] = np.array(step, np.int64)
  return counted


def _to_torch_adam(adams: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
  """Inverse of `_to_adam`."""
  means, squares = (
    _torch_layout({name: getattr(adam, moment) for name, adam in adams.items()})
    for moment in ("mu", "nu")
  )
  count = int(next(iter(adams.values())).count)
  state = {
    i: {"step": count, "exp_avg": means[name], "exp_avg_sq": squares[name]}
    for i, name in enumerate(means)
    if count
  }
  return {"state": state, "param_groups": [group | {"params": list(range(len(means)))}]}


def _hyperparameters(config: Config, name: str, epoch: int) -> dict[str, Any]:
  """Adam's settings under torch's names, as they are at the end of an epoch."""
  rate = config.optimizer.learning_rate
  section = {"templates": "template", "discriminator": "discriminator"}.get(name)
  if section:
    rate *= config[section].learning_rate_scale
  passed = sum(milestone < epoch for milestone in config_lib.milestones(config))
  is_penalised = name in ("generator", "vae")
  return {
    "lr": rate * config.optimizer.decay**passed,
    "betas": (config.optimizer.b1, config.optimizer.b2),
    "eps": 1e-8,
    "weight_decay": config.optimizer.weight_decay if is_penalised else 0,
    "amsgrad": False,
    "initial_lr": rate,
  }
