"""The fields of a run: one description each, and configs of older versions."""

import json
import pathlib

import ml_collections
import pytest

from sdt_jax import config
from sdt_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def test_the_defaults_are_allowed_and_new_each_time():
  config.check(config.default())
  config.default().generator.channels = 1
  assert config.default().generator.channels != 1


@pytest.mark.parametrize("name", config.BY_NAME)
def test_every_field_is_described_and_can_be_read(name):
  field = config.BY_NAME[name]
  assert len(field.meaning) > 5
  assert config.get(config.default(), name) == field.default
  assert f"| `{name}` |" in config.table()


def test_the_documentation_has_the_table():
  documented = (ROOT / "docs" / "configuration.md").read_text()
  assert config.table() in documented, "run python -m sdt_jax.config"


def test_a_run_may_change_only_some_fields():
  old = ml_collections.ConfigDict(json.loads(config.default().to_json()))
  assert config.differences(old, config.default()) == []
  for name, field in config.BY_NAME.items():
    default = field.default
    other = {str: f"{default}x", bool: not default, tuple: ()}
    changed = config.default()
    changed.update_from_flattened_dict(
      {name: other[type(default)] if type(default) in other else default + 1}
    )
    found = config.differences(old, changed)
    assert bool(found) != field.may_change, name
    if found:
      assert found[0].startswith(f"{name} (")


def test_a_config_from_json_does_not_differ():
  written = ml_collections.ConfigDict(json.loads(config.default().to_json()))
  assert config.differences(written, config.default()) == []


def _json_without(*names):
  older = json.loads(config.default().to_json())
  for name in names:
    *sections, key = name.split(".")
    del (older[sections[0]] if sections else older)[key]
  return older


def test_fields_that_an_older_run_lacks_are_filled_in(monkeypatch):
  newer = config.Field("in", "...", absent="bn")
  monkeypatch.setitem(config.FIELDS["generator"], "norm", newer)
  older = _json_without("generator.norm", "debug", "steps_at_once")
  complete = config.with_absent_fields(older)
  assert complete["generator"]["norm"] == "bn"  # not the default of today
  assert complete["steps_at_once"] == 0
  assert complete["debug"] == {"nans": False}
  config.check(ml_collections.ConfigDict(complete))
  assert "norm" not in older["generator"]


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    ({"generator.norms": "bn"}, r"config\.generator\.norms is not a field"),
    ({"generator": 3}, r"config\.generator is 3; expected a section of fields"),
    ({"generator.norm": None}, r"config\.generator\.norm is None"),
    ({"template.size": 4.0}, r"config\.template\.size is 4\.0; expected a value like"),
    ({"seed": True}, r"config\.seed is True; expected a value like 0"),
    ({"optimizer.milestones": ("a",)}, r"config\.optimizer\.milestones is"),
    ({"optimizer.b1": 1.0}, r"config\.optimizer\.b1 is 1\.0; expected 0 or more"),
    ({"batch_size": 1}, r"config\.batch_size is 1; expected 2 or more"),
    ({"seed": 2**32}, r"config\.seed is 4294967296; expected 0 to"),
  ],
)
def test_a_wrong_field_is_named(change, complaint):
  fields = json.loads(config.default().to_json())
  for name, value in change.items():
    *sections, key = name.split(".")
    section = fields
    for part in sections:
      section = section[part]
    section[key] = value
  with pytest.raises(UserError, match=complaint):
    config.check(ml_collections.ConfigDict(config.with_absent_fields(fields)))


@pytest.mark.parametrize("name", ["batch_size", "template.size", "pose"])
def test_a_field_that_every_run_has_is_missed(name):
  damaged = config.with_absent_fields(_json_without(name))
  with pytest.raises(UserError, match=rf"config\.{name}\S* is missing"):
    config.check(ml_collections.ConfigDict(damaged))


def test_an_experiment_is_found_by_its_name():
  assert config.experiment("s2g").generator.norm == "bn"
  with pytest.raises(UserError, match="no such file"):
    config.experiment("s3g")
