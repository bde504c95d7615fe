"""How programs exit: code 2 and one line for a user error."""

import subprocess

import pytest
from programs import ROOT, python


def _assert_refused(result: subprocess.CompletedProcess, complaint: str) -> None:
  lines = result.stderr.splitlines()
  assert len(lines) == 1, result.stderr
  assert lines[0].startswith("error: ")
  assert complaint in lines[0]
  assert result.stdout == ""
  assert result.returncode == 2


@pytest.mark.parametrize(
  ("flags", "complaint"),  # test_bad_inputs.py has others
  [
    (("--config=configs/quick.py", "--nonsense=1"), "'nonsense'"),
    (("--config=quick", "--config.nonsense=1"), "unknown field"),
    (("--config", "quick", "--config.nonsense=1"), "unknown field"),
  ],
)
def test_an_unknown_flag_is_one_line(flags, complaint):
  _assert_refused(python("train.py", *flags), complaint)


def test_a_file_in_the_current_folder_takes_precedence(tmp_path):
  (tmp_path / "quick").write_text("1 / 0")
  for name, complaint in (("quick", "ZeroDivisionError"), ("other", "sdt_live")):
    result = python(ROOT / "train.py", f"--config={name}", cwd=tmp_path)
    _assert_refused(result, complaint)


_PROGRAM = """
from sdt_jax import cli
from sdt_jax.errors import UserError

def main():
  {body}

cli.run(main)
"""


def _program(body: str) -> subprocess.CompletedProcess:
  return python("-c", _PROGRAM.format(body=body))


def test_a_user_error_is_one_line():
  result = _program("raise UserError('0042.npz: is\\n  broken')")
  _assert_refused(result, "error: 0042.npz: is broken")


def test_a_bug_keeps_its_traceback():
  result = _program("raise ValueError('a bug')")
  assert result.returncode == 1
  assert "Traceback" in result.stderr
  assert "ValueError: a bug" in result.stderr


def test_ctrl_c_has_the_exit_code_of_the_signal():
  result = _program("raise KeyboardInterrupt")
  assert result.returncode == 130
  assert "Traceback" not in result.stderr


def test_only_messages_of_this_project_are_shown():
  result = _program(
    "import logging, absl.logging;"
    "logging.getLogger('sdt_jax.data').info('12 clips');"
    "absl.logging.info('chatter'); absl.logging.warning('chatter')"
  )
  assert (result.returncode, result.stdout, result.stderr) == (0, "", "12 clips\n")


@pytest.mark.parametrize("program", ["train", "eval", "demo"])
def test_flags_are_checked_before_jax_is_imported(program):
  result = python("-c", f"import sys, {program}; assert 'jax' not in sys.modules")
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
  ("program", "module"), [("train", "train"), ("eval", "evaluate"), ("demo", "demo")]
)
def test_help_shows_the_command_and_the_flags(program, module):
  script = python(f"{program}.py", "--help")
  as_module = python("-m", f"sdt_jax.programs.{module}", "--help")
  for result in (script, as_module):
    assert f"python {program}.py --" in result.stdout
    assert "\n  --workdir: " in result.stdout
    assert "--alsologtostderr" not in result.stdout  # a flag of absl's
    assert "Traceback" not in result.stderr


_COMPILE = "import jax; print(jax.jit(lambda x: x * 7 + 1)(5))"


def _compile(monkeypatch, **environment) -> subprocess.CompletedProcess:
  """Runs a program that compiles, caching everything."""
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  for name, value in environment.items():
    monkeypatch.setenv(name, str(value))
  result = _program(_COMPILE)
  assert (result.returncode, result.stdout) == (0, "36\n"), result.stderr
  return result


def test_compiled_programs_are_cached_and_damaged_entries_are_ignored(
  tmp_path, monkeypatch
):
  _compile(monkeypatch, XDG_CACHE_HOME=tmp_path)
  cached = list((tmp_path / "sdt_jax" / "programs").rglob("*-cache"))
  assert cached
  for file in cached:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  _compile(monkeypatch, XDG_CACHE_HOME=tmp_path)


def test_a_cache_set_by_the_user_takes_precedence(tmp_path, monkeypatch):
  named, other = tmp_path / "mine", tmp_path / "other"
  _compile(monkeypatch, XDG_CACHE_HOME=other, JAX_COMPILATION_CACHE_DIR=named)
  assert list(named.glob("*-cache"))
  assert not other.exists()


def test_programs_run_without_a_writable_cache(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("no folder")
  result = _compile(monkeypatch, XDG_CACHE_HOME=tmp_path / "file")
  assert result.stderr == ""
