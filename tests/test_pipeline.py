import dataclasses
import itertools
import logging
import sys
from unittest import mock

import numpy as np
import packs
import pytest

from sdt_jax import data, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import pack, pipeline
from sdt_jax.errors import UserError

NUM_TRAIN, NUM_DEV = 23, 7
ROWS = np.arange(NUM_DEV)


def build(name, root, speaker, data_dir, train=0, dev=0, **kwargs):
  arguments = {"root": root, "speaker": speaker, "data_dir": data_dir} | kwargs
  return pipeline.build(
    name=name, num_train_clips=train, num_dev_clips=dev, **arguments
  )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  return build("synthetic", "", "ada", tmp_path_factory.mktemp("d"), NUM_TRAIN, NUM_DEV)


def open_split(built, name="train", hierarchical=True):
  return pipeline.Split(built.sources[name], built.statistics.table(hierarchical))


@pytest.fixture(scope="module")
def train(built):
  return open_split(built)


@pytest.fixture(scope="module")
def dev(built):
  return open_split(built, "dev")


def rows_of_steps(split, first, last, **kwargs):
  """Rows of the clips in steps first..last-1, one array per step."""
  kwargs = {"batch_size": 4, "seed": 0} | kwargs
  batches = pipeline.train_batches(split, start_step=first, **kwargs)
  return [batch["index"] for batch in itertools.islice(batches, last - first)]


def assert_batches_equal(left, right):
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_batch_has_the_clips_of_its_index(built, train):
  batch = next(pipeline.train_batches(train, batch_size=4, seed=0))
  assert {key: (array.shape, array.dtype) for key, array in batch.items()} == {
    "audio": ((4, 68_266), np.float32),
    "poses": ((4, 64, *kp.UPPER_BODY.shape), np.float32),
    "index": ((4,), np.int32),
  }
  for sound, poses, row in zip(*batch.values(), strict=True):
    example = built.sources["train"][int(row)]
    np.testing.assert_array_equal(sound, example["audio"])
    poses_px = pose.to_global(
      pose.denormalize(poses, built.statistics.table(hierarchical=True))
    )
    np.testing.assert_allclose(poses_px, example["poses"], atol=1e-3)
    assert train.clip_id(row) == example["clip_id"].decode()


@pytest.mark.parametrize("hierarchical", [True, False])
def test_tracks_equal_batches_and_are_normalised(built, hierarchical):
  split = open_split(built, hierarchical=hierarchical)
  tracks, table = split.tracks(), built.statistics.table(hierarchical)
  batch = split.read(np.arange(NUM_TRAIN))
  np.testing.assert_allclose(batch["poses"].mean((0, 1)), 0, atol=1e-2)
  # Points that never move relative to their parent have a deviation of 0.
  np.testing.assert_allclose(np.median(batch["poses"].std((0, 1))), 1, atol=1e-2)
  for row, example in enumerate(built.sources["train"]):
    frame, sample = tracks.frame_start[row], tracks.audio_start[row]
    poses = tracks.poses[frame : frame + 64]
    np.testing.assert_array_equal(tracks.audio[sample:][:68_266], example["audio"])
    # Bit for bit, so that runs can resume after an update of the program.
    expected = pose.from_global(example["poses"], table)
    np.testing.assert_array_equal(poses, expected)
    np.testing.assert_array_equal(batch["audio"][row], example["audio"])
    np.testing.assert_array_equal(batch["poses"][row], expected)
  assert all(array.flags.c_contiguous for array in (*tracks, *batch.values()))
  assert len(tracks.poses) < NUM_TRAIN * 64 / 2  # overlaps are stored once
  assert len(tracks.audio) < NUM_TRAIN * 68_266 / 2


def test_rows_of_a_step_depend_on_the_seed_and_the_step(train):
  rows = pipeline.train_rows(NUM_TRAIN, batch_size=4, seed=0)
  np.testing.assert_array_equal(
    [rows[step] for step in range(12)], rows_of_steps(train, 0, 12)
  )
  assert np.shape(rows[10**6]) == (4,)
  # The order must never change, because stopped runs resume with it.
  np.testing.assert_array_equal(rows[0], [21, 2, 13, 14])
  np.testing.assert_array_equal(rows[7], [17, 7, 6, 10])


def test_epochs_are_whole_and_ordered_differently(train):
  steps = NUM_TRAIN // 4
  epochs = [
    np.concatenate(rows_of_steps(train, e * steps, (e + 1) * steps)) for e in range(30)
  ]
  for epoch in epochs:
    assert len(set(epoch)) == len(epoch) == steps * 4
    assert set(epoch) <= set(range(NUM_TRAIN))
  assert len({tuple(epoch) for epoch in epochs}) == 30
  # Each epoch drops other clips, so all clips occur about equally often.
  counts = np.bincount(np.concatenate(epochs), minlength=NUM_TRAIN)
  assert counts.min() > 18
  assert counts.max() <= 30


def test_order_depends_only_on_the_seed(train):
  rows = rows_of_steps(train, 0, 12)
  for num_threads in (0, 1, 3):
    np.testing.assert_array_equal(
      rows_of_steps(train, 0, 12, num_threads=num_threads), rows
    )
  assert not np.array_equal(rows_of_steps(train, 0, 12, seed=1), rows)


@pytest.mark.parametrize("start", [1, 4, 5, 11, 1000])
def test_resuming_starts_at_the_given_step(train, start):
  whole = pipeline.train_batches(train, batch_size=4, seed=5, num_threads=0)
  resumed = pipeline.train_batches(train, batch_size=4, seed=5, start_step=start)
  if start < 100:
    expected = list(itertools.islice(whole, start, start + 6))
  else:
    expected = [
      next(pipeline.train_batches(train, batch_size=4, seed=5, start_step=start + i))
      for i in range(6)
    ]
  assert_batches_equal(itertools.islice(resumed, 6), expected)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_steps(train, process_count):
  whole = rows_of_steps(train, 3, 9)
  shares = [
    rows_of_steps(train, 3, 9, process_index=i, process_count=process_count)
    for i in range(process_count)
  ]
  assert all(len(rows) == 4 // process_count for rows in shares[0])
  for rows, *parts in zip(whole, *shares, strict=True):
    np.testing.assert_array_equal(np.concatenate(parts), rows)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 8])
def test_evaluation_sees_every_clip_once_in_order(dev, batch_size):
  batches = list(pipeline.eval_batches(dev, ROWS, batch_size=batch_size))
  assert {b["audio"].shape for b in batches} == {(batch_size, 68_266)}
  index = np.concatenate([b["index"] for b in batches])
  mask = np.concatenate([b["mask"] for b in batches])
  assert mask.dtype == np.float32
  np.testing.assert_array_equal(index[mask == 1], np.arange(NUM_DEV))
  assert len(batches) == -(-NUM_DEV // batch_size)
  assert set(mask) <= {0.0, 1.0}


def test_processes_share_evaluation_batches(dev):
  whole = list(pipeline.eval_batches(dev, ROWS, batch_size=4))
  shares = [
    pipeline.eval_batches(dev, ROWS, batch_size=4, process_index=i, process_count=4)
    for i in range(4)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*shares, strict=True)
  ]
  assert_batches_equal(joined, whole)


def test_largest_and_impossible_batch_sizes(train, dev):
  for rows in rows_of_steps(train, 0, 3, batch_size=NUM_TRAIN):
    assert sorted(rows) == list(range(NUM_TRAIN))
  with pytest.raises(UserError, match=r"batch_size=24 is larger .* of 23 clips"):
    pipeline.train_batches(train, batch_size=24, seed=0)
  for split_batches in (
    lambda **kw: pipeline.train_batches(train, seed=0, **kw),
    lambda **kw: pipeline.eval_batches(dev, ROWS, **kw),
  ):
    with pytest.raises(UserError, match=r"batch_size=6 must be .* the 4 processes"):
      split_batches(batch_size=6, process_count=4)
    with pytest.raises(UserError, match="batch_size=0"):
      split_batches(batch_size=0)


def test_batches_of_a_pack(tmp_path):
  packs.write_pack(tmp_path, "train " * 5 + "dev " * 3)
  packs.write_clip(tmp_path / "zoe/clips/npz/talk-0.npz", audio=np.zeros(3))
  with pytest.raises(UserError, match=r"zoe/clips/npz/talk-0: audio has shape \(3,\)"):
    build("speech2gesture", tmp_path, "zoe", tmp_path / "built")
  built = build(
    "speech2gesture", tmp_path, "zoe", tmp_path / "built", skip_bad_clips=True
  )
  split = open_split(built)
  batch = next(pipeline.train_batches(split, batch_size=4, seed=0))
  assert sorted(split.clip_id(row) for row in batch["index"]) == [
    f"zoe/clips/npz/talk-{i}" for i in (1, 2, 3, 4)
  ]


def test_a_new_data_set_is_a_module_and_an_entry_of_the_registry(monkeypatch, built):
  def prepare(speaker, root):
    return built._replace(speaker=speaker, path=root)

  monkeypatch.setitem(sys.modules, "sdt_jax.data.ted", mock.Mock(prepare=prepare))
  monkeypatch.setitem(data.DATASETS, "ted", ("speaker", "root"))
  ted = build("ted", "talks", "al", "")
  assert (ted.speaker, ted.path) == ("al", "talks")
  with pytest.raises(UserError, match=r"'tet'; expected .* 'ted'"):
    build("tet", "talks", "al", "")


def resolve(**fields):
  return pipeline.resolve({"name": "", "root": "", "speaker": "", "seed": 1} | fields)


def test_resolve_takes_the_data_that_is_named(tmp_path):
  ada = {"name": "synthetic", "root": "", "speaker": "ada", "seed": 1}
  assert resolve() == resolve(**ada) == ada
  assert resolve(name="synthetic", speaker="ben")["speaker"] == "ben"
  root = str(tmp_path)
  zoe = {"name": "speech2gesture", "root": root, "speaker": "zoe", "seed": 1}
  packs.write_pack(tmp_path)
  assert resolve(root=root) == resolve(**zoe) == zoe
  assert resolve(root=f"{root}/zoe") == zoe | {"root": f"{root}/zoe"}
  packs.write_pack(tmp_path, speaker="bob")
  assert resolve(root=root, speaker="zoe") == zoe
  for fields, message in (
    ({}, "contains 2 speakers; choose .*config.dataset.speaker=NAME: bob, zoe$"),
    ({"speaker": "eve"}, "no speaker 'eve'; found: bob, zoe$"),
    ({"name": "synthetic"}, "dataset.root='.*' is not used by .*'synthetic'; leave"),
    ({"root": "", "speaker": "zoe"}, "'zoe' needs dataset.root"),
    ({"name": "tet"}, "config.dataset.name is 'tet'; expected"),
    ({"root": f"{root}/none"}, "dataset.root='.*none' is not a folder"),
    (
      {"root": f"{root}/zoe/clips"},
      "contains no pack, such as <speaker>/processed_137.csv",
    ),
  ):
    with pytest.raises(UserError, match=message):
      resolve(**{"root": root} | fields)


def test_resolve_opens_no_clip_and_build_takes_its_result(tmp_path, monkeypatch):
  folder = packs.write_pack(tmp_path)
  fields = {"root": str(folder), "data_dir": str(tmp_path / "built")}
  with monkeypatch.context() as patch:
    patch.setattr(pack, "read_clip", None)  # a call would fail
    resolved = resolve(**fields)
  built = pipeline.build(**resolved)
  assert built.speaker == "zoe"
  assert open_split(built).clip_id(0) == "zoe/clips/npz/talk-0"
  unresolved = pipeline.build(**fields, name="", speaker="")
  assert unresolved.path == built.path


@pytest.mark.parametrize(("total", "count"), [(100, 8), (9, 8), (8, 8), (3, 8), (5, 0)])
def test_spread_rows_are_distinct_and_even(total, count):
  rows = pipeline.spread_rows(total, count)
  assert len(rows) == min(total, count)
  assert set(rows) <= set(range(total))
  steps = np.diff(rows)
  assert not len(steps) or 1 <= steps.min() >= steps.max() - 1


def test_unknown_names(tmp_path, built):
  with pytest.raises(UserError, match=r"dataset.root='' is not a folder"):
    build("speech2gesture", "", "ada", tmp_path)
  with pytest.raises(UserError, match=r"dataset.statistics='own'; known: published"):
    pipeline.speaker_statistics(built, "own")
  with pytest.raises(UserError, match="'ada' has no published statistics"):
    pipeline.speaker_statistics(built, "published")


def near_to_published(built, name, deviations):
  """`built` with the published statistics of `name`, moved by multiples of the std."""
  published = speakers.published(name)
  table = published.hierarchical
  mean = table.mean + np.float32(deviations) * table.std
  moved = dataclasses.replace(table, mean=mean)
  return built._replace(
    speaker=name, statistics=speakers.Speaker(name, moved, published.global_)
  )


@pytest.mark.parametrize("deviations", [0.2, 0.8])
def test_statistics_by_mode(built, caplog, deviations):
  caplog.set_level(logging.INFO)
  own = near_to_published(built, "oliver", deviations)
  published = speakers.published("oliver").hierarchical

  def taken(mode):
    return pipeline.speaker_statistics(own, mode).hierarchical.mean

  np.testing.assert_array_equal(taken("pack"), own.statistics.hierarchical.mean)
  np.testing.assert_array_equal(taken("published"), published.mean)
  chosen = published if deviations < 0.5 else own.statistics.hierarchical
  caplog.clear()
  np.testing.assert_array_equal(taken("auto"), chosen.mean)
  assert f"{deviations:.2f} published standard deviations" in caplog.text
  assert len(caplog.records) == 1


def test_clips_are_normalised_with_the_statistics_of_their_speaker(tmp_path):
  """Poses of bob are twice as large; the statistics of both are their own."""
  folder = packs.write_pack(tmp_path, "train:bob train train dev:bob")
  for i in (0, 3):
    keypoints = packs.keypoints(i) * [[[2], [2], [1]]]
    packs.write_clip(folder / f"clips/npz/talk-{i}.npz", pose=keypoints)
  fields = {"name": "", "root": str(folder), "speaker": "", "statistics": "pack"}
  built = pipeline.build(**fields, data_dir=str(tmp_path / "built"))
  assert (built.speaker, list(built.others)) == ("zoe", ["bob"])
  for hierarchical in (True, False):
    tables = {
      "zoe": built.statistics.table(hierarchical),
      "bob": built.others["bob"].table(hierarchical),
    }
    split = open_split(built, hierarchical=hierarchical)
    poses = split.read(np.arange(3))["poses"]
    for i, name in enumerate(("bob", "zoe", "zoe")):
      poses_px = built.sources["train"][i]["poses"]
      np.testing.assert_array_equal(poses[i], pose.from_global(poses_px, tables[name]))
    final = pose.to_final(poses, tables["zoe"])
    np.testing.assert_array_equal(split.poses_px(np.arange(3)), final)
  ratio = np.median(tables["bob"].std / tables["zoe"].std)
  assert ratio == pytest.approx(2, rel=0.1)
  dev = open_split(built, "dev")
  assert abs(dev.read(np.arange(1))["poses"].mean()) < 0.1


def test_speakers_without_train_clips_need_published_statistics(tmp_path):
  packs.write_pack(tmp_path, "train dev:oliver")
  fields = {"name": "", "root": str(tmp_path), "speaker": ""}
  fields["data_dir"] = str(tmp_path / "built")
  built = pipeline.build(**fields)
  used = built.sources["dev"].others[0].hierarchical
  published = speakers.published("oliver").hierarchical
  np.testing.assert_array_equal(used.mean, published.mean)
  with pytest.raises(UserError, match="oliver: no clip in the train split"):
    pipeline.build(**fields, statistics="pack")


def test_unpublished_speakers_use_the_statistics_of_the_train_split(built):
  assert pipeline.speaker_statistics(built, "auto") is built.statistics


def test_real_packs(real_pack, tmp_path):
  for name, num_train in (("oliver", 29), ("kubinec", 20)):
    split = open_split(build("speech2gesture", real_pack, name, tmp_path))
    assert len(split) == num_train
    for batch in pipeline.eval_batches(split, np.arange(len(split)), batch_size=8):
      assert np.isfinite(batch["poses"]).all()
      assert 0.001 < np.abs(batch["audio"]).max() <= 1
