"""Trains, evaluates and renders on the synthetic speaker; `make quickstart` runs it.

    python -m sdt_jax.quickstart

It trains a small SDT-BP, scores it and renders the bundled speech sample with the
programs that users run. Results are written to output/quickstart in the current folder.
"""

import os
import pathlib
import subprocess
import sys
import time

from sdt_jax import audio_file

_WORKDIR = pathlib.Path("output/quickstart")
_MODULES = {"train.py": "train", "eval.py": "evaluate", "demo.py": "demo"}


def commands(workdir: pathlib.Path) -> list[tuple[str, ...]]:
  """Title, program and flags of each step; results are written to `workdir`."""
  run = f"--workdir={workdir}"
  return [
    ("Train on the synthetic speaker", "train.py", "--config=configs/quick.py", run),
    ("Evaluate on unseen clips", "eval.py", run, "--save_videos=2"),
    (
      "Render a speech sample with four templates",
      "demo.py",
      run,
      f"--audio={os.path.relpath(audio_file.SAMPLE_SPEECH)}",
      f"--output_dir={workdir / 'demo'}",
      "--num_samples=4",
    ),
  ]


def _run(title: str, program: str, *flags: str) -> None:
  in_checkout = pathlib.Path(program).is_file()
  shown = f"python {program}" if in_checkout else f"sdt-{program.removesuffix('.py')}"
  print(f"\n== {title}\n   {shown} {' '.join(flags)}", flush=True)
  start = time.perf_counter()
  module = f"{__package__}.programs.{_MODULES[program]}"
  done = subprocess.run([sys.executable, "-m", module, *flags], check=False)
  if done.returncode:
    sys.exit(done.returncode)
  print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
  start = time.perf_counter()
  for command in commands(_WORKDIR):
    _run(*command)
  demo = _WORKDIR / "demo"
  scores = sorted(_WORKDIR.glob("eval_dev_*.json"))[-1]
  print(f"\nDone in {time.perf_counter() - start:.0f} s. The results:")
  print(f"  {demo}/sample_speech_0.mp4   (and _1, _2, _3) the video, with sound")
  print(f"  {demo}/sample_speech_0.png   its film strip")
  print(f"  {demo}/sample_speech_overview.mp4   the four templates compared (and .png)")
  print(f"  {scores}   metrics")
  print(f"  {_WORKDIR}/videos   prediction beside truth during training")


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit(130)
