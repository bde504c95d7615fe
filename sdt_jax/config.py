"""The fields of a run: default, meaning, allowed values, and whether a run may change
them. `python -m sdt_jax.config` prints them as a table (docs/configuration.md).

An experiment file starts from `default()` and sets what differs. ml_collections parses
`--config.section.field=value`, but checks only the type; `check` checks the rest.
"""

import dataclasses
import functools
import json
import math
import operator
import pathlib
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from sdt_jax.errors import UserError

Config = Any
"""An `ml_collections.ConfigDict` with the fields below."""


@dataclasses.dataclass(frozen=True)
class Allowed:
  """The allowed values of a field: a test, and its description in error messages."""

  test: Callable[[Any], bool]
  text: str


def _one_of(*choices: str) -> Allowed:
  return Allowed(choices.__contains__, f"one of {choices}")


_ANY = Allowed(lambda _: True, "any")
_POSITIVE = Allowed(lambda x: x > 0, "a positive number")
_NOT_NEGATIVE = Allowed(lambda x: x >= 0, "0 or more")
_NORM = Allowed(
  lambda x: re.fullmatch(r"bn|in|in_star|gn[1-9]\d{0,3}", x) is not None,
  "bn, in, in_star or gn<groups>, for example gn16",
)
_SHARE = Allowed(lambda x: 0 <= x < 1, "0 or more, below 1")


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of the config.

  Attributes:
    default: also gives the type.
    meaning: for the reader.
    allowed: which values of that type are possible.
    may_change: whether a run may be resumed with another value.
    absent: the value that reproduces the behaviour of versions that lack the field;
      None for a field that every run has.
  """

  default: Any
  meaning: str
  allowed: Allowed = _ANY
  may_change: bool = False
  absent: Any = None


# A field that a resumed run may change: how training runs, not what is trained.
_run_field = functools.partial(Field, may_change=True)


FIELDS: dict[str, Any] = {
  "experiment": Field("voice2pose", "the method to train, a name in `sdt_jax.methods`"),
  "seed": Field(
    0, "seed of all randomness", Allowed(lambda x: 0 <= x < 2**32, "0 to 4294967295")
  ),
  "batch_size": Field(
    32,
    "clips per step, over all devices; the last partial batch of an epoch is dropped",
    Allowed(lambda x: x > 1, "2 or more, which batch statistics need"),
  ),
  "num_epochs": _run_field(100, "passes over the training clips", _POSITIVE),
  "teacher": _run_field(
    "",
    "workdir of a gesture model trained on the same clips; its motion for them is a "
    "second target, weighted by loss.teacher_weight",
    absent="",
  ),
  "pretrained_partial": Field(
    False, "let --pretrained skip networks that only one of the two runs has"
  ),
  "parallel": _run_field(
    "jit", "how the step is mapped over devices", _one_of("jit", "pmap")
  ),
  "precision": Field(
    "float32",
    "type of the activations; bf16 is for GPUs and TPUs. Parameters, statistics, "
    "losses and optimizers stay float32. float32 products use JAX's default "
    "precision, which is often TF32 on GPUs",
    _one_of("float32", "bf16"),
    absent="float32",
  ),
  "steps_at_once": _run_field(
    0,
    "steps per dispatch when the training data is in device memory; 0 means 1 on CPUs "
    "and log.every_steps elsewhere",
    _NOT_NEGATIVE,
    absent=0,
  ),
  "dataset": {
    "name": Field(
      "",
      "the data set: a name in `sdt_jax.data`, or my_module:MyBuilder; empty means "
      "speech2gesture if root is set, else synthetic",
    ),
    "root": _run_field(
      "",
      "folder of the data; speech2gesture: folder that contains the packs, or a pack",
    ),
    "speaker": Field(
      "", "name of the speaker; empty means the only pack in root; synthetic: ada"
    ),
    "num_train_clips": Field(2048, "synthetic: number of training clips to make"),
    "num_dev_clips": Field(256, "synthetic: number of dev clips to make"),
    "data_dir": _run_field("data", "folder for the built data sets"),
    "statistics": Field(
      "auto",
      "pose statistics to normalise with: the published table, the pack's own, or the "
      "published one if it fits the pack",
      _one_of("auto", "published", "pack"),
    ),
    "skip_bad_clips": Field(False, "skip and count unusable clips instead of stopping"),
    "cache_gb": _run_field(
      8.0, "keep smaller training data in the memory of every device", _NOT_NEGATIVE
    ),
    "num_threads": _run_field(1, "threads that read ahead", _NOT_NEGATIVE),
  },
  "pose": {
    "hierarchical": Field(
      True, "express hands relative to the wrists and the face relative to the nose tip"
    )
  },
  "generator": {
    "norm": Field(
      "in_star",
      "batch norm, instance norm, IN* (in 1-D over the channels of each time step), or "
      "group norm",
      _NORM,
    ),
    "channels": Field(256, "channels of the 1-D U-Net and the decoder", _POSITIVE),
    "audio_channels": Field(
      (64, 128, 256, 256),
      "channels of the four stages of the audio encoder",
      Allowed(lambda x: len(x) == 4 and all(c > 0 for c in x), "4 positive numbers"),
    ),
    "causal": Field(
      False,
      "use a causal generator, for live use: a frame depends on sound up to look_ahead "
      "frames after it",
      absent=False,
    ),
    "look_ahead": Field(
      1, "causal: frames of sound after a frame that affect it", _NOT_NEGATIVE, absent=1
    ),
  },
  "pose_vae": {
    "norm": Field("bn", "norm of the pose VAE, see generator.norm", _NORM, absent="bn")
  },
  "loss": {
    "regression": Field(
      "l1",
      "regression loss on normalised poses: mean absolute error, Huber loss with delta "
      "1, or mean squared error",
      _one_of("l1", "smooth_l1", "mse"),
      absent="l1",
    ),
    "regression_weight": Field(
      1.0, "weight of the regression loss", _NOT_NEGATIVE, absent=1.0
    ),
    "teacher_weight": Field(
      1.0, "weight of the regression to the teacher's poses", _NOT_NEGATIVE, absent=1.0
    ),
    "lips_only": Field(
      False,
      "compare only the lips: all other joints count as 0 in all losses",
      absent=False,
    ),
  },
  "template": {
    "kind": Field(
      "bp",
      "learnt by back-propagation, taken from a pose VAE, or no templates",
      _one_of("bp", "vae", "none"),
    ),
    "pose_vae": Field(
      "",
      "kind vae: workdir of a pose2pose run on the same clips; default: "
      "<workdir>/pose_vae, which is trained first",
      absent="",
    ),
    "of": Field(
      "",
      "template_sequence: workdir of the SDT run whose templates to model; the fields "
      "of its data set are taken where they have their defaults",
      absent="",
    ),
    "size": Field(32, "dimensions of a template", _POSITIVE),
    "frame_wise": Field(False, "kind bp: one template per frame instead of per clip"),
    "kl_weight": Field(
      0.1, "weight of the KL term; the paper states 1, its code uses 0.1", _NOT_NEGATIVE
    ),
    "learning_rate_scale": Field(
      1.0, "rate for learnt templates, relative to optimizer.learning_rate", _POSITIVE
    ),
    "frozen": Field(
      False, "kind bp: use the templates of --pretrained as they are", absent=False
    ),
  },
  "sequence": {
    "train": Field(
      False,
      "kind vae: also train the sequence model of the paper's section 4.4, which draws "
      "a template for each frame",
      absent=False,
    ),
    "smoothness_weight": Field(
      1.0,
      "weight of the difference between the templates of neighbouring frames",
      _NOT_NEGATIVE,
      absent=1.0,
    ),
    "kl_weight": Field(
      1.0,
      "weight of the KL term of the templates of all frames",
      _NOT_NEGATIVE,
      absent=1.0,
    ),
    "gan_weight": Field(
      1.0,
      "weight of the GAN that compares them with the templates of real clips",
      _NOT_NEGATIVE,
      absent=1.0,
    ),
  },
  "discriminator": {
    "weight": Field(
      0.0, "weight of the motion GAN; 0 means no discriminator", _NOT_NEGATIVE
    ),
    "learning_rate_scale": Field(
      1.0, "rate for the discriminator, relative to optimizer.learning_rate", _POSITIVE
    ),
    "input": Field(
      "motion",
      "its input: differences of successive poses, or the poses",
      _one_of("motion", "poses"),
      absent="motion",
    ),
    "joints": Field(
      "",
      "joints in its input: names of joints or of the parts body, face, left_hand and "
      "right_hand, separated by commas; default: all",
      absent="",
    ),
  },
  "optimizer": {
    "learning_rate": Field(
      1e-4,
      "Adam's learning rate; templates and discriminator use multiples of it",
      _POSITIVE,
    ),
    "b1": Field(0.9, "Adam's decay of the first moment", _SHARE),
    "b2": Field(0.999, "Adam's decay of the second moment", _SHARE),
    "milestones": _run_field(
      (-10, -2),
      "epochs after which all learning rates decay; negative ones count from the end",
      Allowed(all, "epochs other than 0"),
    ),
    "decay": Field(0.1, "factor applied at each milestone", _NOT_NEGATIVE),
    "weight_decay": Field(
      0.0,
      "L2 penalty on the generator or the pose VAE, as in PyTorch's Adam: this times "
      "the weights is added to the gradient",
      _NOT_NEGATIVE,
      absent=0.0,
    ),
  },
  "evaluation": {
    "every_epochs": _run_field(
      1, "epochs between validations; 0 means none", _NOT_NEGATIVE, absent=1
    ),
    "template": _run_field(
      "random",
      "templates at validation: random rows of the bank, from the standard normal "
      "distribution, or the pose VAE's means of the true poses",
      _one_of("random", "normal", "encoder"),
      absent="random",
    ),
    "pose_vae": _run_field(
      "",
      "workdir of a pose2pose run of the same speaker, for FTD at validation; default: "
      "the one that the templates come from",
      absent="",
    ),
  },
  "log": {
    "every_steps": _run_field(20, "steps per line of training metrics", _POSITIVE),
    "train_videos": _run_field(2, "sample videos of training clips", _NOT_NEGATIVE),
    "dev_videos": _run_field(8, "sample videos of dev clips", _NOT_NEGATIVE),
    "video_every_epochs": _run_field(
      1, "epochs between sample videos; 0 means none", _NOT_NEGATIVE
    ),
    "tensorboard_videos": _run_field(False, "add the sample videos to TensorBoard"),
  },
  "checkpoint": {
    "every_epochs": _run_field(1, "epochs between checkpoints", _POSITIVE),
    "every_steps": _run_field(
      0, "also save every so many steps; 0 means never", _NOT_NEGATIVE, absent=0
    ),
    "every_minutes": _run_field(
      0.0, "also save after so many minutes; 0 means never", _NOT_NEGATIVE, absent=0.0
    ),
    "keep_latest": _run_field(2, "number of latest checkpoints to keep", _POSITIVE),
    "keep_every_epochs": _run_field(
      0,
      "also keep one checkpoint every so many epochs; 0: none",
      _NOT_NEGATIVE,
      absent=0,
    ),
    "keep_best": _run_field(1, "number of best checkpoints to keep", _NOT_NEGATIVE),
    "best_metric": _run_field(
      "lip_sync", "dev metric whose lowest value marks the best checkpoint"
    ),
  },
  "debug": {
    "nans": _run_field(
      False, "find the operation that produces a NaN; slow", absent=False
    )
  },
}


def _walk(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Field]]:
  """Every field with its dotted name."""
  for key, value in fields.items():
    if isinstance(value, Field):
      yield prefix + key, value
    else:
      yield from _walk(value, f"{prefix}{key}.")


BY_NAME: dict[str, Field] = dict(_walk(FIELDS))


def default() -> Config:
  """A config with every field at its default: SDT-BP as in the paper."""

  def values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
      key: value.default if isinstance(value, Field) else values(value)
      for key, value in fields.items()
    }

  return ml_collections.ConfigDict(values(FIELDS))


def check(config: Config) -> None:
  """Raises a UserError that names the first field that is unknown, missing or wrong."""
  values = flatten(config)
  sections = {name.rpartition(".")[0] for name in BY_NAME}
  for name in values.keys() - BY_NAME.keys():
    if name in sections:
      raise UserError(
        f"config.{name} is {values[name]!r}; expected a section of fields"
      )
    raise UserError(f"config.{name} is not a field; {_SEE_FIELDS}")
  for name, field in BY_NAME.items():
    if name not in values:
      raise UserError(f"config.{name} is missing; {_SEE_FIELDS}")
    value = get(config, name)
    if not _has_type_of(value, field.default):
      raise UserError(
        f"config.{name} is {value!r}; expected a value like {field.default!r}"
      )
    if not field.allowed.test(value):
      raise UserError(f"config.{name} is {value!r}; expected {field.allowed.text}")


_SEE_FIELDS = "sdt_jax/config.py lists every field"


def get(config: Config, name: str) -> Any:
  """A field by its dotted name, for example "generator.norm"."""
  return functools.reduce(operator.getitem, name.split("."), config)


def _has_type_of(value: Any, default: Any) -> bool:
  """Whether `value`, perhaps from a JSON file, has the type of `default`."""
  if isinstance(default, tuple):
    is_row = isinstance(value, list | tuple)
    return is_row and all(_has_type_of(item, default[0]) for item in value)
  if isinstance(default, float):
    return type(value) in (int, float) and math.isfinite(value)
  return type(value) is type(default)


def with_absent_fields(
  values: Mapping[str, Any], fields: Mapping[str, Any] = FIELDS
) -> dict[str, Any]:
  """Fills in the fields that an older run lacks, so as to reproduce its behaviour.

  Lists, from JSON, become tuples where the default is one.
  """
  complete = _with_rate_scales(values) if fields is FIELDS else dict(values)
  for key, field in fields.items():
    if isinstance(field, Field):
      if field.absent is not None:
        complete.setdefault(key, field.absent)
      if isinstance(field.default, tuple) and isinstance(complete.get(key), list):
        complete[key] = tuple(complete[key])
    elif isinstance(section := complete.get(key, {}), dict):  # else `check` reports it
      complete[key] = with_absent_fields(section, field)
  return complete


def _with_rate_scales(values: Mapping[str, Any]) -> dict[str, Any]:
  """Replaces the absolute learning rates of older runs by relative ones."""
  complete = dict(values)
  for name in ("template", "discriminator"):
    section = complete.get(name)
    if isinstance(section, dict) and "learning_rate" in section:
      rest = {k: v for k, v in section.items() if k != "learning_rate"}
      scale = section["learning_rate"] / values["optimizer"]["learning_rate"]
      complete[name] = rest | {"learning_rate_scale": scale}
  return complete


def milestones(config: Config) -> list[int]:
  """Epochs after which the learning rates decay, counted from the start."""
  epochs = (m if m > 0 else config.num_epochs + m for m in config.optimizer.milestones)
  return sorted(epoch for epoch in epochs if epoch > 0)


def differences(old: Config, new: Config) -> list[str]:
  """Fields that differ and that a resumed run may not change, as "name (old -> new)".

  Either may come from JSON, where tuples are lists.
  """
  a, b = flatten(old), flatten(new)
  return [
    f"{name} ({a.get(name)!r} -> {b.get(name)!r})"
    for name in sorted(a.keys() | b.keys())
    if a.get(name) != b.get(name) and not (name in BY_NAME and BY_NAME[name].may_change)
  ]


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
  """Values of a config, or of its JSON, by dotted name; tuples become lists."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, dict | ml_collections.ConfigDict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def experiments_folder() -> pathlib.Path:
  """The folder of experiment files: `configs/`, in a wheel `sdt_jax/configs/`."""
  installed = pathlib.Path(__file__).with_name("configs")
  return installed if installed.is_dir() else installed.parents[1] / "configs"


def experiment(name: str) -> Config:
  """The config of an experiment file that comes with the package.

  Raises:
    UserError: there is none of this name.
  """
  path = experiments_folder() / f"{name}.py"
  if not path.is_file():
    raise UserError(f"{path}: no such file; use one of the files in configs/")
  return runpy.run_path(str(path))["get_config"]()


def table() -> str:
  """Every field as a row of a Markdown table."""
  head = "| field | default | meaning | allowed | a run may change it |"
  rows = [head, "|---" * 5 + "|"]
  for name, field in BY_NAME.items():
    allowed = "" if field.allowed is _ANY else field.allowed.text
    change = "yes" if field.may_change else ""
    value = json.dumps(field.default)
    rows.append(f"| `{name}` | `{value}` | {field.meaning} | {allowed} | {change} |")
  return "\n".join(rows)


if __name__ == "__main__":
  print(table())
