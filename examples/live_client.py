"""Streams a sound file to the live program in real time, and prints the poses.

    python -m sdt_jax.live --workdir=output/quickstart
    python examples/live_client.py speech.wav [ws://127.0.0.1:8010/stream]

docs/live.md describes the protocol.
"""

import asyncio
import json
import sys

import numpy as np
import websockets

from sdt_jax import audio_file

PIECE = 800  # samples: 50 ms


async def send(socket, sound: np.ndarray) -> None:
  pcm = (sound.clip(-1, 1) * 32767).astype("<i2")
  for start in range(0, len(pcm), PIECE):
    await socket.send(pcm[start : start + PIECE].tobytes())
    await asyncio.sleep(PIECE / 16_000)
  await socket.send(json.dumps({"type": "finish"}))


async def main(path: str, url: str = "ws://127.0.0.1:8010/stream") -> None:
  async with websockets.connect(url) as socket:
    hello = json.loads(await socket.recv())
    nose = hello["joints"].index("nose")
    sending = asyncio.create_task(send(socket, audio_file.load_audio(path)))
    async for message in socket:
      if isinstance(message, str):
        print(message)
        continue
      first, count, dropped = np.frombuffer(message, "<u4", 3)
      poses_px = np.frombuffer(message, "<f4", offset=12)
      poses_px = poses_px.reshape(count, hello["dims"], -1)
      for frame, (x, y) in enumerate(poses_px[:, :, nose], first):
        print(f"frame {frame}: nose at {x:.1f}, {y:.1f}; {dropped} frames dropped")
    await sending


if __name__ == "__main__":
  try:
    asyncio.run(main(*sys.argv[1:]))
  except websockets.ConnectionClosed as e:
    sys.exit(f"error: the connection was closed: {e}")
