"""Saving, restoring and keeping checkpoints, and errors about damaged ones."""

import asyncio
import gc
import pathlib
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax.errors import UserError
from sdt_jax.methods.train_state import TrainState
from sdt_jax.training import checkpoints, parallel

META = {"epoch": 3, "num_clips": 5}


def _state(step: int = 7, width: int = 3) -> TrainState:
  rng = np.random.default_rng(step)
  kernel = rng.standard_normal((4, width)).astype(np.float32)
  kernel[0] = [np.nan, -0.0, 1e-42][:width] + [np.inf] * (width - 3)
  return jax.tree.map(
    jnp.asarray,
    TrainState(
      step=np.int32(step),
      params={"generator": {"conv": {"kernel": kernel}}, "templates": kernel + 1},
      batch_stats={"generator": {"norm": {"mean": kernel[0]}}},
      opt_states={"generator": (np.int32(step), {"kernel": -kernel})},
      bank={},
    ),
  )


def _zeros(state: TrainState) -> TrainState:
  return jax.tree.map(jnp.zeros_like, state)


def _assert_same_bits(a, b) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _save(path, scores: dict[int, float], **kwargs) -> None:
  """Saves checkpoints at these steps with these values of the metric "l1"."""
  saved = checkpoints.Checkpoints(path, "l1", **kwargs)
  for step, score in scores.items():
    saved.save(_state(step), META | {"epoch": step}, {"l1": score, "l2": -score})
  saved.close()


def _open(path) -> checkpoints.Checkpoints:
  return checkpoints.Checkpoints(path, "l1", read_only=True)


def _steps(path) -> set[int]:
  return {int(child.name) for child in path.iterdir() if child.name.isdecimal()}


@pytest.fixture(scope="module")
def _saved_once(tmp_path_factory):
  path = tmp_path_factory.mktemp("saved") / "checkpoints"
  _save(path, {7: 1.0})
  return path


@pytest.fixture
def path(_saved_once, tmp_path):
  """A folder with one checkpoint, of step 7, that a test may damage."""
  return shutil.copytree(_saved_once, tmp_path / "checkpoints")


def test_a_state_comes_back_bit_by_bit(path):
  _assert_same_bits(_open(path).restore(7, _zeros(_state())), _state())
  assert _open(path).meta(7) == META | {"epoch": 7}


def test_a_save_is_not_affected_by_later_steps(tmp_path):
  """The next step reuses the memory of a state that is still being written."""
  saved = checkpoints.Checkpoints(tmp_path, "l1")
  state = parallel.replicate(_state()).replace(
    bank={"mean": parallel.replicate(jnp.ones((500, 1000)))}
  )
  expected = jax.device_get(state)
  add = parallel.map_steps(
    lambda state, data, x: (jax.tree.map(lambda y: y + 1, state), {"x": x.sum()}), "jit"
  )
  batch = parallel.split(np.zeros((1, 8), np.float32), axis=1)
  saved.save(state, META, {"l1": 1.0})
  for _ in range(5):
    state, _ = add(state, (), batch, 1)
  jax.block_until_ready(state)
  saved.close()
  _assert_same_bits(_open(tmp_path).restore(7, _zeros(expected)), expected)


def test_the_latest_and_the_best_are_kept(tmp_path):
  scores = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0}
  _save(tmp_path, scores, keep_latest=2, keep_best=1)
  assert _steps(tmp_path) == {2, 4, 5}
  saved = _open(tmp_path)
  assert (saved.find("latest"), saved.find("best"), saved.find("4")) == (5, 2, 4)
  assert checkpoints.latest(tmp_path) == 5
  # A resumed run still knows the scores.
  _save(tmp_path, {6: 9.0}, keep_latest=2, keep_best=1)
  assert _steps(tmp_path) == {2, 5, 6}
  assert _open(tmp_path).find("best") == 2
  _save(tmp_path, {7: 0.5}, keep_latest=1, keep_best=2)
  assert _steps(tmp_path) == {2, 7}


def test_nothing_half_deleted_is_left(tmp_path):
  _save(tmp_path, {1: 3.0, 2: 2.0, 3: 1.0})
  leftover = tmp_path / "deleted" / "1"
  assert not leftover.parent.exists()
  leftover.mkdir(parents=True)
  _save(tmp_path, {})
  assert not leftover.exists()
  assert _steps(tmp_path) == {3}


def test_a_save_that_was_killed_is_no_checkpoint(path):
  tmp = path / "9.orbax-checkpoint-tmp"
  shutil.copytree(path / "7", tmp)
  assert _open(path).find("latest") == 7
  _save(path, {8: 3.0})
  assert not tmp.exists()
  assert _open(path).find("latest") == 8


def test_an_error_of_a_save_is_one_line(path, caplog):
  saved = checkpoints.Checkpoints(path, "l1")
  path.rename(path.with_name("elsewhere"))
  path.write_text("in the way")
  with pytest.raises(UserError, match="cannot be written") as e:
    saved.save(_state(8), META, {})
  assert "\n" not in str(e.value)
  assert "Traceback" not in caplog.text


def test_reading_changes_nothing(path):
  before = sorted(path.rglob("*"))
  saved = _open(path)
  saved.restore(saved.find("best"), _zeros(_state()))
  saved.close()
  assert sorted(path.rglob("*")) == before


def test_without_a_checkpoint(tmp_path):
  folder = tmp_path / "checkpoints"
  assert checkpoints.latest(folder) is None
  with pytest.raises(UserError, match="checkpoints: no checkpoint; train the run fir"):
    _open(folder).find("latest")
  assert not folder.exists()
  _save(folder, {})
  assert checkpoints.latest(folder) is None


def test_the_best_falls_back_to_the_latest(tmp_path):
  saved = checkpoints.Checkpoints(tmp_path, "other")
  saved.save(_state(3), META, {"l1": 1.0})
  saved.close()
  assert _open(tmp_path).find("best") == 3


@pytest.mark.parametrize("which", ["8", "0", "-7", "7.0", "newest", "", "Best", "7 "])
def test_the_error_for_a_missing_step_lists_the_available_ones(path, which):
  with pytest.raises(UserError) as e:
    _open(path).find(which)
  message = str(e.value)
  assert message.startswith(f"--step={which}: no such checkpoint in {path}")
  assert message.endswith("choose one of latest, best, 7")


@pytest.mark.parametrize(("of", "to"), [(1, 8), (8, 1)])
def test_a_checkpoint_moves_between_device_counts(tmp_path, of, to):
  def place(state, devices):
    one = jax.device_put(state, jax.devices()[3])
    return parallel.replicate(state) if devices == 8 else one

  saved = checkpoints.Checkpoints(tmp_path, "l1")
  saved.save(place(_state(), of), META, {})
  saved.close()
  like = place(_zeros(_state()), to)
  restored = _open(tmp_path).restore(7, like)
  _assert_same_bits(restored, _state())
  shardings = lambda tree: [x.sharding for x in jax.tree.leaves(tree)]  # noqa: E731
  assert shardings(restored) == shardings(like)


def _assert_cannot_be_restored(path, like) -> None:
  with pytest.raises(UserError) as e:
    _open(path).restore(7, like)
  message = str(e.value)
  assert message.startswith(f"{path / '7'}: cannot be restored (")
  assert "\n" not in message


_KERNEL = {"kernel": jnp.ones((4, 3))}
_PARAMS = _state().params
_OTHER = {
  "wider": _state(width=4).params,
  "an extra network": _PARAMS | {"discriminator": _KERNEL},
  "a missing network": {"generator": _PARAMS["generator"]},
  "renamed parameters": _PARAMS | {"generator": {"dense": _KERNEL}},
}


@pytest.mark.parametrize("other", _OTHER)
def test_another_architecture_is_refused(path, other):
  _assert_cannot_be_restored(path, _state().replace(params=_OTHER[other]))


def _flipped(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


# Part of the names of the damaged files, and their new content; None deletes them.
_DAMAGE = {
  "no arrays": ("[!_]*", lambda content: None),
  "empty": ("*", lambda content: b""),
  "truncated": ("*", lambda content: content[: len(content) // 2]),
  "garbage": ("*", lambda content: b"\x00garbage" * 20),
}
_DAMAGED_DATA = {
  "no data": ("d/*", lambda content: None),
  "truncated data": ("d/*", lambda content: content[: len(content) // 2]),
  "flipped data": ("d/*", _flipped),
}


def _damage(step: pathlib.Path, pattern: str, change) -> None:
  for file in filter(pathlib.Path.is_file, [*(step / "state").rglob(pattern)]):
    content = change(file.read_bytes())
    if content is None:
      file.unlink()
    else:
      file.write_bytes(content)


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_checkpoint_is_named(path, damage):
  _damage(path / "7", *_DAMAGE[damage])
  _assert_cannot_be_restored(path, _zeros(_state()))
  shutil.rmtree(path / "7" / "state")
  _assert_cannot_be_restored(path, _zeros(_state()))


@pytest.fixture(scope="module")
def many_arrays(tmp_path_factory) -> tuple[pathlib.Path, TrainState]:
  """A checkpoint of 200 arrays, which Orbax reads all at once."""
  path = tmp_path_factory.mktemp("many") / "checkpoints"
  rng = np.random.default_rng(0)
  params = {f"p{i}": rng.standard_normal(30_000).astype("f4") for i in range(200)}
  state = _state().replace(params=jax.tree.map(jnp.asarray, params))
  saved = checkpoints.Checkpoints(path, "l1")
  saved.save(state, META, {})
  saved.close()
  return path, _zeros(state)


@pytest.mark.parametrize("damage", _DAMAGED_DATA)
def test_errors_of_the_other_arrays_are_not_printed(
  tmp_path, many_arrays, monkeypatch, caplog, damage
):
  """Not even late ones, of reads that were under way when the first one failed."""
  printed = []
  monkeypatch.setattr(sys, "unraisablehook", printed.append)
  saved, like = many_arrays
  path = shutil.copytree(saved, tmp_path / "checkpoints")
  _damage(path / "7", *_DAMAGED_DATA[damage])
  for _ in range(3):
    _assert_cannot_be_restored(path, like)
    time.sleep(0.1)
    gc.collect()
  assert not printed
  assert not caplog.records


def test_asyncio_is_left_alone(path):
  with pytest.raises(UserError):
    _open(path.parent / "none").find("latest")
  _open(path).restore(7, _zeros(_state()))
  loop = asyncio.new_event_loop()
  assert type(loop) is asyncio.SelectorEventLoop
  loop.close()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_damaged_meta_is_named(path, content):
  for file in (path / "7" / "meta").iterdir():
    file.unlink()
    if content is not None:
      file.write_bytes(content)
  with pytest.raises(UserError, match="7: cannot be restored"):
    _open(path).meta(7)
