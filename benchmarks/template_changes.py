"""How a change of the template shows in the motion, by its length and its course.

    python -m benchmarks.template_changes --workdir=DIR

A minute of speech, with a change to another template of the bank every three seconds.
Prints the speed and the acceleration of the hands at the changes, relative to those of
the same seconds with constant templates: means, and largest frames.
"""

import numpy as np
from absl import flags

from sdt_jax import audio, cli
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)

_EVERY_S = 3
_SECONDS = 60
_OVER_S = (1 / audio.FPS, 0.25, 0.5, 1.0, 2.0)


def main() -> None:
  import sdt_jax
  from sdt_jax import audio_file
  from sdt_jax.evaluation import long
  from sdt_jax.templates import keyframes

  model = sdt_jax.load(_WORKDIR.value)
  count = _SECONDS // _EVERY_S
  if model.bank is None or len(model.bank) < count:
    raise UserError(f"--workdir={_WORKDIR.value}: needs at least {count} templates")
  speech = audio_file.load_audio(audio_file.SAMPLE_SPEECH)
  sound = np.resize(speech, _SECONDS * audio.SAMPLE_RATE)
  parts = kp.UPPER_BODY.parts
  hands = [
    kp.UPPER_BODY.index[joint]
    for part in ("left_hand", "right_hand")
    for joint in parts[part]
  ]
  rng = np.random.default_rng(0)
  rows = [int(r) for r in rng.choice(len(model.bank), count, replace=False)]

  def changes(template, order: int) -> np.ndarray:
    poses_px = model.generate(sound, audio.SAMPLE_RATE, template)
    return long.changes(poses_px[None, ..., hands], order)[0]

  def at_changes(values: np.ndarray) -> np.ndarray:
    """(changes, frames): from the start of each change until 2.2 s later."""
    starts = np.arange(1, count) * _EVERY_S * audio.FPS
    frames = starts[:, None] + np.arange(-2, round(2.2 * audio.FPS))
    return values[np.minimum(frames, len(values) - 1)]

  still = {
    order: np.mean([at_changes(changes(row, order)) for row in rows[:4]], axis=0)
    for order in (1, 2)
  }
  print(f"{'over':>7} {'course':<7} {'speed':>7} {'peak':>7} {'accel.':>7} {'peak':>7}")
  for over in _OVER_S:
    for ease in keyframes.EASES:
      entries = [
        {"at": _EVERY_S * i, "template": row, "over": over, "ease": ease}
        for i, row in enumerate(rows)
      ]
      timeline = {"version": keyframes.VERSION, "keyframes": entries}
      cells = []
      for order in (1, 2):
        moved = at_changes(changes(timeline, order))
        cells += [moved.mean() / still[order].mean()]
        cells += [moved.max(1).mean() / still[order].max(1).mean()]
      print(f"{over:5.2f} s {ease:<7} " + " ".join(f"{c:7.2f}" for c in cells))


if __name__ == "__main__":
  cli.run(main)
