"""Everything that can be trained, by its name in `config.experiment`."""

from sdt_jax import config as config_lib
from sdt_jax.config import Config
from sdt_jax.errors import UserError
from sdt_jax.methods.base import Method
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.template_sequence import TemplateSequence
from sdt_jax.methods.voice2pose import Voice2Pose

METHODS: dict[str, type[Method]] = {
  "voice2pose": Voice2Pose,
  "pose2pose": Pose2Pose,
  "template_sequence": TemplateSequence,
}


def check(config: Config) -> None:
  """Raises a UserError that names the first field with an impossible value."""
  config_lib.check(config)
  if config.experiment not in METHODS:
    raise UserError(
      f"config.experiment is {config.experiment!r}; expected one of {tuple(METHODS)}"
    )
  method, of = METHODS[config.experiment], config.template.of
  if method.models_templates and not of:
    raise UserError("config.template.of is empty; give the workdir of an SDT run")
  if of and not method.models_templates:
    raise UserError(
      f"config.template.of is {of!r}, but a {method.title} models no templates; leave "
      "it out"
    )
  method.check(config)


def build(config: Config, steps_per_epoch: int) -> Method:
  """The method that a config describes; see `Method.from_config`.

  Raises:
    UserError: a field has an impossible value.
  """
  check(config)
  return METHODS[config.experiment].from_config(config, steps_per_epoch)


def name_of(network: str) -> str:
  """The name, in `config.experiment`, of the method that trains this network."""
  return next(name for name, m in METHODS.items() if network in m.networks)
