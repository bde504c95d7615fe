"""The web application: the page, and the WebSocket at /stream.

`create_app` builds it; `describe` prepares the model.
"""

import asyncio
import errno
import io
import ipaddress
import pathlib
import re
import socket
import urllib.parse
import wave
from collections.abc import Collection
from typing import Any, NamedTuple

import fastapi
import numpy as np
import uvicorn
from fastapi.requests import HTTPConnection
from fastapi.staticfiles import StaticFiles
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sdt_jax import audio
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.live import session
from sdt_jax.synthesis import render
from sdt_jax.synthesis.generate import GestureModel

PROTOCOL = 1
_PAGE = pathlib.Path(__file__).parent / "page"
_MAX_CONNECTIONS = 256  # of pages and programs, with those that are being refused
_SEND_BUFFER = 32_768  # bytes; what a client has not read for long is of no use
_HEADERS = {
  "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
  "Cache-Control": "no-cache",
}


class _Protocol(WebSocketsSansIOProtocol):
  """Disconnects a client that pings without reading the answers."""

  def handle_ping(self) -> None:
    if self.transport.get_write_buffer_size() > _SEND_BUFFER:
      self.transport.abort()
    else:
      super().handle_ping()


class Player(NamedTuple):
  """A sound file that the page can play."""

  name: str
  wav: bytes


def player(name: str, sound: np.ndarray, sample_rate: int) -> Player:
  """Converts a sound (samples,) in [-1, 1] into a file that any browser decodes."""
  pcm = (sound.clip(-1, 1) * (2**15 - 1)).astype("<i2")
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setparams((1, 2, sample_rate, 0, "NONE", ""))
    writer.writeframes(pcm.tobytes())
  return Player(name, file.getvalue())


def describe(model: GestureModel, look_ahead: int) -> dict[str, Any]:
  """The message that greets clients.

  It takes seconds, because the model is compiled.

  Raises:
    UserError: `look_ahead` is not possible.
  """
  stream = model.stream(look_ahead=look_ahead)
  poses_px = np.zeros((0, *kp.UPPER_BODY.shape), np.float32)
  while not len(poses_px):
    poses_px = stream.feed(np.zeros(audio.num_samples(1), np.float32))
  return {
    "type": "hello",
    "protocol": PROTOCOL,
    "sample_rate": audio.SAMPLE_RATE,
    "fps": audio.FPS,
    "latency_frames": stream.latency,
    "templates": 0 if model.bank is None else len(model.bank),
    "dims": kp.UPPER_BODY.dims,
    "joints": kp.UPPER_BODY.names,
    "figure": render.figure(),
    "rest": poses_px[-1].round(1).tolist(),
  }


def check_origins(origins: Collection[str]) -> None:
  """Checks the value of --allow_origin.

  Raises:
    UserError: it is not a list of origins, as browsers send them.
  """
  for origin in origins:
    if not re.fullmatch(r"https?://[^/]+", origin):
      raise UserError(
        f"--allow_origin={origin}: expected http or https, a host and nothing after "
        "it, such as https://example.org"
      )


def create_app(
  model: GestureModel,
  hello: dict[str, Any],
  look_ahead: int,
  limits: session.Limits,
  allowed_origins: Collection[str] = (),
  sound: Player | None = None,
) -> fastapi.FastAPI:
  """The application.

  Args:
    model: generates the motion of all clients.
    hello: as returned by `describe`, for the same `look_ahead`.
    look_ahead: frames of sound that are heard after a frame before it is generated.
    limits: for the clients.
    allowed_origins: whose pages may connect, such as "https://example.org", in addition
      to the program's own page at localhost or at an IP address.
    sound: a file that the page can play.
  """
  hello = hello | {"sound": sound and sound.name}
  places = asyncio.Semaphore(limits.clients)

  own_hosts = {origin.partition("://")[2] for origin in allowed_origins}

  def check_origin(connection: HTTPConnection) -> None:
    host = connection.headers.get("host", "")
    origin = connection.headers.get("origin")
    if origin is None:  # from a program, or from a browser for a file of its own page
      is_socket = connection.scope["type"] == "websocket"
      accepted = is_socket or host in own_hosts or _is_local(host)
      origin = f"http://{host}"
    else:
      is_own = origin.partition("://")[2] == host and _is_local(host)
      accepted = is_own or origin in allowed_origins
    if not accepted:
      raise fastapi.HTTPException(
        403,
        f"origin {origin} is not allowed; start the program with "
        f"--allow_origin={origin}",
      )

  app = fastapi.FastAPI(openapi_url=None)
  own_only = [fastapi.Depends(check_origin)]

  @app.get("/hello", dependencies=own_only)
  def get_hello() -> dict[str, Any]:
    return hello

  @app.get("/sound.wav", dependencies=own_only)
  def get_sound() -> fastapi.Response:
    if sound is None:
      raise fastapi.HTTPException(404)
    return fastapi.Response(sound.wav, media_type="audio/wav")

  @app.websocket("/stream", dependencies=own_only)
  async def stream(client: fastapi.WebSocket) -> None:
    await client.accept()
    if places.locked():
      busy = f"all {limits.clients} places are taken; try again later"
      await session.refuse(client, session.RefusedError(session.TOO_MANY, busy))
      return
    async with places:
      await session.Session(client, model, look_ahead, limits).run(hello)

  @app.middleware("http")
  async def add_headers(request: fastapi.Request, call_next) -> fastapi.Response:
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response

  app.mount("/", StaticFiles(directory=_PAGE, html=True))
  return app


def _is_local(host: str) -> bool:
  """Whether a Host header has localhost or an IP address.

  Other names are not trusted: their owners can let them point to this machine, so that
  a browser takes this program for a part of their site.
  """
  try:
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or bool(ipaddress.ip_address(name))
  except ValueError:
    return False


def listen(host: str, port: int) -> socket.socket:
  """A socket that listens on an address.

  Raises:
    UserError: that is not possible, for example because the port is in use.
  """
  try:
    [(family, *_, address), *_] = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM
    )
    listener = socket.create_server(address[:2], family=family)
  except (OSError, UnicodeError) as e:  # UnicodeError: not a possible name
    if isinstance(e, OSError) and e.errno == errno.EADDRINUSE:
      raise UserError(
        f"--port={port}: is in use by another program; give another one, or 0 for any"
      ) from e
    raise UserError(
      f"--host={host}, --port={port}: cannot listen there ({e}); "
      "give an address of this machine and a port above 1023"
    ) from e
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
  return listener


def web_server(app: fastapi.FastAPI) -> uvicorn.Server:
  """Serves the application: `web_server(app).run([listener])`."""
  config = uvicorn.Config(
    app,
    log_level="warning",
    lifespan="off",
    ws=_Protocol,
    limit_concurrency=_MAX_CONNECTIONS,
    ws_max_size=1_000_000,  # `Session` refuses smaller messages, with a reason
    ws_per_message_deflate=False,
    timeout_graceful_shutdown=2,
  )
  return uvicorn.Server(config)
