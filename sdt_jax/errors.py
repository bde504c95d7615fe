"""The exception for mistakes of the user, as opposed to bugs in the program."""


class UserError(Exception):
  """Bad input: a file, flag, config field, checkpoint or audio.

  The message is one line that names the thing, the value and the remedy. Programs
  print it and exit with code 2 (`sdt_jax.cli`); library calls raise it.
  """

  def __init__(self, message: str):
    # Messages quote names and values from outside, which may contain line breaks.
    super().__init__(" ".join(message.splitlines()))
