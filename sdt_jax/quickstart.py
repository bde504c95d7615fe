"""The main job on the embedded default: what `make quickstart` runs.

Builds the synthetic speaker, trains a small SDT-BP, scores it and renders the bundled
speech sample, by the same programs that a user calls.
"""

import pathlib
import subprocess
import sys
import time

_ROOT = pathlib.Path(__file__).parent.parent
_SPEECH = _ROOT / "sdt_jax" / "assets" / "sample_speech.flac"
_WORKDIR = pathlib.Path("output/quickstart")


def commands(workdir: pathlib.Path) -> list[tuple[str, ...]]:
  """Title, program and flags of each part; it leaves what it makes in `workdir`."""
  run = f"--workdir={workdir}"
  return [
    ("Train on the synthetic speaker", "train.py", "--config=configs/quick.py", run),
    ("Score on clips it has not seen", "eval.py", run),
    (
      "Render a speech sample with four templates",
      "demo.py",
      run,
      f"--audio={_SPEECH.relative_to(_ROOT)}",
      f"--output_dir={workdir / 'demo'}",
      "--num_samples=4",
    ),
  ]


def _run(title: str, program: str, *flags: str) -> None:
  print(f"\n== {title}\n   python {program} {' '.join(flags)}", flush=True)
  start = time.perf_counter()
  done = subprocess.run([sys.executable, program, *flags], cwd=_ROOT, check=False)
  if done.returncode:
    sys.exit(done.returncode)
  print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
  start = time.perf_counter()
  for command in commands(_WORKDIR):
    _run(*command)
  demo = _WORKDIR / "demo"
  scores = sorted((_ROOT / _WORKDIR).glob("eval_dev_*.json"))[-1].relative_to(_ROOT)
  print(f"\nDone in {time.perf_counter() - start:.0f} s. Have a look at")
  print(f"  {demo}/sample_speech_0.mp4   (and _1, _2, _3) the video, with sound")
  print(f"  {demo}/sample_speech_0.png   its film strip")
  print(f"  {demo}/sample_speech_overview.png   the four templates compared")
  print(f"  {scores}   metrics")
  print(f"  {_WORKDIR}/videos   prediction beside truth during training")


if __name__ == "__main__":
  try:
    main()
  except KeyboardInterrupt:
    sys.exit(130)
