"""Runs the programs as a user does; `test_bad_inputs.py` covers their errors."""

import ast
import pathlib
import re
import shutil

import av
import golden
import numpy as np
import programs
import pytest

from sdt_jax import keypoints as kp
from sdt_jax import workdir
from sdt_jax.programs import resuming

_TINY = [
  "--config=configs/quick.py",
  *programs.config_flags(programs.TINY | {"num_epochs": 1}),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("programs")
  data = f"--config.dataset.data_dir={folder / 'data'}"
  programs.run("train.py", *_TINY, data, f"--workdir={folder / 'run'}")
  return folder / "run"


@pytest.mark.slow
def test_eval_writes_and_prints_scores(trained):
  assert "lip_sync" in programs.run("eval.py", f"--workdir={trained}", "--step=best")
  assert (trained / "eval_dev_2.json").exists()
  assert len(list((trained / "eval_dev_2").glob("clip*.mp4"))) == 8


@pytest.mark.slow
def test_demo_renders_each_sound_twice(trained, tmp_path):
  flags = [f"--workdir={trained}", f"--audio={golden.SPEECH}", "--template=0:3"]
  programs.run("demo.py", *flags, "--num_samples=2", f"--output_dir={tmp_path}")
  names = {p.name for p in tmp_path.iterdir()}
  suffixes = ("mp4", "npz", "png")
  assert names == {f"sample_speech_{i}.{s}" for i in range(2) for s in suffixes} | {
    "sample_speech_overview.mp4",
    "sample_speech_overview.png",
  }
  with np.load(tmp_path / "sample_speech_0.npz", allow_pickle=False) as arrays:
    poses, template = arrays["poses_pred_batch"], arrays["condition_code"]
  assert poses.dtype == np.float32
  assert poses.shape == (1, poses.shape[1], *kp.UPPER_BODY.shape)
  assert template.shape == (1, 4)
  with av.open(tmp_path / "sample_speech_0.mp4") as video:
    stream = video.streams.video[0]
    assert stream.codec_context.name == "h264"
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert (stream.frames, stream.average_rate) == (poses.shape[1], 15)
    assert video.streams.audio


@pytest.mark.slow
def test_the_real_packs_train_and_render(real_pack, tmp_path):
  root = real_pack / "kubinec"  # names the data set and the speaker
  programs.run(
    "train.py",
    *_TINY,
    f"--config.dataset.root={root}",
    f"--config.dataset.data_dir={tmp_path / 'data'}",
    f"--workdir={tmp_path / 'run'}",
  )
  sound = real_pack.parent / "sources" / "demo_audio.wav"
  dataset = workdir.read_config(tmp_path / "run").dataset
  assert (dataset.name, dataset.speaker) == ("speech2gesture", "kubinec")
  flags = [f"--workdir={tmp_path / 'run'}", f"--audio={sound}"]
  programs.run("demo.py", *flags, f"--output_dir={tmp_path / 'out'}")
  assert (tmp_path / "out" / "demo_audio.mp4").exists()


@pytest.mark.slow
def test_resume_without_config_takes_that_of_the_run(trained, tmp_path):
  copy = shutil.copytree(trained, tmp_path / "copy")
  fields = {"num_epochs": 2, "optimizer.milestones": "(1,)"}
  flags = programs.config_flags(fields)
  said = programs.run("train.py", f"--resume={copy}:2", *flags)
  assert f"workdir: {copy}" in said
  assert f"trained: {copy}" in said
  assert workdir.read_config(copy).num_epochs == 2
  assert workdir.read_config(copy).batch_size == programs.TINY["batch_size"]
  assert workdir.read_metrics(copy)[-1]["step"] == 4


@pytest.mark.parametrize(
  ("flags", "complaint"),
  [
    (["--resume=nowhere"], "nowhere: no such folder"),
    (["--resume=x", "--config=configs/quick.py", "--workdir=y"], "leave out --workdir"),
  ],
)
def test_a_wrong_resume_is_named(flags, complaint):
  done = programs.python("train.py", *flags)
  assert done.returncode == 2
  assert complaint in done.stderr
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("argv", "command"),
  [
    (["train.py", "--config=a.py"], "python train.py --config=a.py --workdir=out/w"),
    (
      ["/bin/sdt-train", "--config", "a", "--tag", "b c", "--config.seed=1"],
      "sdt-train --config a --config.seed=1 --workdir=out/w",
    ),
    (["train.py", "--resume=out/w:20"], "python train.py --resume=out/w"),
    (["train.py", "--resume", "out/w"], "python train.py --resume=out/w"),
    (["train.py", "-resume=out/w:2"], "python train.py --resume=out/w"),
  ],
)
def test_the_command_that_resumes(argv, command):
  argv = resuming.with_saved_config(argv)
  assert resuming.command(argv, pathlib.Path("out/w")) == command


@pytest.mark.slow
@pytest.mark.parametrize(
  "file", sorted((programs.ROOT / "configs").glob("*.py")), ids=lambda f: f.stem
)
def test_the_command_of_a_config_runs_as_it_stands(file, tmp_path):
  docstring = ast.get_docstring(ast.parse(file.read_text()))
  text = docstring.replace("\\\n", " ")
  [command] = re.findall(r"^    python (.*)$", text, re.M)
  small = programs.TINY | {"num_epochs": 1, "dataset.data_dir": tmp_path / "data"}
  small |= {"log.train_videos": 0, "log.dev_videos": 0}
  continues = "<workdir of" in command
  if continues:  # it needs clips that follow one another
    small["dataset.num_train_clips"] = 120
  flags, run = programs.config_flags(small), tmp_path / "run"
  if continues:
    first = "train.py", "--config=configs/quick.py", f"--workdir={run}"
    programs.run(*first, *flags)
    command, run = re.sub("<workdir of.*?>", str(run), command), run / file.stem
  else:
    flags.append(f"--workdir={run}")
  assert f"trained: {run}" in programs.run(*command.split(), *flags)
