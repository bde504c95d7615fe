"""Timelines: what they accept, and the templates that they give over time."""

import json

import numpy as np
import programs
import pytest
from test_windows import SOUND, _in_pieces, _loudness

from sdt_jax import audio
from sdt_jax.errors import UserError
from sdt_jax.synthesis import windows
from sdt_jax.synthesis.windows import WindowedStream
from sdt_jax.templates import keyframes, sources
from sdt_jax.templates.director import BLOCK, Constant, Director, Moved, minimum_jerk

BANK = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
ENTRIES = [
  {"at": 0, "template": 7},
  {"at": 2, "template": "7:12:0.25", "over": 1},
  {"at": 6, "template": [1, 2, 3, 4], "over": 2, "ease": "linear"},
  {"at": 12, "template": "3"},
]


def _content(*entries, **fields):
  return {"version": 1, "keyframes": list(entries)} | fields


def _director(entries, **arguments) -> Director:
  timeline = keyframes.parse(_content(*entries))
  [chosen] = sources.choose(timeline, BANK, **arguments)
  return chosen.director()


def _rows(entries, seconds=20, **arguments) -> np.ndarray:
  sound = np.zeros(audio.num_samples(round(seconds * audio.FPS)), np.float32)
  return _director(entries, **arguments).direct(sound)


def test_templates_change_at_their_times_and_stay():
  rows = _rows(ENTRIES)
  assert rows.shape == (300, 4)
  assert rows.dtype == np.float32
  blend, third = 0.75 * BANK[7] + 0.25 * BANK[12], np.array([1, 2, 3, 4])
  for first, last, code in (
    *((0, 30, BANK[7]), (45, 90, blend)),
    *((120, 180, third), (188, 300, BANK[3])),
  ):
    np.testing.assert_allclose(rows[first:last], [code] * (last - first), rtol=1e-6)
  # Half of a change is done in the middle of its time, for both courses.
  np.testing.assert_allclose(rows[105], (blend + third) / 2, rtol=1e-5)
  thirds = (rows[100] - blend) / (third - blend)
  np.testing.assert_allclose(thirds, np.full(4, 1 / 3), rtol=1e-4)


def test_a_smooth_change_has_no_jump_in_speed():
  fine = np.linspace(-0.5, 1.5, 20_001)
  speed = np.diff(minimum_jerk(fine)) / np.diff(fine)
  assert np.abs(np.diff(speed)).max() < 1e-3
  assert speed[0] == speed[-1] == 0
  linear = keyframes.EASES["linear"](fine)
  assert np.abs(np.diff(linear, n=2)).max() / np.diff(fine)[0] > 0.4


def test_a_left_out_template_stays_while_the_direction_changes():
  shift = np.array([0, 0, 5, 0], np.float32)
  offsets = {"energy:+1": shift, "energy:-1": -shift}
  abilities = sources.Abilities(offset=offsets.__getitem__)
  entries = [
    {"at": 0, "template": "random"},
    {"at": 1, "direction": "energy:+1"},
    {"at": 2, "direction": "energy:-1"},
    {"at": 3},
    {"at": 4, "template": "random"},
  ]
  rows = _rows(entries, 6, abilities=abilities, seed=3)
  start = rows[0]
  np.testing.assert_allclose(rows[25], start + shift, rtol=1e-5)
  np.testing.assert_allclose(rows[40], start - shift, rtol=1e-5)
  np.testing.assert_allclose(rows[55], start, rtol=1e-5)
  [drawn] = sources.choose("random", BANK, seed=3)
  np.testing.assert_array_equal(start, drawn.codes[0])
  assert not np.array_equal(rows[80], start)  # drawn anew
  np.testing.assert_array_equal(_rows(entries, 6, abilities=abilities, seed=3), rows)


def test_renderings_of_a_timeline_draw_their_own():
  timeline = keyframes.parse(_content({"at": 0, "template": "random"}))
  chosen = sources.choose(timeline, BANK, num_samples=6)
  assert len({t.director().next(None, None)[0].tobytes() for t in chosen}) > 1


class Listening(Director):
  """The number of its block and the mean of the sound before; keeps what it hears."""

  def __init__(self):
    self.pieces = []

  def next(self, heard, coming):
    self.pieces.append((heard, coming))
    mean = 0 if heard is None else heard.mean()
    return np.full((BLOCK, 4), len(self.pieces) + mean, np.float32)


def test_a_whole_sound_is_directed_block_by_block():
  sound = SOUND[: audio.num_samples(150)].astype(np.float32)
  director = Listening()
  rows = director.direct(sound)
  assert rows.shape == (150, 4)
  heard, coming = zip(*director.pieces, strict=True)
  assert heard[0] is None
  np.testing.assert_array_equal(np.concatenate(coming), sound)
  for before, piece in zip(coming, heard[1:], strict=False):
    np.testing.assert_array_equal(before, piece)


@pytest.mark.parametrize("sizes", [[], [500] * 300, [70_000, 1, 2, 150_000]])
def test_a_live_sound_is_directed_by_what_has_been_heard(sizes):
  sound = SOUND[: audio.num_samples(300)].astype(np.float32)
  director = Listening()
  stream = WindowedStream(_loudness, windows.live(), director)
  poses_px = _in_pieces(stream, sound, sizes)
  heard = [piece for piece, _ in director.pieces]
  assert heard[0] is None
  np.testing.assert_array_equal(
    np.concatenate(heard[1:]), sound[: audio.num_samples(4 * BLOCK)]
  )
  assert all(coming is None for _, coming in director.pieces)
  whole = WindowedStream(_loudness, windows.live(), Listening())
  np.testing.assert_array_equal(poses_px, _in_pieces(whole, sound, []))


def test_a_stream_follows_a_timeline_as_a_whole_sound_does():
  sound = SOUND[: audio.num_samples(300)].astype(np.float32)
  rows = _director(ENTRIES).direct(sound)
  expected = _in_pieces(WindowedStream(_loudness, windows.live(), rows), sound, [])
  stream = WindowedStream(_loudness, windows.live(), _director(ENTRIES))
  np.testing.assert_array_equal(_in_pieces(stream, sound, [9_000] * 20), expected)


def test_set_template_ends_the_direction():
  stream = WindowedStream(_loudness, windows.live(), Constant(np.zeros(4, np.float32)))
  sound = SOUND[: audio.num_samples(200)].astype(np.float32)
  stream.feed(sound[: audio.num_samples(20)])
  stream.set_template(np.ones(4, np.float32), num_frames=5)
  stream.feed(sound[audio.num_samples(20) :])
  last = stream.finish()[-1, 0, 0]
  np.testing.assert_allclose(last, 1, atol=0.5)  # the template plus the sound


def test_a_timeline_may_contain_templates_over_time():
  made = []

  def listening(seed):
    made.append(seed)
    return Listening()

  abilities = sources.Abilities(sequence=listening)
  entries = [{"at": 0, "template": 3}, {"at": 5, "template": "sequence"}]
  rows = _rows(entries, 20, abilities=abilities)
  np.testing.assert_array_equal(rows[:75], np.repeat(BANK[3:4], 75, axis=0))
  np.testing.assert_array_equal(rows[83:128], np.full((45, 4), 2, np.float32))
  np.testing.assert_array_equal(rows[128:192], np.full((64, 4), 3, np.float32))
  assert len(made) == 1


def test_directors_can_be_moved():
  moved = Moved(Constant(BANK[2]), np.array([1, 0, 0, 0], np.float32))
  np.testing.assert_allclose(moved.next(None, None)[5], BANK[2] + [1, 0, 0, 0])


def test_changes_may_end_where_the_next_one_begins():
  for tenths in range(1, 60):
    entries = [
      {"at": round(0.1 * tenths * i, 1), "template": i, "over": round(0.1 * tenths, 1)}
      for i in range(8)
    ]
    keyframes.parse(_content(*entries))


def test_numbers_of_numpy_are_numbers():
  entries = [
    {"at": np.float64(0), "template": np.int64(3)},
    {"at": np.float32(1), "template": BANK[5]},
  ]
  rows = _rows(entries, 3)
  np.testing.assert_array_equal(rows[[0, -1]], BANK[[3, 5]])


FIRST = {"at": 0, "template": 1}


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    ([], "expected an object"),
    ({}, '"version" is None; give 1'),
    ({"version": 2, "keyframes": [FIRST]}, '"version" is 2; give 1'),
    ({"version": 1}, '"keyframes" must be a list'),
    (_content(), "at least one keyframe"),
    (_content(FIRST, tempo=3), "unknown key 'tempo'"),
    (_content(FIRST | {"color": 1}), "keyframe 0: unknown key 'color'; known: at, dir"),
    (_content({"at": 1, "template": 1}), "the first keyframe must be at 0"),
    (_content({"at": 0}), '"template" is missing; the first keyframe needs one'),
    (_content({"template": 1}), '"at" is None; give a number'),
    (_content(FIRST, {"at": 0}), 'keyframe 1: "at" is 0, not after the keyframe'),
    (_content(FIRST, {"at": -1}), '"at" is -1; give 0 or more seconds'),
    (_content(FIRST, {"at": float("nan")}), '"at" is nan; give a number'),
    (_content(FIRST, {"at": True}), '"at" is True; give a number'),
    (_content(FIRST, {"at": 10**400}), "; give a number"),
    (_content(FIRST, {"at": 1, "over": 0}), '"over" is 0; give the seconds'),
    (_content(FIRST, {"at": 1, "ease": "fast"}), "\"ease\" is 'fast'; give smooth or"),
    (_content(FIRST, {"at": 1, "ease": ["smooth"]}), '"ease" is'),
    (_content(FIRST, {"at": 1}, {"at": 1.2}), "ends at 1.5 s, after the next keyframe"),
    (_content(FIRST, {"at": 1, "template": "b.json"}), "except a timeline"),
    (_content(FIRST, {"at": 1, "template": 1.5}), '"template" is 1.5; give a row'),
    (_content(FIRST, {"at": 1, "template": []}), '"template" is []; give a row'),
    (_content(FIRST, {"at": 1, "template": ["x"]}), "is 'x'; give a number"),
    (_content(FIRST, {"at": 1, "direction": {"energy": 1}}), '"direction" is'),
  ],
)
def test_wrong_timelines_are_refused_by_keyframe_and_key(content, complaint):
  with pytest.raises(UserError) as e:
    keyframes.parse(content, "my.json")
  assert str(e.value).startswith("my.json: ")
  assert complaint in str(e.value)
  assert len(str(e.value)) < 200


@pytest.mark.parametrize(
  ("entry", "complaint"),
  [
    ({"template": 99}, "index 99 is outside the bank of 20"),
    ({"template": [1, 2]}, "has shape (2,), expected (4,)"),
    ({"template": "sequence"}, "no code mapper"),
    ({"direction": "energy:1"}, "--direction=energy:1"),
    ({"template": "nonsense"}, "expected random"),
  ],
)
def test_templates_that_the_model_lacks_are_refused(entry, complaint):
  with pytest.raises(UserError) as e:
    _director([FIRST, {"at": 1} | entry])
  assert str(e.value).startswith("timeline: keyframe 1 at 1 s: ")
  assert complaint in str(e.value)


@pytest.mark.parametrize(
  "text", ["", "[", '{"version": 1', "[" * 100_000, "\xff", " " * 2_000_000]
)
def test_files_that_are_no_timeline_are_refused(tmp_path, text):
  path = tmp_path / "timeline.json"
  path.write_text(text, encoding="latin-1")
  with pytest.raises(UserError) as e:
    sources.choose(str(path), BANK)
  assert str(path) in str(e.value)
  with pytest.raises(UserError, match="cannot be read"):
    sources.choose(str(tmp_path / "missing.json"), BANK)


def test_the_program_prints_the_keyframes_or_one_line(tmp_path):
  path = tmp_path / "timeline.json"
  path.write_text(json.dumps(_content(*ENTRIES)))
  command = ("-m", "sdt_jax.templates.timeline", "--check", path)
  table = programs.run(*command).splitlines()
  assert len(table) == 1 + len(ENTRIES)
  assert table[2].split() == ["2.00", "s", "1.00", "s", "smooth", "7:12:0.25"]
  assert "4 numbers" in table[3]
  path.write_text(json.dumps(_content(FIRST, {"at": 1, "ease": "fast"})))
  done = programs.python(*command)
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {path}: keyframe 1: ")
  assert done.stderr.count("\n") == 1
