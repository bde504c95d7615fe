"""One client of the live program: sound in, poses out.

    socket -> _receive -> Inbox -> _compute (in threads) -> Outbox -> _send -> socket

Frames are numbered from the client's first sample, whether they are delivered or not.
The number of dropped frames is therefore the number of a frame minus the number of
frames that were sent before it.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import struct
import time
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from sdt_jax import audio
from sdt_jax.live.queues import Frame, Inbox, Outbox, Sound, Template
from sdt_jax.synthesis.generate import GestureModel

_log = logging.getLogger(__name__)

HEADER = struct.Struct("<III")
"""First frame, number of frames, frames dropped so far; float32 poses follow."""

# Close codes of RFC 6455 and of its registry.
FINISHED, BAD_DATA, POLICY, TOO_LARGE = 1000, 1007, 1008, 1009
FAILED, TOO_MANY = 1011, 1013
_MAX_REASON = 120  # bytes; the RFC allows 123
_FRAME = audio.num_samples(1)
_LEAST = audio.SAMPLE_RATE // 200  # samples that a small message counts as


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one client may do.

  Attributes:
    clients: how many may be connected at a time.
    message_bytes: size of a message; the default is a second of sound.
    speed: of the sound sent, relative to real time, on average. Other and small
      messages count as sound of their size, at least 5 ms.
    burst_seconds: sound that may be sent in advance of that, so that a client may catch
      up after a pause.
    waiting_seconds: sound that may wait to be processed; if there is more, the waiting
      sound is left out.
    waiting_frames: frames that may wait to be sent; if there are more, the oldest are
      dropped.
    idle_seconds: time without a message after which the client is disconnected.
  """

  clients: int = 16
  message_bytes: int = 2 * audio.SAMPLE_RATE
  speed: float = 2.0
  burst_seconds: float = 10.0
  waiting_seconds: float = 2.0
  waiting_frames: int = 4 * audio.FPS
  idle_seconds: float = 60.0


class RefusedError(Exception):
  """Ends a session: a close code, and a reason for the client."""

  def __init__(self, code: int, reason: str):
    super().__init__(code, reason)
    self.code, self.reason = code, reason


class Motion:
  """The frames of one client, each with its number, from sound that may have gaps.

  After a gap, the motion starts anew at the frame nearest to the sound. Sound is
  processed frame by frame: a stream that gets more at once pads its windows to a batch,
  which would slow down a program that already lags.
  """

  def __init__(self, model: GestureModel, look_ahead: int, template: np.ndarray | None):
    self._model, self._look_ahead, self._template = model, look_ahead, template
    self._stream = None
    self._heard = 0  # number of samples, with those in gaps
    self.num_frames = 0
    """Number of frames so far, with those in gaps."""

  def process(self, items: list[Sound | Template]) -> list[Frame]:
    """Returns the frames that have become final."""
    frames = []
    for item in items:
      if isinstance(item, Sound):
        frames += self._feed(item)
        continue
      self._template = item.code
      if self._stream is not None:
        self._stream.set_template(item.code)
    return frames

  def finish(self) -> list[Frame]:
    """Returns the remaining frames."""
    if self._stream is None:
      return []
    return self._number(self._stream.finish())

  def _feed(self, sound: Sound) -> list[Frame]:
    frames = []
    if sound.first > self._heard:
      frames = self.finish()
      self._stream = None
      self.num_frames = max(self.num_frames, audio.num_frames(sound.first))
    if self._stream is None:
      template = "random" if self._template is None else self._template
      self._stream = self._model.stream(template, look_ahead=self._look_ahead)
    self._heard = sound.first + len(sound.samples)
    for start in range(0, len(sound.samples), _FRAME):
      piece = sound.samples[start : start + _FRAME]
      frames += self._number(self._stream.feed(piece))
    return frames

  def _number(self, poses_px: np.ndarray) -> list[Frame]:
    first = self.num_frames
    self.num_frames += len(poses_px)
    return [Frame(first + i, pose_px) for i, pose_px in enumerate(poses_px)]


class Session:
  """Serves one client that has been accepted."""

  def __init__(
    self, socket: WebSocket, model: GestureModel, look_ahead: int, limits: Limits
  ):
    self._socket, self._bank, self._limits = socket, model.bank, limits
    burst = limits.burst_seconds * audio.SAMPLE_RATE
    self._inbox = Inbox(limits.waiting_seconds * audio.SAMPLE_RATE)
    self._outbox = Outbox(limits.waiting_frames)
    self._sending = asyncio.Lock()
    self._allowance, self._allowed_at = burst, time.monotonic()
    template = None if self._bank is None else self._choose({"template": "random"})
    self._motion = Motion(model, look_ahead, template)

  async def run(self, hello: dict[str, Any]) -> None:
    """Greets the client; returns when it has finished, has gone or was refused."""
    try:
      await self._socket.send_json(hello)
      async with asyncio.TaskGroup() as tasks:
        tasks.create_task(self._receive())
        tasks.create_task(self._compute())
        tasks.create_task(self._send())
      await self._socket.close(FINISHED, "finished")
    except* WebSocketDisconnect:
      pass
    except* RefusedError as group:
      refused = group.exceptions[0]
      assert isinstance(refused, RefusedError)
      await refuse(self._socket, refused)
    except* Exception:
      _log.exception("a client was disconnected by an error of the program")
      await refuse(
        self._socket, RefusedError(FAILED, "error of the server, see its log")
      )

  async def _receive(self) -> None:
    """Puts messages into the inbox, up to the end of the sound."""
    limits = self._limits
    while True:
      try:
        async with asyncio.timeout(limits.idle_seconds):
          message = await self._socket.receive()
      except TimeoutError:
        idle = f"no message for {limits.idle_seconds:g} s"
        raise RefusedError(POLICY, idle) from None
      if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
      data = message.get("bytes")
      if data is None:
        data = message["text"]
      if len(data) > limits.message_bytes:
        most = f"send at most {limits.message_bytes}"
        raise RefusedError(TOO_LARGE, f"message of {len(data)} bytes; {most}")
      self._charge(len(data) // 2)
      if isinstance(data, bytes):
        self._handle_sound(data)
      elif await self._handle_text(data) == "finish":
        return self._inbox.end()

  def _charge(self, samples: int) -> None:
    """Counts a message, of whatever kind, as sound sent."""
    limits, now = self._limits, time.monotonic()
    earned = (now - self._allowed_at) * limits.speed * audio.SAMPLE_RATE
    burst = limits.burst_seconds * audio.SAMPLE_RATE
    self._allowance = min(burst, self._allowance + earned) - max(samples, _LEAST)
    self._allowed_at = now
    if self._allowance < 0:
      fastest = f"send at most {limits.speed:g} times real time"
      raise RefusedError(POLICY, f"messages come too fast; {fastest}")

  def _handle_sound(self, data: bytes) -> None:
    if len(data) % 2:
      raise RefusedError(BAD_DATA, f"sound of {len(data)} bytes; send 16-bit samples")
    self._inbox.put_sound(np.frombuffer(data, "<i2").astype(np.float32) / 2**15)

  async def _handle_text(self, text: str) -> str:
    """Does what a JSON message says; returns its type."""
    try:
      message = json.loads(text)
      kind = message["type"]
    except (ValueError, TypeError, LookupError, RecursionError):
      expected = 'send a JSON object with "type"'
      raise RefusedError(BAD_DATA, f"message {text!a:.40}; {expected}") from None
    if kind == "template":
      self._inbox.put_template(self._choose(message))
      known = ("type", "template", "blend_with", "weight")
      await self._send_json({k: message[k] for k in known if k in message})
    elif kind != "finish":
      raise RefusedError(BAD_DATA, f"type {kind!a:.40}; send 'template' or 'finish'")
    return kind

  def _choose(self, message: dict[str, Any]) -> np.ndarray:
    """The template (D,) of a message, in which the row drawn replaces "random"."""
    if self._bank is not None and message.get("template") == "random":
      message["template"] = int(np.random.default_rng().integers(len(self._bank)))
    code = self._row(message.get("template"))
    if "blend_with" in message:
      weight = message.get("weight")
      if not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise RefusedError(
          BAD_DATA, f"weight {weight!a:.40}; send a number from 0 to 1"
        )
      code = (1 - weight) * code + weight * self._row(message["blend_with"])
    return code

  def _row(self, row: Any) -> np.ndarray:
    """(D,) row of the bank; of templates that change over time, the mean."""
    if self._bank is None:
      raise RefusedError(BAD_DATA, "this model has no templates; leave them out")
    # Numbers only: other specs of a template could name files of the server.
    if type(row) is not int or not 0 <= row < len(self._bank):
      last = len(self._bank) - 1
      raise RefusedError(
        BAD_DATA, f"template {row!a:.40}; send 0 to {last} or 'random'"
      )
    code = self._bank[row]
    return code if code.ndim == 1 else code.mean(0)

  async def _compute(self) -> None:
    """Turns the inbox into frames, in threads, so that the other clients go on."""
    while items := await self._inbox.take():
      self._outbox.put(await asyncio.to_thread(self._motion.process, items))
    self._outbox.put(await asyncio.to_thread(self._motion.finish))
    self._outbox.end()

  async def _send(self) -> None:
    """Sends the frames of the outbox, and at the end their number."""
    sent = 0
    while run := await self._outbox.take():
      header = HEADER.pack(run[0].number, len(run), run[0].number - sent)
      poses_px = np.stack([frame.pose_px for frame in run]).astype("<f4")
      async with self._sending:
        await self._socket.send_bytes(header + poses_px.tobytes())
      sent += len(run)
    total = self._motion.num_frames
    await self._send_json(
      {"type": "finished", "frames": total, "dropped": total - sent}
    )

  async def _send_json(self, message: dict[str, Any]) -> None:
    async with self._sending:
      await self._socket.send_json(message)


async def refuse(socket: WebSocket, refused: RefusedError) -> None:
  """Tells a client the reason and disconnects it, without waiting for a slow one."""
  with contextlib.suppress(TimeoutError, WebSocketDisconnect):
    async with asyncio.timeout(5):
      await socket.send_json({"type": "error", "reason": refused.reason})
      await socket.close(refused.code, refused.reason[:_MAX_REASON])
