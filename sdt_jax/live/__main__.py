"""Generates gestures while you speak, on a page in the browser.

    python -m sdt_jax.live --workdir=DIR [--port=8010] [--host=127.0.0.1] \
      [--audio=FILE] [--step=latest|best|N] [--speaker=NAME] [--look_ahead=N] \
      [--max_clients=N] [--allow_origin=URL,URL]

Other programs connect to the WebSocket /stream: docs/live.md, examples/live_client.py.
It needs FastAPI and uvicorn: pip install "sdt_jax[live]".
"""

import pathlib
import socket

from absl import flags

from sdt_jax import cli
from sdt_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_PORT = flags.DEFINE_integer(
  "port", 8010, "Port to listen on; 0: any.", lower_bound=0, upper_bound=65535
)
_HOST = flags.DEFINE_string(
  "host",
  "127.0.0.1",
  "Address to listen on. The default is not reachable from other machines; 0.0.0.0 is.",
)
_AUDIO = flags.DEFINE_string("audio", None, "Sound file that the page can play.")
_STEP = flags.DEFINE_string("step", "latest", "Checkpoint: latest, best or a number.")
_SPEAKER = flags.DEFINE_string(
  "speaker", None, "Published speaker to animate; default: the one trained on."
)
_LOOK_AHEAD = flags.DEFINE_integer(
  "look_ahead", 2, "Frames of sound heard after a frame before it is generated."
)
_MAX_CLIENTS = flags.DEFINE_integer(
  "max_clients", 16, "Number of clients at a time.", lower_bound=1
)
_ALLOW_ORIGIN = flags.DEFINE_list(
  "allow_origin", [], "Other origins whose pages may connect, such as https://x.org."
)


def main() -> None:
  try:
    import fastapi  # noqa: F401
    import uvicorn  # noqa: F401
    import websockets  # noqa: F401
  except ImportError as e:
    raise UserError(
      f'{e.name} is not installed; run: pip install "sdt_jax[live]"'
    ) from e

  import sdt_jax
  from sdt_jax import audio_file
  from sdt_jax.live import server, session

  server.check_origins(_ALLOW_ORIGIN.value)
  with server.listen(_HOST.value, _PORT.value) as listener:
    sound = None
    if _AUDIO.value is not None:
      path = pathlib.Path(_AUDIO.value)
      sound = server.player(path.name, *audio_file.read_audio(path))
    model = sdt_jax.load(_WORKDIR.value, _STEP.value, _SPEAKER.value)
    app = server.create_app(
      model,
      server.describe(model, _LOOK_AHEAD.value),
      _LOOK_AHEAD.value,
      session.Limits(clients=_MAX_CLIENTS.value),
      _ALLOW_ORIGIN.value,
      sound,
    )
    print(f"ready: {_url(listener)} (end with Ctrl-C)", flush=True)
    server.web_server(app).run([listener])
    raise KeyboardInterrupt  # only Ctrl-C ends it; asyncio may swallow the exception


def _url(listener: socket.socket) -> str:
  host, port = listener.getsockname()[:2]
  if host in ("0.0.0.0", "::"):
    host = "localhost"
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run() -> None:
  """Parses the flags and runs the program."""
  cli.run(main)


if __name__ == "__main__":
  run()
