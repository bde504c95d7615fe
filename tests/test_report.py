"""The ladder's configs, the probe and the tables of the report."""

import json

import numpy as np
import pytest
import tiny

from sdt_jax.errors import UserError
from sdt_jax.evaluation import probe, report


def test_rows_change_what_their_experiment_changes(tmp_path):
  base = tiny.config(tmp_path)
  before = base.to_json()
  configs = {row.name: report.row_config(base, row, seed=3) for row in report.LADDER}
  assert base.to_json() == before
  assert configs["s2g"].discriminator.weight == 0.1
  assert configs["s2g"].generator.norm == "bn"
  assert not configs["s2g"].pose.hierarchical
  assert configs["no template"].template.kind == "none"
  assert configs["no template"].generator.norm == "in_star"
  assert configs["sdt_bp"].template.kind == "bp"
  assert configs["sdt_vae"].template.kind == "vae"
  assert report.row_config(base, report.POSE_VAE, 0).experiment == "pose2pose"
  for config in configs.values():
    assert (config.seed, config.batch_size) == (3, base.batch_size)
    assert config.generator.channels == base.generator.channels


def test_short_videos_have_no_curve_over_length(tmp_path, monkeypatch):
  errors = {64 / 15: {"windowed": 0.1, "whole": 0.1}}
  monkeypatch.setattr(report, "_lip_errors_by_length", lambda path: errors)
  result = report.Result(report.LADDER[0], 0, tmp_path, {}, 0)
  assert report._length_text([result], tmp_path) == ""
  errors[128 / 15] = {"windowed": 0.1, "whole": 0.2}
  text = report._length_text([result], tmp_path)
  assert "| | 4.3 s | 8.5 s |\n|---|---|---|\n| s2g, windowed | 0.1 | 0.1 |" in text
  assert (tmp_path / "lengths.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_report_is_written_and_resumed(tmp_path, monkeypatch):
  monkeypatch.setattr(report, "_command_line", lambda: "...")
  base = tiny.config(tmp_path / "data", num_epochs=1)
  base.dataset.num_train_clips, base.dataset.num_dev_clips = 200, 16
  base.log.video_every_epochs = 0
  folder = tmp_path / "report"
  results = list(report.train_ladder(base, folder, seeds=1))
  report.write_report(base, folder, results)
  text = (folder / "report.md").read_text()
  for row in report.LADDER:
    assert f"| **{row.name}** |" in text
  assert "| retrieval |" in text
  assert "handedness" in text
  # 16 dev clips, 16 frames apart, are 304 frames.
  assert "| | 4.3 s | 8.5 s | 17.1 s |" in text
  assert "| sdt_bp, whole |" in text
  for name in ("curves.png", "lengths.png", "strips.png", "templates_sdt_bp.png"):
    assert (folder / name).stat().st_size > 1000
  values = [r.scores["metrics"]["l2"]["value"] for r in results]
  assert len(set(values)) == len(values)
  # The second time nothing is trained: the checkpoints are not even there.
  for result in results:
    (result.path / "metrics.jsonl").unlink()
  again = list(report.train_ladder(base, folder, seeds=1))
  assert json.dumps([r.scores for r in again]) == json.dumps(
    [r.scores for r in results]
  )


def test_the_probe_finds_what_is_there_and_no_more():
  rng = np.random.default_rng(0)
  videos = np.repeat(np.arange(20), 20)
  hidden = np.repeat(rng.standard_normal((20, 3)), 20, axis=0)
  hidden += 0.1 * rng.standard_normal(hidden.shape)
  templates = hidden @ rng.standard_normal((3, 8)) + 0.05 * rng.standard_normal(
    (400, 8)
  )
  found = probe.linear_probe(templates, hidden, videos)
  assert found.r2.min() > 0.9
  assert found.chance < 0.1
  noise = probe.linear_probe(rng.standard_normal((400, 8)), hidden, videos)
  assert noise.r2.max() < 0.2


def test_the_probe_needs_videos_to_hold_out():
  with pytest.raises(UserError, match="4 videos"):
    probe.linear_probe(np.ones((6, 2)), np.ones((6, 1)), np.arange(6) // 3)
