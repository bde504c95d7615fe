"""The files that describe a run, and the changes with which it may resume."""

import json
import re

import pytest
import tiny

from sdt_jax import config as config_lib
from sdt_jax import speakers, workdir
from sdt_jax.errors import UserError

OLIVER = speakers.published("oliver")


@pytest.fixture
def path(tmp_path):
  """A workdir with its descriptions, but without checkpoints."""
  path = tmp_path / "output" / "run"
  workdir.create(path, tiny.config("data"), OLIVER, ["a/1", "b/ä 2"])
  return path


def test_what_is_written_is_read(path):
  config = workdir.read_config(path)
  assert json.loads(config.to_json()) == json.loads(tiny.config("data").to_json())
  assert tuple(config.generator.audio_channels) == (4, 4, 8, 8)
  speaker = workdir.read_speaker(path)
  assert speaker.name == "oliver"
  assert speakers.to_json(speaker) == speakers.to_json(OLIVER)


def test_files_of_a_workdir(path):
  """Line i of clips.txt names the clip of template i; nothing temporary is left."""
  names = {file.name for file in path.iterdir()}
  assert names == {workdir.CLIPS, workdir.SPEAKER, workdir.CONFIG}
  lines = (path / workdir.CLIPS).read_text(encoding="utf-8").splitlines()
  assert lines == ["a/1", "b/ä 2"]


def test_every_field_of_the_config_is_written(path):
  written = json.loads((path / workdir.CONFIG).read_text())
  assert written.keys() == set(config_lib.default().keys())
  assert written["generator"].keys() == set(config_lib.default().generator.keys())


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(UserError, match=r"none: no such folder; give the workdir"):
    workdir.read_config(tmp_path / "none")
  with pytest.raises(UserError, match=r"config\.json: missing; is .* the workdir"):
    workdir.read_config(tmp_path)
  with pytest.raises(UserError, match=r"speaker\.json: missing"):
    workdir.read_speaker(tmp_path)


_BROKEN = (b"", b"{", b"[1, 2]", b"3", b"\xff\xfe\x00", b"null")


@pytest.mark.parametrize(
  ("file", "content"),
  [
    *((workdir.CONFIG, content) for content in (*_BROKEN, b'{"a.b": 1}')),
    *((workdir.SPEAKER, content) for content in (*_BROKEN, b"{}", b'{"name": "ann"}')),
    (workdir.SPEAKER, b'{"name": 3, "tables": {}}'),
  ],
)
def test_a_broken_file_is_named(path, file, content):
  (path / file).write_bytes(content)
  read = {workdir.CONFIG: workdir.read_config, workdir.SPEAKER: workdir.read_speaker}
  with pytest.raises(UserError, match=re.escape(file)) as e:
    read[file](path)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "fields",
  [
    *({}, {"num_epochs": 7}, {"parallel": "pmap"}, {"checkpoint.keep_latest": 5}),
    {"dataset.root": "elsewhere", "dataset.data_dir": "new", "dataset.num_threads": 4},
    {"log.every_steps": 100, "log.dev_videos": 3},
  ],
)
def test_fields_that_do_not_change_the_model_may_change(path, fields):
  workdir.check_same(path, tiny.config("data", **fields))


@pytest.mark.parametrize(
  ("field", "value", "change"),
  [
    ("seed", 1, r"seed \(0 -> 1\)"),
    ("batch_size", 4, r"batch_size \(8 -> 4\)"),
    ("generator.norm", "bn", r"generator.norm \('in_star' -> 'bn'\)"),
    ("generator.audio_channels", (4, 4, 4, 4), r"\[4, 4, 8, 8\] -> \[4, 4, 4, 4\]"),
    ("dataset.speaker", "bo", r"dataset.speaker \('ada' -> 'bo'\)"),
    ("optimizer.decay", 0.5, r"optimizer.decay \(0.1 -> 0.5\)"),
  ],
)
def test_fields_that_define_the_run_may_not_change(path, field, value, change):
  with pytest.raises(UserError, match=change) as e:
    workdir.check_same(path, tiny.config("data", **{field: value}))
  assert str(path) in str(e.value)
  assert "--workdir" in str(e.value)
  assert "num_epochs" not in str(e.value)


def test_every_change_is_listed(path):
  config = tiny.config("data", seed=1, num_epochs=9, **{"template.size": 3})
  with pytest.raises(UserError, match=r"seed \(0 -> 1\), template.size \(4 -> 3\);"):
    workdir.check_same(path, config)


def test_a_field_that_one_of_the_two_lacks_is_a_change(path):
  config = tiny.config("data")
  config.template.colour = "red"
  with pytest.raises(UserError, match=r"template.colour \(None -> 'red'\)"):
    workdir.check_same(path, config)


def test_a_file_in_the_way_is_one_line(tmp_path):
  in_the_way = tmp_path / "output"
  in_the_way.write_text("old")
  with pytest.raises(UserError, match="cannot be written"):
    workdir.create(in_the_way / "run", tiny.config("data"), OLIVER, [])
  assert in_the_way.read_text() == "old"
