"""How programs end: exit code 2 and one line for a mistake of the user's."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
QUICK = "--config=configs/quick.py"


def _run(*argv: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60
  )


def _assert_refused(result: subprocess.CompletedProcess, complaint: str) -> None:
  lines = result.stderr.splitlines()
  assert len(lines) == 1, result.stderr
  assert lines[0].startswith("error: ")
  assert complaint in lines[0]
  assert result.stdout == ""
  assert result.returncode == 2


def test_a_flag_that_cannot_be_used_is_one_line():  # test_bad_inputs.py has the others
  _assert_refused(_run("train.py", QUICK, "--nonsense=1"), "'nonsense'")


_PROGRAM = """
from sdt_jax import cli
from sdt_jax.errors import UserError

def main():
  {body}

cli.run(main)
"""


def _program(body: str, *argv: str) -> subprocess.CompletedProcess:
  return _run("-c", _PROGRAM.format(body=body), *argv)


def test_a_user_error_is_one_line():
  result = _program("raise UserError('0042.npz: is\\n  broken')")
  _assert_refused(result, "error: 0042.npz: is broken")


def test_an_error_of_the_program_keeps_its_traceback():
  result = _program("raise ValueError('a bug')")
  assert result.returncode == 1
  assert "Traceback" in result.stderr
  assert "ValueError: a bug" in result.stderr


def test_ctrl_c_has_the_exit_code_of_the_signal():
  result = _program("raise KeyboardInterrupt")
  assert result.returncode == 130
  assert "Traceback" not in result.stderr


def test_a_program_that_ends_well_has_exit_code_0():
  result = _program("print('done')")
  assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_the_projects_own_messages_are_seen_and_the_libraries_are_not():
  result = _program(
    "import logging, absl.logging;"
    "logging.getLogger('sdt_jax.data').info('12 clips');"
    "absl.logging.info('chatter'); absl.logging.warning('chatter')"
  )
  assert result.stderr == "12 clips\n"
  assert result.returncode == 0


@pytest.mark.parametrize("program", ["train", "eval", "demo"])
def test_flags_are_checked_before_jax_is_imported(program):
  check = f"import sys, {program}; assert 'jax' not in sys.modules"
  result = _run("-c", check)
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
  ("program", "module"), [("train", "train"), ("eval", "evaluate"), ("demo", "demo")]
)
def test_help_shows_the_command_and_the_flags(program, module):
  script = _run(f"{program}.py", "--help")
  as_module = _run("-m", f"sdt_jax.programs.{module}", "--help")
  for result in (script, as_module):
    assert f"python {program}.py --" in result.stdout
    assert "\n  --workdir: " in result.stdout
    assert "--alsologtostderr" not in result.stdout  # a flag of absl's
    assert "Traceback" not in result.stderr


_COMPILE = "import jax; print(jax.jit(lambda x: x * 7 + 1)(5))"


def _compile(monkeypatch, **environment) -> subprocess.CompletedProcess:
  """A program that compiles; everything is worth keeping."""
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  for name, value in environment.items():
    monkeypatch.setenv(name, str(value))
  result = _program(_COMPILE)
  assert (result.returncode, result.stdout) == (0, "36\n"), result.stderr
  return result


def test_compiled_programs_are_kept_and_a_damaged_one_does_not_matter(
  tmp_path, monkeypatch
):
  _compile(monkeypatch, XDG_CACHE_HOME=tmp_path)
  kept = list((tmp_path / "sdt_jax" / "programs").rglob("*-cache"))
  assert kept
  for file in kept:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  _compile(monkeypatch, XDG_CACHE_HOME=tmp_path)


def test_a_cache_that_the_user_names_is_taken(tmp_path, monkeypatch):
  named = tmp_path / "mine"
  _compile(
    monkeypatch, XDG_CACHE_HOME=tmp_path / "other", JAX_COMPILATION_CACHE_DIR=named
  )
  assert list(named.glob("*-cache"))
  assert not (tmp_path / "other").exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("no folder")
  result = _compile(monkeypatch, XDG_CACHE_HOME=tmp_path / "file")
  assert result.stderr == ""
