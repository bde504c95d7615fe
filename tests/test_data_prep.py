"""From videos to a data pack, end to end, with OpenPose keypoints."""

import csv
import dataclasses
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import packs
import pytest
import soundfile
from data_prep_helpers import make_source, noise, options, person, write_video

from data_prep import (
  clips,
  frames,
  inspect,
  media,
  mediapipe_env,
  prepare,
  rescale,
  rules,
  workspace,
)
from data_prep.clean import clean
from data_prep.detection import Detection, Origin
from data_prep.keypoints import to_grid
from data_prep.mediapipe_backend import MediaPipe
from data_prep.options import Options
from sdt_jax import audio, audio_file, pose, speakers
from sdt_jax import keypoints as kp
from sdt_jax.data import pack
from sdt_jax.errors import UserError
from sdt_jax.exports import openpose


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Two prepared videos; tests must not change them."""
  folder = tmp_path_factory.mktemp("prepared")
  make_source(folder, "long talk, part [1]", frames=160)
  make_source(folder, "short", frames=70, fps=25, seed=1)
  opts = options(folder)
  prepare.run(opts)
  return opts


def _hashes(folder: pathlib.Path):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _times(folder: pathlib.Path):
  return {
    str(path.relative_to(folder)): path.stat().st_mtime_ns
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_the_result_is_a_valid_pack(prepared):
  index = pack.read_index(prepared.root, "eve")
  rows = index.rows["train"] + index.rows["dev"]
  assert {row.video for row in rows} == {"long talk, part [1]"}
  for row in rows:
    clip = pack.read_clip(row.path, row.clip_id)
    assert clip.detected.all()
    assert clip.audio.shape == (audio.num_samples(audio.CLIP_FRAMES),)
    poses_px = pose.from_openpose(np.load(row.path)["pose"])
    left, right = kp.UPPER_BODY.indices("left_shoulder", "right_shoulder")
    width = np.linalg.norm(poses_px[..., left] - poses_px[..., right], axis=-1).mean()
    assert width == pytest.approx(rescale.REFERENCE_SHOULDER_WIDTH_PX, rel=0.01)


def test_clips_hold_the_poses_and_the_sound_of_their_frames(prepared):
  folder = prepared.root / "eve" / "work" / "long talk, part [1]"
  keypoints = workspace.read_npz(folder / "rescaled.npz")["keypoints"]
  wav = folder.parents[1] / "clips" / "audio" / "long talk, part [1].wav"
  samples = soundfile.read(wav, dtype="float32")[0]
  starts = workspace.read_json(folder / "clips.json")["kept"]
  assert starts == list(range(0, 97, 5))
  for start in starts:
    with np.load(clips.clip_path(prepared, folder.name, start)) as clip:
      np.testing.assert_array_equal(clip["pose"], keypoints[start : start + 64])
      first = int(start * 16_000 / 15)
      np.testing.assert_array_equal(
        clip["audio"], samples[first : first + len(clip["audio"])]
      )
      assert clip["imgs"].shape == (64,)


def test_statistics_are_mean_and_std_over_all_frames_of_train(prepared):
  rows = pack.read_index(prepared.root, "eve").rows["train"]
  poses = np.concatenate([pack.read_clip(r.path, r.clip_id).poses_px for r in rows])
  path = prepared.root / "eve" / "speaker.json"
  speaker = speakers.from_json("eve", workspace.read_json(path), str(path))
  for table, form in (
    (speaker.hierarchical, pose.to_hierarchical(poses)),
    (speaker.global_, poses),
  ):
    np.testing.assert_allclose(table.mean, form.mean(0), atol=1e-3)
    std = np.maximum(form.astype(np.float64).std(0), speakers.MIN_STD_PX)
    np.testing.assert_allclose(table.std, std, atol=1e-3)


def test_unchanged_stages_are_skipped(prepared):
  folders = [prepared.root / "eve" / name for name in ("work", "clips")]
  before, everything = [_times(f) for f in folders], _hashes(prepared.root)
  prepare.run(prepared)
  assert [_times(f) for f in folders] == before
  assert _hashes(prepared.root) == everything


def test_the_report_covers_every_video_in_a_single_file(prepared):
  page = (prepared.root / "eve" / "report.html").read_text()
  assert page.count("<section>") == 2
  assert "long talk, part [1]" in page
  assert "{{" not in page
  assert "19 of 20" not in page
  assert "too short for a clip" in page  # 2.8 s
  sources = {part.split('"')[0][:11] for part in page.split('src="')[1:]}
  assert sources == {"data:image/"}


def test_inspect_shows_a_stretch(prepared, tmp_path):
  (video,) = inspect.inspect(
    prepared.root, "eve", tmp_path, "long talk, part [1]-10-40"
  )
  assert video == tmp_path / "long talk, part [1]-10-40.mp4"
  pictures = [picture for _, picture in media.pictures(video)]
  assert len(pictures) == 30
  assert pictures[0].shape == (720, 1280, 3)
  green = pictures[0].astype(int)
  assert (green[..., 1] - green[..., 0] > 80).sum() > 500  # the skeleton
  for wrong, said in (("nobody", "videos: long talk"), ("short-0-99", "frames 0 to")):
    with pytest.raises(UserError, match=said):
      list(inspect.inspect(prepared.root, "eve", tmp_path, wrong))


def test_inspect_shows_clips_of_any_pack(tmp_path):
  packs.write_pack(tmp_path / "packs")
  missing = packs.keypoints(0)
  missing[:, :, kp.OPENPOSE.part("left_hand")] = 0
  packs.write_clip(tmp_path / "packs/zoe/clips/npz/talk-0.npz", pose=missing)
  root, out = tmp_path / "packs", tmp_path / "new" / "out"
  shown = list(inspect.inspect(root, "zoe", out, num_clips=2))
  assert shown == [out / "talk-0.mp4", out / "talk-4.mp4"]  # spread over the pack
  for video in shown:
    pictures = [picture.astype(int) for _, picture in media.pictures(video)]
    assert len(pictures) == 64
    blue = pictures[9][..., 2] - pictures[9][..., 0] > 60  # the left side
    assert (blue.sum() < 6000) == (video.stem == "talk-0")
    sound, heard = packs.sound(0), audio_file.load_audio(video)
    assert heard.std() > 0.5 * sound.std()
  (video,) = inspect.inspect(root, "zoe", out, "talk-3")
  assert video.stem == "talk-3"


def test_flags_of_rules_frames_and_start_reach_the_stages(tmp_path):
  make_source(tmp_path, "a", frames=240)
  opts = options(tmp_path)
  prepare.run(opts)
  work, before = opts.root / "eve" / "work", _times(opts.root / "eve" / "work")
  flags = [f"--{name}={getattr(opts, name)}" for name in ("videos", "speaker", "root")]
  flags += ["--keypoints=openpose", f"--openpose_dir={opts.openpose_dir}"]
  command = [sys.executable, "-m", "data_prep.prepare", *flags]
  more = ["--skip_frames=80", "--hand_size=0.1,inf", "--save_frames"]
  subprocess.run([*command, *more], check=True, capture_output=True)
  changed = {path for path, t in _times(work).items() if before.get(path) != t}
  assert {path.removeprefix("a/").split(".")[0] for path in changed} == {
    *("frames", "clean", "rescaled", "rescale", "clips")
  }
  rows = _csv(opts)
  assert [int(row["start"]) for row in rows] == list(range(80, 177, 5))
  saved = sorted((opts.root / "eve" / "frames" / "a").iterdir())
  assert [p.name for p in saved] == [f"a_{i:06d}.jpg" for i in range(240)]
  with np.load(opts.root / "eve" / rows[0]["pose_fn"]) as clip:
    named = [opts.root / "eve" / name for name in clip["imgs"]]
  assert named == saved[80:144]
  for i in (0, 80, 239):  # the gray value of `write_video` is the number of the frame
    centre = cv2.imread(str(saved[i]))[360, 640]
    np.testing.assert_allclose(centre, 40 + i % 150, atol=3)
  shutil.rmtree(saved[0].parent)  # they are made again
  opts = dataclasses.replace(opts, save_frames=True)
  frames.run(opts)
  assert sorted(saved[0].parent.iterdir()) == saved
  when = saved[0].stat().st_mtime_ns
  frames.run(opts)
  assert saved[0].stat().st_mtime_ns == when


def test_the_document_lists_every_threshold():
  text = (pathlib.Path(__file__).parents[1] / "docs/data_preparation.md").read_text()
  for field in dataclasses.fields(rules.Thresholds):
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    row = f"| `--{field.name}` | {','.join(map(str, values))} | "
    meaning = field.metadata["help"].removeprefix("LOW,HIGH: ").rstrip(".")
    assert row + meaning[0].lower() + meaning[1:] + " |" in text


@pytest.mark.parametrize(
  ("change", "detects_again"),
  [
    ({"gap_frames": 9, "cut": 0.3, "face_size": (0.1, 2.0)}, False),
    ({"hand_size": (0.1, 0.7)}, True),
    ({"spike": 0.1}, True),
  ],
)
def test_only_thresholds_of_hands_repeat_the_detection(tmp_path, change, detects_again):
  def parameters(thresholds):
    return MediaPipe(tmp_path, thresholds).parameters(None)

  default, changed = rules.Thresholds(), rules.Thresholds(**change)
  assert parameters(default)[-1] == dataclasses.asdict(default)  # as ever
  assert (parameters(changed) != parameters(default)) == detects_again


def _csv(opts):
  with (workspace.pack_folder(opts) / "processed_137.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_only_changed_stages_run_again(tmp_path):
  make_source(tmp_path, "a", frames=150)
  make_source(tmp_path, "b", frames=150, seed=1)
  opts = options(tmp_path)
  prepare.run(opts)
  before = _times(opts.root / "eve" / "work")
  keypoints = person(150, 160, 90, seed=5)
  hands = np.append(kp.OPENPOSE.part("left_hand"), kp.OPENPOSE.part("right_hand"))
  keypoints[40, :, hands] = 0
  keypoints[130:, :, hands] = 0  # the windows of these frames are dropped
  openpose.write_openpose_folder(keypoints, tmp_path / "json" / "a")
  prepare.run(opts)
  changed = {
    path
    for path, when in _times(opts.root / "eve" / "work").items()
    if before.get(path) != when
  }
  assert changed
  assert all(path.startswith("a/") for path in changed)
  assert "a/video.mp4" not in changed
  # Clips that are no longer kept are deleted, and every listed clip exists.
  named = {row["pose_fn"] for row in _csv(opts)}
  there = {f"clips/npz/{p.name}" for p in (opts.root / "eve/clips/npz").iterdir()}
  assert named == there
  assert "clips/npz/a-85-149.npz" not in named


def test_bad_videos_are_named_or_left_out(tmp_path):
  make_source(tmp_path, "good", frames=160)
  times = np.arange(160) / 15
  write_video(tmp_path / "videos" / "silent.mp4", times)
  (tmp_path / "videos" / "text.mov").write_text("no video")
  (tmp_path / "videos" / "notes.txt").write_text("not looked at")
  write_video(tmp_path / "videos" / "unseen.mp4", times, sound=noise(160 / 15))
  opts = options(tmp_path)
  with pytest.raises(UserError) as error:
    prepare.run(opts)
  assert "silent.mp4: has no sound" in str(error.value)
  assert "text.mov: not a video" in str(error.value)
  assert "\n" not in str(error.value)
  assert not (opts.root / "eve" / "work" / "good").exists()  # no work has started
  opts = options(tmp_path, skip_bad_videos=True)
  prepare.run(opts)
  assert {row["video_fn"] for row in _csv(opts)} == {"good"}
  page = (opts.root / "eve" / "report.html").read_text()
  assert "silent.mp4: has no sound track" in page
  assert "has no folder unseen/" in page
  # Once fixed, they are used.
  openpose.write_openpose_folder(person(160, 160, 90), tmp_path / "json" / "unseen")
  prepare.run(opts)
  assert {row["video_fn"] for row in _csv(opts)} == {"good", "unseen"}


@pytest.mark.parametrize(
  ("change", "said"),
  [({"speaker": ""}, "--speaker="), ({"openpose_dir": None}, "needs --openpose_dir")],
)
def test_invalid_options_are_named(tmp_path, change, said):
  (tmp_path / "videos").mkdir()
  with pytest.raises(UserError, match=said):
    options(tmp_path, **change)


def test_videos_with_the_same_stem_are_named(tmp_path):
  for name in ("videos/a.mp4", "videos/a.mov", "json/a"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  with pytest.raises(UserError, match="the same stem"):
    prepare.run(options(tmp_path))


@pytest.mark.parametrize(
  ("spoil", "said"),
  [
    (lambda k: k[:100], "100 JSON files, but a.mp4 has 160 pictures"),
    (lambda k: k * np.array([[1 / 160], [1 / 160], [1]]), "--keypoint_scale 0"),
  ],
)
def test_openpose_folders_that_do_not_fit_are_named(tmp_path, spoil, said):
  keypoints = make_source(tmp_path, "a", frames=160)
  openpose.write_openpose_folder(spoil(keypoints), tmp_path / "json" / "a")
  with pytest.raises(UserError, match=said):
    prepare.run(options(tmp_path))


def test_without_the_network_mediapipe_says_so_and_names_openpose(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  with pytest.raises(UserError, match="--keypoints=openpose") as error:
    mediapipe_env.ensure(tmp_path / "env")
  assert "offline" in str(error.value)
  assert "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []  # no partial environment
  (tmp_path / "env").mkdir()
  (tmp_path / "env" / "thesis.doc").write_text("years of work")
  with pytest.raises(UserError, match="holds something else"):
    mediapipe_env.ensure(tmp_path / "env")


def test_a_python_without_a_wheel_is_rejected(monkeypatch):
  monkeypatch.setattr(mediapipe_env, "_PYTHONS", ("python3.5",))
  with pytest.raises(UserError, match=r"no wheel for Python.*--keypoints=openpose"):
    mediapipe_env._find_python()


@pytest.mark.slow
def test_killed_five_times_and_continued_the_result_is_the_same(tmp_path):
  for i in range(4):
    make_source(tmp_path, f"v{i}", frames=170, fps=15 + 5 * i, seed=i)
  flags = [f"--videos={tmp_path / 'videos'}", "--speaker=eve", "--keypoints=openpose"]
  flags += [f"--openpose_dir={tmp_path / 'json'}", "--workers=2"]
  program = [sys.executable, "-m", "data_prep.prepare", *flags]
  once, often = ([*program, f"--root={tmp_path / name}"] for name in ("once", "often"))
  begun = time.monotonic()
  subprocess.run(once, check=True, capture_output=True)
  whole = time.monotonic() - begun
  generator = np.random.default_rng(0)
  killed = 0
  while killed < 5:
    run = subprocess.Popen(often, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(generator.uniform(0.2, 0.9) * whole)
    if run.poll() is None:
      os.kill(run.pid, signal.SIGKILL)
      killed += 1
    else:  # it finished before it could be killed: start again
      shutil.rmtree(tmp_path / "often")
    run.wait()
  subprocess.run(often, check=True, capture_output=True)
  assert _hashes(tmp_path / "often") == _hashes(tmp_path / "once")


# --- real data ---


def test_the_real_openpose_folder_gives_the_clips_of_its_arrays(real_pack, tmp_path):
  videos15 = real_pack.parent / "videos15"
  with np.load(videos15 / "chemistry.npz") as npz:
    truth, samples = npz["pose"][:120], npz["audio"]
  (tmp_path / "videos").mkdir()
  black = [np.zeros((720, 1280, 3), np.uint8)] * 120
  write_video(
    tmp_path / "videos" / "chemistry.mp4",
    np.arange(120) / 15,
    black,
    samples[: 8 * audio.SAMPLE_RATE],
    audio.SAMPLE_RATE,
  )
  opts = options(tmp_path, openpose_dir=videos15)
  with pytest.raises(UserError, match="all overlap"):  # 8 s cannot be split
    prepare.run(opts)
  grid, origin = to_grid(
    Detection(truth, np.where(truth[:, 2] > 0, Origin.FOUND, 0).astype(np.int8)),
    np.arange(120) / 15,
  )
  np.testing.assert_array_equal(grid, truth)
  keypoints, factor = rescale.rescale(clean(grid, origin, (0, 0, 1280, 720))[0])
  starts, _ = clips.windows(keypoints, 8 * audio.SAMPLE_RATE)
  folder = opts.root / "eve" / "work" / "chemistry"
  assert workspace.read_json(folder / "clips.json")["kept"] == starts
  assert workspace.read_json(folder / "rescale.json")["factor"] == pytest.approx(factor)
  for start in starts:
    with np.load(clips.clip_path(opts, "chemistry", start)) as clip:
      np.testing.assert_allclose(clip["pose"], keypoints[start : start + 64], atol=2e-3)
  assert len(starts) >= 2


@pytest.mark.slow
def test_mediapipe_is_as_accurate_as_documented(real_pack, tmp_path):
  """Needs the network or the environment in its usual place; about a minute."""
  sources = real_pack.parent / "sources"
  (tmp_path / "videos").mkdir()
  name = "varying_tmplt_rgb"
  (tmp_path / "videos" / f"{name}.mp4").symlink_to(sources / f"{name}.mp4")
  opts = Options(tmp_path / "videos", "oli", tmp_path / "data")
  prepare.run(opts)
  with np.load(sources / "varying_tmplt.npz") as npz:
    truth = npz["poses_pred_batch"][0]
  folder = opts.root / "oli" / "work" / name
  found = workspace.read_npz(folder / "clean.npz")["keypoints"]
  used = kp.OPENPOSE.indices(*kp.UPPER_BODY.names)
  assert (found[:, 2, used] > 0).all()
  # The canvas shows the square from (500, 40) 1.125 times as large from (280, 0).
  pixels = (found[:, :2] - [[280], [0]]) / 1.125 + [[500], [40]]
  error = np.linalg.norm(pixels[:, :, used] - [[822.070], [357.770]] - truth, axis=1)
  left, right = kp.UPPER_BODY.indices("left_shoulder", "right_shoulder")
  shoulders = truth[..., left] - truth[..., right]
  percent = 100 * error / np.linalg.norm(shoulders, axis=1).mean()
  limits = {"body": 4.0, "face": 0.9, "left_hand": 4.0, "right_hand": 2.9}
  mean = {part: percent[:, kp.UPPER_BODY.part(part)].mean() for part in limits}
  assert {part: value for part, value in mean.items() if value > limits[part]} == {}
