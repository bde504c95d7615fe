"""Allowed and rejected values of `--template`."""

import numpy as np
import pytest

from sdt_jax.errors import UserError
from sdt_jax.templates import sources

RNG = np.random.default_rng(0)
BANK = RNG.standard_normal((20, 4)).astype(np.float32)
BANK_BY_FRAME = RNG.standard_normal((20, 64, 4)).astype(np.float32)


def _names(spec, count=1, seed=0, bank=BANK):
  return [t.name for t in sources.choose(spec, bank, num_samples=count, seed=seed)]


def _codes(spec, count=1, seed=0, bank=BANK):
  chosen = sources.choose(spec, bank, num_samples=count, seed=seed)
  return np.concatenate([t.codes for t in chosen])


@pytest.mark.parametrize("bank", [BANK, BANK_BY_FRAME])
def test_random_draws_rows_by_the_seed(bank):
  codes = _codes("random", 8, seed=3, bank=bank)
  np.testing.assert_array_equal(codes, _codes("random", 8, seed=3, bank=bank))
  assert not np.array_equal(codes, _codes("random", 8, seed=4, bank=bank))
  assert len(np.unique(codes, axis=0)) > 1
  for name, code in zip(_names("random", 8, 3, bank), codes, strict=True):
    row = int(name.removeprefix("index "))
    np.testing.assert_array_equal(code, bank[row])


def test_more_renderings_begin_with_the_same_and_every_row_is_drawn():
  np.testing.assert_array_equal(_codes("random", 8)[:3], _codes("random", 3))
  assert len(set(_names("random", 1000))) == len(BANK)


@pytest.mark.parametrize("row", [0, 7, 19])
def test_an_index_is_that_row_for_all_renderings(row):
  np.testing.assert_array_equal(_codes(str(row), 3), np.stack([BANK[row]] * 3))
  assert _names(str(row)) == [f"index {row}"]


@pytest.mark.parametrize("bank", [BANK, BANK_BY_FRAME])
def test_a_blend_goes_from_one_row_to_the_other(bank):
  codes = _codes("2:5", 5, bank=bank)
  assert codes.dtype == np.float32
  np.testing.assert_array_equal(codes[0], bank[2])
  np.testing.assert_array_equal(codes[-1], bank[5])
  steps = np.diff(codes, axis=0)
  np.testing.assert_allclose(steps, np.stack([(bank[5] - bank[2]) / 4] * 4), atol=1e-5)


def test_a_single_blend_stands_in_the_middle():
  np.testing.assert_allclose(_codes("2:5")[0], (BANK[2] + BANK[5]) / 2, rtol=1e-6)
  assert _names("2:5") == ["index 2 x 0.50 + index 5 x 0.50"]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (3, 10, 4)])
def test_a_file_gives_a_row_to_each_rendering_in_turn(tmp_path, shape):
  codes = np.random.default_rng(1).standard_normal(shape)
  path = tmp_path / "codes.npz"
  arrays = {"poses_pred_batch": np.zeros(3), "condition_code": codes}  # as demo.py
  np.savez_compressed(path, **arrays)
  rows = codes.astype(np.float32).reshape(-1, *shape[1:] if len(shape) > 1 else shape)
  chosen = _codes(str(path), 5)
  np.testing.assert_array_equal(chosen, rows[np.arange(5) % len(rows)])
  assert len(set(_names(str(path), 5))) == len(rows)


def test_files_of_older_versions_have_another_key(tmp_path):
  np.savez(tmp_path / "old.npz", poses_pred_batch=np.zeros(3), template=BANK[3])
  np.testing.assert_array_equal(_codes(str(tmp_path / "old.npz")), BANK[3:4])
  np.savez(tmp_path / "both.npz", template=BANK[3], condition_code=BANK[4])
  np.testing.assert_array_equal(_codes(str(tmp_path / "both.npz")), BANK[4:5])


def test_a_model_without_templates_takes_random_only():
  assert sources.choose("random", None, num_samples=3) == [None] * 3
  for spec in ("3", "1:2", "codes.npz", "nonsense"):
    with pytest.raises(UserError, match=f"--template={spec}: this model has no"):
      sources.choose(spec, None)


@pytest.mark.parametrize(
  ("spec", "complaint"),
  [
    ("20", "index 20 is outside the bank of 20 templates; give 0 to 19"),
    *(("-1", "index -1 is outside"), ("-1:3", "index -1 is outside")),
    *(("3:20", "index 20 is outside"), ("missing.npz", "no such file")),
    *((spec, "expected random") for spec in ("", "Random", "1.5", "1:2:", "1:")),
    *((spec, "expected random") for spec in ("7\n", "codes.npy")),
  ],
)
def test_other_specs_are_refused_by_name(spec, complaint):
  with pytest.raises(UserError, match=complaint) as e:
    sources.choose(spec, BANK, num_samples=2)
  assert str(e.value).startswith(f"--template={spec.strip()}")


@pytest.mark.parametrize("key", ["template", "condition_code"])
@pytest.mark.parametrize(
  ("template", "complaint"),
  [
    (np.zeros(5), r"shape \(1, 5\), expected \(4,\)"),
    *((np.zeros(shape), "shape") for shape in ((), (0, 4), (2, 0, 4), (1, 2, 3, 4))),
    (np.array([1, 2, 3, np.nan]), "NaN"),
    (np.array([1, 2, 3, np.inf]), "infinite"),
    (np.array(["a", "b", "c", "d"]), "has type <U1; give numbers"),
    (np.array([1, 2, 3, None]), "not a readable npz"),
    (None, "has no condition_code; found: code"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, template, complaint, key):
  path = tmp_path / "codes.npz"
  np.savez(path, **({"code": BANK} if template is None else {key: template}))
  with pytest.raises(UserError, match=complaint) as e:
    sources.choose(str(path), BANK, num_samples=2)
  assert str(path) in str(e.value)
  assert "\n" not in str(e.value)


def test_a_damaged_archive_is_refused(tmp_path):
  path = tmp_path / "codes.npz"
  np.savez_compressed(path, template=BANK)
  content = bytearray(path.read_bytes())
  content[60:120] = bytes(60)
  for damaged in (content, content[:200], b"", b"not an archive"):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not a readable npz"):
      sources.choose(str(path), BANK)


@pytest.mark.parametrize("bank", [BANK, BANK_BY_FRAME])
@pytest.mark.parametrize("spec", ["random", "normal", "3", "2:5"])
def test_every_clip_of_every_rendering_gets_a_template(spec, bank):
  chosen = sources.choose(spec, bank, num_samples=3, num_clips=7, seed=5)
  assert {t.codes.shape for t in chosen} == {(7, *bank.shape[1:])}
  assert {t.codes.dtype for t in chosen} == {np.dtype(np.float32)}
  again = sources.choose(spec, bank, num_samples=2, num_clips=7, seed=5)
  for ours, theirs in zip(again, chosen, strict=False):
    if spec != "2:5":  # a blend spreads over the renderings
      np.testing.assert_array_equal(ours.codes, theirs.codes)
  first, second = (t.codes for t in chosen[:2])
  drawn = spec in ("random", "normal")
  assert np.any(first != second) == (drawn or spec == "2:5")
  assert np.any(first != first[:1]) == drawn


def test_the_same_seed_draws_the_same_rows_for_every_validation():
  first, again = (
    sources.choose("random", BANK, num_clips=9, seed=2)[0].codes for _ in range(2)
  )
  np.testing.assert_array_equal(first, again)
  assert sources.choose("random", None, num_clips=9, seed=2) == [None]


def test_the_encoder_is_asked_only_where_there_are_true_poses():
  codes = np.ones((5, 4), np.float32)
  chosen = sources.choose(
    "encoder",
    BANK,
    num_samples=2,
    num_clips=5,
    abilities=sources.Abilities(encode=lambda: codes),
  )
  assert all(t.codes is codes for t in chosen)
  with pytest.raises(UserError, match="--template=encoder: needs true poses"):
    sources.choose("encoder", BANK)


def test_a_source_is_one_function_and_one_line(monkeypatch):
  def last(request):
    codes = np.repeat(request.bank[-1:], request.num_clips, axis=0)
    return [sources.Chosen("last", codes)] * request.num_samples

  monkeypatch.setitem(sources.SOURCES, "last", last)
  [chosen] = sources.choose("last", BANK, num_clips=2)
  np.testing.assert_array_equal(chosen.codes, BANK[[-1, -1]])
