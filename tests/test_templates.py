"""What `--template` may say."""

import numpy as np
import pytest

from sdt_jax.errors import UserError
from sdt_jax.synthesis import templates

RNG = np.random.default_rng(0)
BANK = RNG.standard_normal((20, 4)).astype(np.float32)
BANK_BY_FRAME = RNG.standard_normal((20, 64, 4)).astype(np.float32)


def _names(spec, count=1, seed=0, bank=BANK):
  return [t.name for t in templates.choose(spec, bank, count, seed)]


def _codes(spec, count=1, seed=0, bank=BANK):
  return np.stack([t.code for t in templates.choose(spec, bank, count, seed)])


@pytest.mark.parametrize("bank", [BANK, BANK_BY_FRAME])
def test_random_draws_rows_by_the_seed(bank):
  codes = _codes("random", 8, seed=3, bank=bank)
  np.testing.assert_array_equal(codes, _codes("random", 8, seed=3, bank=bank))
  assert not np.array_equal(codes, _codes("random", 8, seed=4, bank=bank))
  assert len(np.unique(codes, axis=0)) > 1
  for name, code in zip(_names("random", 8, 3, bank), codes, strict=True):
    row = int(name.removeprefix("index "))
    np.testing.assert_array_equal(code, bank[row])


def test_more_renderings_begin_with_the_same():
  np.testing.assert_array_equal(_codes("random", 8)[:3], _codes("random", 3))


def test_every_row_is_drawn():
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
  np.savez(path, template=codes)
  rows = codes.astype(np.float32).reshape(-1, *shape[1:] if len(shape) > 1 else shape)
  chosen = _codes(str(path), 5)
  np.testing.assert_array_equal(chosen, rows[np.arange(5) % len(rows)])
  assert len(set(_names(str(path), 5))) == len(rows)


def test_what_demo_wrote_is_read_back(tmp_path):
  path = tmp_path / "demo.npz"
  np.savez_compressed(path, poses_pred_batch=np.zeros(3), template=BANK[4][None])
  np.testing.assert_array_equal(_codes(str(path))[0], BANK[4])


def test_a_model_without_templates_takes_random_only():
  assert templates.choose("random", None, 3, 0) == [None] * 3
  for spec in ("3", "1:2", "codes.npz", "nonsense"):
    with pytest.raises(UserError, match=f"--template={spec}: this model has no"):
      templates.choose(spec, None, 1, 0)


@pytest.mark.parametrize(
  ("spec", "complaint"),
  [
    ("20", "index 20 is outside the bank of 20 templates; give 0 to 19"),
    ("-1", "index -1 is outside"),
    ("3:20", "index 20 is outside"),
    ("-1:3", "index -1 is outside"),
    ("", "expected random"),
    ("Random", "expected random"),
    ("1.5", "expected random"),
    ("1:2:3", "expected random"),
    ("1:", "expected random"),
    ("7\n", "expected random"),
    ("codes.npy", "expected random"),
    ("missing.npz", "no such file"),
  ],
)
def test_other_specs_are_refused_by_name(spec, complaint):
  with pytest.raises(UserError, match=complaint) as e:
    templates.choose(spec, BANK, 2, 0)
  assert str(e.value).startswith(f"--template={spec.strip()}")


@pytest.mark.parametrize(
  ("arrays", "complaint"),
  [
    ({"code": BANK}, "has no template; found: code"),
    ({"template": np.zeros(5)}, r"shape \(1, 5\), expected \(4,\)"),
    ({"template": np.zeros(())}, "shape"),
    ({"template": np.zeros((0, 4))}, "shape"),
    ({"template": np.zeros((2, 0, 4))}, "shape"),
    ({"template": np.zeros((1, 2, 3, 4))}, "shape"),
    ({"template": np.array([1, 2, 3, np.nan])}, "NaN"),
    ({"template": np.array([1, 2, 3, np.inf])}, "infinite"),
    ({"template": np.array(["a", "b", "c", "d"])}, "has type <U1; give numbers"),
    ({"template": np.array([1, 2, 3, None])}, "not a readable npz"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, complaint):
  path = tmp_path / "codes.npz"
  np.savez(path, **arrays)
  with pytest.raises(UserError, match=complaint) as e:
    templates.choose(str(path), BANK, 2, 0)
  assert str(path) in str(e.value)
  assert "\n" not in str(e.value)


def _npy(path):
  with path.open("wb") as file:
    np.save(file, BANK)


def _truncated(path):
  np.savez(path, template=BANK)
  path.write_bytes(path.read_bytes()[:200])


def _damaged(path):
  np.savez_compressed(path, template=BANK)
  content = bytearray(path.read_bytes())
  content[60:120] = bytes(60)
  path.write_bytes(content)


@pytest.mark.parametrize(
  "write",
  [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("not an archive"),
    lambda path: path.mkdir(),
    _npy,
    _truncated,
    _damaged,
  ],
)
def test_files_that_are_no_archive_are_refused(tmp_path, write):
  path = tmp_path / "codes.npz"
  write(path)
  with pytest.raises(UserError, match="not a readable npz"):
    templates.choose(str(path), BANK, 1, 0)
