"""Checks a timeline (see `keyframes`) and prints its keyframes.

    python -m sdt_jax.templates.timeline --check FILE [--workdir=DIR]

With --workdir it also checks that the run has its templates and directions.
"""

from absl import flags

from sdt_jax import cli
from sdt_jax.templates import keyframes


def main() -> None:
  path = flags.FLAGS.check
  read = keyframes.read(path)
  if flags.FLAGS.workdir:
    import sdt_jax

    sdt_jax.load(flags.FLAGS.workdir).choose_template(path)
  print(keyframes.table(read))


def run() -> None:
  """Parses the flags and runs the program."""
  flags.DEFINE_string("check", None, "Timeline to check.", required=True)
  flags.DEFINE_string("workdir", None, "Folder of the run that is to follow it.")
  cli.run(main)


if __name__ == "__main__":
  run()
