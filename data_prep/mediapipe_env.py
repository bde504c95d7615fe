"""Creates the separate environment for MediaPipe, which needs an older NumPy.

    python -m data_prep.mediapipe_env [--path=DIR] [--python=PYTHON]

takes about a minute and 400 MB; `prepare` does it on first use. The versions are pinned
in `mediapipe_requirements.txt`; the models are part of the MediaPipe wheel.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError
from .options import DEFAULT_ENV

_REQUIREMENTS = pathlib.Path(__file__).with_name("mediapipe_requirements.txt")
_PYTHONS = ("python3.11", "python3.12", "python3.10")  # with MediaPipe wheels
_INSTEAD = (
  "or use OpenPose keypoints: --keypoints=openpose --openpose_dir=<JSON folders>"
)


def version() -> str:
  """Hash of the pinned versions."""
  return hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]


def python_of(folder: pathlib.Path) -> pathlib.Path:
  """The interpreter of an environment."""
  bin_folder = "Scripts" if os.name == "nt" else "bin"
  return folder / bin_folder / "python"


def ensure(folder: pathlib.Path, python: str | None = None) -> pathlib.Path:
  """Creates the environment if it does not exist.

  Args:
    folder: folder of the environment.
    python: interpreter to create it with; by default a suitable one is searched.

  Returns:
    The interpreter of the environment.

  Raises:
    UserError: there is no suitable Python, or the packages cannot be installed.
  """
  marker = folder / "sdt_jax_version"
  if marker.is_file() and marker.read_text() == version():
    return python_of(folder)
  if folder.exists() and not marker.is_file() and any(folder.iterdir()):
    raise UserError(f"{folder}: holds something else; choose another folder")
  print(f"making the MediaPipe environment in {folder}", file=sys.stderr)
  unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
  try:
    _create(unfinished, python or _find_python())
    (unfinished / marker.name).write_text(version())
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
  return python_of(folder)


def _find_python() -> str:
  """This interpreter if MediaPipe has wheels for it, or else another one."""
  candidates = [shutil.which(name) for name in _PYTHONS]
  if f"python3.{sys.version_info.minor}" in _PYTHONS:
    candidates.insert(0, sys.executable)
  for candidate in filter(None, candidates):
    # The shim of a version manager may exist without the interpreter.
    if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
      return candidate
  raise UserError(
    f"MediaPipe has no wheel for Python {sys.version_info.major}."
    f"{sys.version_info.minor} and none of {', '.join(_PYTHONS)} was found; install "
    f"one, {_INSTEAD}"
  )


def _create(folder: pathlib.Path, python: str) -> None:
  install = ["-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]
  check = "from mediapipe.python.solutions import face_detection, hands, holistic"
  for command in (
    [python, "-m", "venv", str(folder)],
    [str(python_of(folder)), *install, str(_REQUIREMENTS)],
    [str(python_of(folder)), "-I", "-c", check],
  ):
    try:
      done = subprocess.run(command, capture_output=True, text=True)
    except OSError as e:
      raise UserError(f"{command[0]}: cannot be run ({e.strerror})") from e
    if done.returncode:
      last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
      raise UserError(
        f"the MediaPipe environment cannot be created ({last[-1][:200]}); if this "
        f"machine is offline, run python -m {__package__}.mediapipe_env while it is "
        f"online, {_INSTEAD}"
      )


def main() -> None:
  python = ensure(pathlib.Path(flags.FLAGS.path).expanduser(), flags.FLAGS.python)
  print(f"MediaPipe is ready: {python}")


if __name__ == "__main__":
  flags.DEFINE_string("path", str(DEFAULT_ENV), "Folder of the environment.")
  flags.DEFINE_string("python", None, "Python 3.10 to 3.12 to create it with.")
  cli.run(main)
