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


@pytest.mark.parametrize(
  ("argv", "complaint"),
  [
    ("train.py", "--config"),
    ("train.py --config=configs/nope.py", "configs/nope.py"),
    ("train.py --config=configs", "configs"),
    ("train.py --config=tests/data/mel.npz", "--config"),
    ("train.py --config=sdt_jax/errors.py", "get_config"),
    (f"train.py {QUICK} --nonsense=1", "'nonsense'"),
    (f"train.py {QUICK} --config.nonsense=1", "nonsense"),
    (f"train.py {QUICK} --config.dataset.nonsense=1", "nonsense"),
    (f"train.py {QUICK} --config.batch_size=many", "--config.batch_size=many"),
    (f"train.py {QUICK} --config.batch_size=1.5", "--config.batch_size=1.5"),
    (f"train.py {QUICK} --config.dataset=3", "--config.dataset=3"),
    (f"train.py {QUICK} --config.optimizer.milestones=(1,", "milestones"),
    (f"train.py {QUICK} quick", "'quick'"),
    ("eval.py", "--workdir"),
    ("eval.py --workdir=nowhere --seed=x", "--seed=x"),
    ("demo.py --audio=a.wav --output_dir=out", "--workdir"),
    ("demo.py --workdir=w --audio=a.wav --output_dir=o --num_samples=two", "two"),
  ],
)
def test_a_flag_that_cannot_be_used_is_one_line(argv, complaint):
  _assert_refused(_run(*argv.split()), complaint)


def test_a_sound_that_is_missing_is_one_line():
  result = _run("demo.py", "--workdir=w", "--audio=none.wav", "--output_dir=o")
  _assert_refused(result, "none.wav: no such file or folder")


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


@pytest.mark.parametrize("program", ["train", "eval", "demo"])
def test_help_tells_the_command(program):
  result = _run(f"{program}.py", "--help")
  assert f"python {program}.py --" in result.stdout
  assert "Traceback" not in result.stderr
