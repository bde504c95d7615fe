"""The one exception that stands for a mistake of the user's, not of the program's."""


class UserError(Exception):
  """Bad input: a file, flag, config field, checkpoint or sound.

  The message is one line that names the thing, the value and the remedy. Programs
  print it and exit with code 2 (`sdt_jax.cli`); as a library call it is raised.
  """

  def __init__(self, message: str):
    # Names and values in it come from outside, and may hold line breaks.
    super().__init__(" ".join(message.splitlines()))
