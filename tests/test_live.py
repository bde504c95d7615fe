"""The live program: its WebSocket, its limits, and its page in a real browser."""

import asyncio
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import golden
import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
import soundfile
import tiny

from sdt_jax import audio, methods, speakers, workdir
from sdt_jax import keypoints as kp
from sdt_jax.errors import UserError
from sdt_jax.synthesis.generate import GestureModel
from sdt_jax.training import runs
from sdt_jax.training.checkpoints import Checkpoints

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

import websockets.sync.client as ws
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sdt_jax.live import server, session
from sdt_jax.live.queues import Inbox, Outbox, Sound, Template

NUM_CLIPS = 6
GENEROUS = session.Limits(
  speed=1000, burst_seconds=1000, waiting_seconds=1000, waiting_frames=10_000
)
CHROMIUM = os.environ.get("SDT_CHROMIUM") or shutil.which("chromium")
FPS, RATE = audio.FPS, audio.SAMPLE_RATE
pytestmark = pytest.mark.usefixtures("compile_fast")


def _run() -> runs.Run:
  """Random numbers in the place of trained ones."""
  config = tiny.config("data")
  method = methods.build(config, steps_per_epoch=1)
  rng = np.random.default_rng(0)

  def fill(leaf):
    spread = 0.1 if leaf.ndim < 3 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
    return (spread * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  shapes = jax.eval_shape(lambda: runs.init_state(method, 0, NUM_CLIPS))
  state = jax.tree.map(fill, shapes).replace(step=jnp.int32(12))
  state.params["templates"] *= 30
  speaker = speakers.published("kubinec")
  return runs.Run(pathlib.Path("run"), config, speaker, method, state, 12, 3)


@pytest.fixture(scope="module")
def run() -> runs.Run:
  return _run()


@pytest.fixture(scope="module")
def model(run, compile_fast) -> GestureModel:
  return GestureModel(run, run.speaker)


@pytest.fixture(scope="module")
def hello(model) -> dict:
  return server.describe(model, 2)


@pytest.fixture(scope="module")
def serve(model, hello):
  """Function that starts a server with some limits, and returns its address."""
  with contextlib.ExitStack() as stack:

    @functools.cache
    def start(limits=GENEROUS, origins=(), sound=None, model=model) -> str:
      app = server.create_app(model, hello, 2, limits, origins, sound)
      return stack.enter_context(_served(app))

    yield start


@contextlib.contextmanager
def _served(app):
  with server.listen("127.0.0.1", 0) as listener:
    web = server.web_server(app)
    thread = threading.Thread(target=web.run, args=([listener],))
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    web.should_exit = True
    thread.join()


def _sound(seconds: float, seed: int = 0) -> np.ndarray:
  """(samples,) int16 noise of changing loudness."""
  count = int(seconds * RATE)
  loudness = 3000 + 2500 * np.sin(np.arange(count) / 3000)
  noise = np.random.default_rng(seed).standard_normal(count)
  return (loudness * noise).clip(-32768, 32767).astype("<i2")


def _connect(address: str, **options):
  return ws.connect(f"ws://{address}/stream", compression=None, **options)


def _socket(address: str) -> socket.socket:
  host, port = address.split(":")
  return socket.create_connection((host, int(port)))


def _send(client, message: dict | np.ndarray, pieces: int = 1) -> None:
  if isinstance(message, dict):
    client.send(json.dumps(message))
    return
  for piece in np.array_split(message, pieces):
    client.send(piece.tobytes())


def _read(message: bytes) -> tuple[int, int, np.ndarray]:
  """First frame, frames dropped so far, poses (k, dims, joints)."""
  first, count, dropped = np.frombuffer(message, "<u4", 3)
  poses_px = np.frombuffer(message, "<f4", offset=12)
  return int(first), int(dropped), poses_px.reshape(count, *kp.UPPER_BODY.shape)


def _receive(client) -> tuple[np.ndarray, np.ndarray, dict]:
  """Frame numbers, poses and the last message, up to the end of the connection."""
  numbers, poses_px, last = [], [np.zeros((0, *kp.UPPER_BODY.shape))], {}
  for message in client:
    if isinstance(message, str):
      last = json.loads(message)
      continue
    first, dropped, poses = _read(message)
    assert first == len(numbers) + dropped
    numbers += range(first, first + len(poses))
    poses_px.append(poses)
  return np.array(numbers), np.concatenate(poses_px), last


def _offline(model, *steps) -> np.ndarray:
  """The poses of a stream; steps: its first template, then sounds and templates."""
  stream = model.stream(steps[0])
  poses_px = []
  for step in steps[1:]:
    if step.dtype == np.int16:
      poses_px.append(stream.feed(step.astype(np.float32) / 2**15))
    else:
      stream.set_template(step)
  return np.concatenate([*poses_px, stream.finish()])


def _talk(address: str, template: int, sound: np.ndarray):
  with _connect(address) as client:
    _send(client, {"type": "template", "template": template})
    _send(client, sound, pieces=50)
    _send(client, {"type": "finish"})
    return _receive(client)


def test_poses_are_those_of_a_stream(model, serve):
  sound = _sound(4.3)
  with _connect(serve()) as client:
    hello = json.loads(client.recv())
    _send(client, {"type": "template", "template": 3})
    assert json.loads(client.recv()) == {"type": "template", "template": 3}
    _send(client, sound, pieces=50)
    _send(client, {"type": "finish"})
    numbers, poses_px, last = _receive(client)
  assert (hello["type"], hello["protocol"]) == ("hello", 1)
  assert (hello["sample_rate"], hello["fps"]) == (RATE, FPS)
  assert hello["joints"] == list(kp.UPPER_BODY.names)
  assert hello["templates"] == NUM_CLIPS
  np.testing.assert_array_equal(numbers, np.arange(65))
  np.testing.assert_allclose(poses_px, _offline(model, 3, sound), rtol=1e-5, atol=1e-3)
  assert last == {"type": "finished", "frames": 65, "dropped": 0}
  assert (client.close_code, client.close_reason) == (1000, "finished")


def test_the_latency_in_hello_is_that_of_the_stream(hello):
  assert hello["latency_frames"] == 4  # hop + look-ahead + fade - 1


def test_a_template_takes_effect_where_it_was_sent(model, serve):
  sound = _sound(5)
  change = {"type": "template", "template": 1, "blend_with": 4, "weight": 0.25}
  with _connect(serve()) as client:
    _send(client, {"type": "template", "template": 3})
    _send(client, sound[:RATE], pieces=9)
    _send(client, change)
    _send(client, sound[RATE:], pieces=20)
    _send(client, {"type": "finish"})
    _, poses_px, _ = _receive(client)
  blend = 0.75 * model.bank[1] + 0.25 * model.bank[4]
  expected = _offline(model, 3, sound[:RATE], blend, sound[RATE:])
  np.testing.assert_allclose(poses_px, expected, rtol=1e-5, atol=1e-3)
  assert np.abs(expected - _offline(model, 3, sound)).max() > 1


def test_random_is_answered_with_the_row(model, serve):
  sound = _sound(1)
  with _connect(serve()) as client:
    client.recv()
    _send(client, {"type": "template", "template": "random"})
    row = json.loads(client.recv())["template"]
    _send(client, sound)
    _send(client, {"type": "finish"})
    _, poses_px, _ = _receive(client)
  expected = _offline(model, row, sound)
  np.testing.assert_allclose(poses_px, expected, rtol=1e-5, atol=1e-3)


def test_ten_clients_at_once_get_their_own_frames(model, serve):
  sounds = [_sound(1, seed) for seed in range(10)]
  rows = [seed % NUM_CLIPS for seed in range(10)]
  with concurrent.futures.ThreadPoolExecutor(10) as pool:
    results = list(pool.map(functools.partial(_talk, serve()), rows, sounds))
  for row, sound, (numbers, poses_px, last) in zip(rows, sounds, results, strict=True):
    np.testing.assert_array_equal(numbers, np.arange(15))
    expected = _offline(model, row, sound)
    np.testing.assert_allclose(poses_px, expected, rtol=1e-5, atol=1e-3)
    assert last["dropped"] == 0


def test_a_disconnect_frees_the_place(serve):
  address = serve(session.Limits(clients=1))
  with _connect(address) as client:
    _send(client, _sound(1))
    client.recv()
    with _connect(address) as second:
      assert "all 1 places are taken" in _refusal(second, 1013)
    client.socket.shutdown(socket.SHUT_RDWR)  # without a closing handshake
  for _ in range(50):
    with _connect(address) as third:
      if json.loads(third.recv())["type"] == "hello":
        return
    time.sleep(0.1)
  pytest.fail("the place is still taken")


class _Instant:
  """A stream that takes no time."""

  def __init__(self, *_, **__):
    self.heard = 0

  def feed(self, samples: np.ndarray) -> np.ndarray:
    before, self.heard = self.heard, self.heard + len(samples)
    count = audio.num_frames(self.heard) - audio.num_frames(before)
    return np.zeros((count, *kp.UPPER_BODY.shape), np.float32)

  def finish(self) -> np.ndarray:
    return self.feed(np.zeros(0))


def test_a_slow_client_loses_frames(serve, model):
  limits = dataclasses.replace(GENEROUS, waiting_frames=10)
  instant = copy.copy(model)
  instant.stream = _Instant
  slow = _socket(serve(limits, model=instant))
  slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
  with _connect("localhost", sock=slow, max_queue=1) as client:
    client.recv()
    _send(client, _sound(60), pieces=100)
    _send(client, {"type": "finish"})
    time.sleep(1)
    numbers, _, last = _receive(client)
  assert last["frames"] == 900
  assert last["dropped"] == 900 - len(numbers) > 100
  assert (np.diff(numbers) > 0).all()
  assert numbers[-1] == 899


def test_the_inbox_leaves_out_sound_that_waits_too_long():
  async def fill() -> list:
    inbox = Inbox(max_samples=100)
    for _ in range(5):
      inbox.put_sound(np.zeros(40))
      inbox.put_template(np.ones(2))
      inbox.put_template(np.zeros(2))
    return await inbox.take()

  first, sound, last = asyncio.run(fill())
  assert isinstance(first, Template)
  assert isinstance(last, Template)
  assert (sound.first, len(sound.samples)) == (160, 40)


def test_the_inbox_joins_pieces():
  async def fill() -> list:
    inbox = Inbox(max_samples=100)
    for piece in np.split(np.arange(100), 20):
      inbox.put_sound(piece)
    return await inbox.take()

  [sound] = asyncio.run(fill())
  assert sound.first == 0
  np.testing.assert_array_equal(sound.samples, np.arange(100))


def test_the_outbox_keeps_the_latest_frames_and_tells_gaps():
  async def fill() -> list:
    outbox = Outbox(5)
    outbox.put([session.Frame(i, np.zeros(1)) for i in (0, 1, 2, 3, 7, 8)])
    outbox.end()
    return [[frame.number for frame in await outbox.take()] for _ in range(3)]

  assert asyncio.run(fill()) == [[1, 2, 3], [7, 8], []]


def test_after_a_gap_time_stays_right(model):
  parts = [_sound(2).astype(np.float32) / 2**15, _sound(1, 1) / np.float32(2**15)]
  motion = session.Motion(model, 2, model.bank[0])
  frames = motion.process([Sound(0, parts[0])])
  frames += motion.process([Template(model.bank[1]), Sound(4 * RATE, parts[1])])
  frames += motion.finish()
  numbers = [frame.number for frame in frames]
  assert numbers == [*range(30), *range(4 * FPS, 5 * FPS)]
  after = model.stream(1)
  expected = np.concatenate([after.feed(parts[1]), after.finish()])
  poses_px = np.stack([frame.pose_px for frame in frames[30:]])
  np.testing.assert_allclose(poses_px, expected, rtol=1e-5, atol=1e-3)


def _refusal(client, code: int) -> str:
  """The reason for which a client is disconnected."""
  messages = []
  with contextlib.suppress(ConnectionClosed):
    while True:
      messages.append(client.recv(timeout=10))
  last = json.loads([m for m in messages if isinstance(m, str)][-1])
  assert last["type"] == "error"
  assert client.close_code == code
  assert client.close_reason == last["reason"][:120]
  return last["reason"]


@pytest.mark.parametrize(
  ("message", "code", "reason"),
  [
    ("{", 1007, "send a JSON object"),
    ("[]", 1007, "send a JSON object"),
    ("[" * 20_000, 1007, "send a JSON object"),
    ('{"type": "sing"}', 1007, "type 'sing'; send 'template' or 'finish'"),
    ('{"type": {"\\ud800": "\u00e9"}}', 1007, "send 'template' or 'finish'"),
    ('{"type": "template"}', 1007, "template None; send 0 to 5 or 'random'"),
    ('{"type": "template", "template": 6}', 1007, "send 0 to 5 or 'random'"),
    ('{"type": "template", "template": true}', 1007, "send 0 to 5 or 'random'"),
    ('{"type": "template", "template": "/x.npz"}', 1007, "send 0 to 5 or 'random'"),
    (
      '{"type": "template", "template": 1, "blend_with": 2, "weight": NaN}',
      1007,
      "weight nan; send a number from 0 to 1",
    ),
    (b"\0" * 801, 1007, "sound of 801 bytes; send 16-bit samples"),
    (b"\0" * 40_000, 1009, "message of 40000 bytes; send at most 32000"),
    ("x" * 40_000, 1009, "message of 40000 bytes; send at most 32000"),
  ],
  ids=str,
)
def test_a_bad_message_ends_only_its_own_connection(serve, message, code, reason):
  with _connect(serve()) as other, _connect(serve()) as client:
    client.send(message)
    assert reason in _refusal(client, code)
    _send(other, _sound(1))
    _send(other, {"type": "finish"})
    assert _receive(other)[2]["frames"] == FPS


def test_sound_that_comes_too_fast_is_refused(serve):
  with _connect(serve(session.Limits(burst_seconds=2))) as client:
    with contextlib.suppress(ConnectionClosed):
      for _ in range(5):
        _send(client, _sound(0.9))
    assert "too fast; send at most 2 times real time" in _refusal(client, 1008)


def test_small_messages_that_come_too_fast_are_refused(serve):
  with _connect(serve(session.Limits(burst_seconds=2))) as client:
    with contextlib.suppress(ConnectionClosed):
      for _ in range(600):
        client.send(b"")
    assert "too fast" in _refusal(client, 1008)


def test_an_idle_client_is_disconnected(serve):
  with _connect(serve(session.Limits(idle_seconds=0.2))) as client:
    assert _refusal(client, 1008) == "no message for 0.2 s"


def test_a_model_without_templates_refuses_them(serve, model):
  lacking = copy.copy(model)
  lacking.bank = None
  with _connect(serve(model=lacking)) as client:
    _send(client, {"type": "template", "template": 3})
    assert _refusal(client, 1007) == "this model has no templates; leave them out"


def test_an_error_of_the_program_is_logged_and_ends_one_connection(serve, model):
  broken = copy.copy(model)
  broken.stream = lambda *_, **__: 1 / 0
  with _connect(serve(model=broken)) as client:
    _send(client, _sound(1))
    assert _refusal(client, 1011) == "error of the server, see its log"
  with _connect(serve(model=broken)) as client:
    assert json.loads(client.recv())["type"] == "hello"


@pytest.mark.parametrize(
  ("origin", "host", "accepted"),
  [
    (None, None, True),
    ("http://{address}", None, True),
    ("http://localhost:81", "localhost:81", True),
    ("http://192.168.0.7:8010", "192.168.0.7:8010", True),
    ("https://gestures.example.org", None, True),
    ("http://localhost:3000", None, False),
    ("http://evil.example.org", None, False),
    ("http://evil.example.org", "evil.example.org", False),  # its name leads here
    ("null", None, False),
  ],
)
def test_pages_of_other_origins_are_refused(serve, origin, host, accepted):
  address = serve(origins=("https://gestures.example.org",))
  own = origin and origin.format(address=address)
  expected = contextlib.nullcontext() if accepted else pytest.raises(InvalidStatus)
  with (
    expected as refused,
    _connect(host or address, sock=_socket(address), origin=own) as client,
  ):
    assert json.loads(client.recv())["type"] == "hello"
  if refused:
    assert refused.value.response.status_code == 403
    assert f"--allow_origin={origin}" in refused.value.response.body.decode()


@pytest.mark.parametrize(
  ("host", "status"),
  [
    ("localhost:8010", 200),
    ("[::1]:8010", 200),
    ("gestures.example.org", 200),
    ("evil.example.org", 403),
    ("[", 403),
  ],
)
def test_files_are_given_only_to_the_own_page(serve, host, status):
  address = serve(origins=("https://gestures.example.org",))
  connection = http.client.HTTPConnection(address)
  connection.request("GET", "/hello", headers={"Host": host})
  assert connection.getresponse().status == status
  connection.close()


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory) -> pathlib.Path:
  """A workdir with the model, as training leaves it."""
  path = tmp_path_factory.mktemp("live") / "run"
  clips = [f"clip{i}" for i in range(NUM_CLIPS)]
  workdir.create(path, run.config, run.speaker, clips)
  checkpoints = Checkpoints(path / workdir.CHECKPOINTS, "lip_sync")
  meta = {"epoch": run.epoch, "num_clips": NUM_CLIPS}
  checkpoints.save(run.state, meta, {"lip_sync": 1.0})
  checkpoints.close()
  return path


@contextlib.contextmanager
def _program(*flags):
  """Runs the program; yields the process and its address, once it is ready."""
  command = [sys.executable, "-m", "sdt_jax.live", *map(str, flags), "--port=0"]
  environment = os.environ | {"XLA_FLAGS": ""}
  pipe = subprocess.PIPE
  with subprocess.Popen(
    command, cwd=programs.ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
  ) as process:
    try:
      line = process.stdout.readline()
      assert line.startswith("ready: http://127.0.0.1:"), process.stderr.read()
      yield process, line.split()[1].removeprefix("http://")
    finally:
      process.kill()


@pytest.mark.slow
def test_the_program_serves_the_example_client_until_ctrl_c(saved, tmp_path):
  wav = tmp_path / "speech.wav"
  speech = golden.speech()[:RATE]
  wav.write_bytes(server.player("", speech, RATE).wav)
  with _program(f"--workdir={saved}", f"--audio={golden.SPEECH}") as (process, address):
    url = f"ws://{address}/stream"
    said = programs.run("examples/live_client.py", wav, url).splitlines()
    with _connect(address) as client:
      client.recv()
      process.send_signal(signal.SIGINT)
      rest, errors = process.communicate(timeout=20)
  assert [line.split(":")[0] for line in said[:-1]] == [f"frame {i}" for i in range(15)]
  assert json.loads(said[-1]) == {"type": "finished", "frames": 15, "dropped": 0}
  assert (process.returncode, rest, errors) == (130, "", "")


def test_a_port_in_use_is_one_line(saved):
  with server.listen("127.0.0.1", 0) as listener:
    port = listener.getsockname()[1]
    flags = [f"--workdir={saved}", f"--port={port}"]
    done = programs.python("-m", "sdt_jax.live", *flags)
  assert done.returncode == 2
  assert done.stderr == (
    f"error: --port={port}: is in use by another program; give another one, or 0 for "
    "any\n"
  )


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70])
def test_an_address_that_is_not_of_this_machine_is_named(host):
  with pytest.raises(UserError, match=f"--host={host}, --port=0: cannot listen"):
    server.listen(host, 0)


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "*"])
def test_a_malformed_origin_is_named(origin):
  with pytest.raises(UserError, match=re.escape(f"--allow_origin={origin}: ")):
    server.check_origins(["https://example.org", "http://10.0.0.1:80", origin])


def test_missing_packages_are_one_line():
  code = (
    "import runpy, sys; sys.modules['fastapi'] = None; sys.argv[1:] = ['--workdir=x'];"
    "runpy.run_module('sdt_jax.live', run_name='__main__', alter_sys=True)"
  )
  done = programs.python("-c", code)
  assert done.returncode == 2
  assert done.stderr == (
    'error: fastapi is not installed; run: pip install "sdt_jax[live]"\n'
  )


@pytest.fixture(scope="module")
def browser():
  if not CHROMIUM:
    pytest.skip("chromium is not installed; SDT_CHROMIUM is its path, if elsewhere")
  if not os.environ.get("SDT_CHROMIUM"):
    pytest.importorskip("playwright")
  from playwright.sync_api import sync_playwright

  flags = ["--no-sandbox", "--use-fake-device-for-media-stream"]
  flags += ["--use-fake-ui-for-media-stream"]
  with sync_playwright() as playwright:
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, serve):
  """The page, whose console must stay empty."""
  sound = server.player("hello.wav", _sound(2.5).astype(np.float32) / 2**15, RATE)
  said = []
  page = browser.new_page(viewport={"width": 400, "height": 800})
  page.on("console", lambda message: said.append(message.text))
  page.on("pageerror", lambda error: said.append(str(error)))
  page.goto(f"http://{serve(session.Limits(), sound=sound)}/")
  page.get_by_text("Ready", exact=True).wait_for()
  yield page
  page.close()
  assert not said


def _number(page, name: str) -> int:
  return int(page.text_content(f"#{name}").split()[0])


def _watch(page, frames: int) -> None:
  """Waits until so many frames have been shown, and checks that the figure moves."""
  pictures = set()
  while (shown := _number(page, "shown")) < frames:
    assert page.text_content("#state") != "Ready"
    if shown:
      pictures.add(page.evaluate("document.getElementById('figure').toDataURL()"))
    page.wait_for_timeout(100)
  assert len(pictures) > 3
  assert _number(page, "dropped") < frames  # on a busy machine, some come late
  assert 200 < _number(page, "latency") < 4000


def test_the_page_follows_the_microphone(page):
  page.click("#microphone")
  _watch(page, 20)
  assert page.text_content("#state") == "Listening"
  page.click("#stop")
  assert page.text_content("#state") == "Ready"
  assert page.is_disabled("#stop")


def test_the_page_plays_the_sound_of_the_server_to_its_end(page):
  page.click("#sound")
  _watch(page, 15)
  page.get_by_text("Ready", exact=True).wait_for()
  assert _number(page, "shown") + _number(page, "dropped") in range(25, 39)


def test_the_page_plays_a_file_and_changes_the_template(page, tmp_path):
  stereo = tmp_path / "stereo.wav"
  sound = np.repeat(_sound(9)[:, None], 2, axis=1)
  soundfile.write(stereo, sound, RATE)
  page.set_input_files("#file", stereo)
  _watch(page, 15)
  page.fill("#second", "4")
  page.fill("#weight", "1")
  page.click("#random")
  _watch(page, 35)
  assert page.text_content("#state") == "Playing stereo.wav"


def test_the_page_shows_why_it_was_refused(browser, serve):
  page = browser.new_page()
  page.goto(f"http://{serve(session.Limits(idle_seconds=0.2))}/")
  never = "navigator.mediaDevices.getUserMedia = () => new Promise(() => {})"
  page.evaluate(f"() => {{ {never} }}")
  page.click("#microphone")
  page.wait_for_selector("#state.error")
  assert page.text_content("#state") == "no message for 0.2 s"
  page.close()


def test_the_page_fits_a_phone(page):
  assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_the_page_resamples(page):
  """Tones stay as they are, also in pieces; those above the new rate vanish."""
  resample = """async ([hertz, rate]) => {
    const {Resampler} = await import("/resampler.js");
    const resampler = new Resampler(rate, 16000);
    const tone = Float32Array.from({length: rate / 5}, (_, i) =>
      Math.sin(2 * Math.PI * hertz * i / rate));
    const output = [];
    for (let start = 0; start < tone.length; start += 128) {
      output.push(...resampler.feed(tone.subarray(start, start + 128)));
    }
    return output;
  }"""
  for rate in (16_000, 44_100, 48_000):
    output = np.array(page.evaluate(resample, [1000, rate]))
    assert abs(len(output) - RATE / 5) < 40
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(output)) / RATE)
    np.testing.assert_allclose(output[50:], expected[50:], atol=2e-3)
  assert np.abs(page.evaluate(resample, [10_000, 48_000])[50:]).max() < 2e-3
