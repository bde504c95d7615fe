"""The command-line programs; each module defines its flags, `main` and `run`."""
