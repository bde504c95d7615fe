"""Bad input to every program: one line, exit code 2, and nothing written or lost."""

import hashlib
import json
import os
import pathlib
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import data_prep_helpers
import numpy as np
import packs
import programs
import pytest
import soundfile
import tiny

from data_prep import prepare
from sdt_jax import config as config_lib
from sdt_jax import methods, workdir
from sdt_jax.interop import original, torch_zip
from sdt_jax.training import runs, setup
from sdt_jax.training.checkpoints import Checkpoints

Spoil = Callable[[pathlib.Path], object]  # changes the material in a folder


class Case(NamedTuple):
  """A row of a table.

  Attributes:
    name: of the test.
    flags: of the program, separated by spaces.
    says: parts of the error message in their order, separated by " ... ".
    spoil: makes the material bad; None where the flags are bad.
    slow: whether the program runs for seconds before it can find the fault.
  """

  name: str
  flags: str
  says: str
  spoil: Spoil | None = None
  slow: bool = False


# --- what spoils a file of the material ---


def cut(path: str, share: float = 0.5) -> Spoil:
  """Truncates a file."""

  def spoil(folder: pathlib.Path) -> None:
    content = (folder / path).read_bytes()
    (folder / path).write_bytes(content[: int(len(content) * share)])

  return spoil


def holds(path: str, content: bytes | str) -> Spoil:
  """Writes a file."""
  as_bytes = content.encode() if isinstance(content, str) else content

  def spoil(folder: pathlib.Path) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(as_bytes)

  return spoil


def gone(pattern: str) -> Spoil:
  """Removes files and folders."""

  def spoil(folder: pathlib.Path) -> None:
    found = list(folder.glob(pattern))
    assert found
    for path in found:
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  return spoil


def is_folder(path: str) -> Spoil:
  """A folder under the name of a file."""

  def spoil(folder: pathlib.Path) -> None:
    (folder / path).unlink(missing_ok=True)
    (folder / path).mkdir(parents=True)

  return spoil


def unreadable(path: str) -> Spoil:
  """A link to itself, which root cannot read either."""

  def spoil(folder: pathlib.Path) -> None:
    (folder / path).unlink()
    (folder / path).symlink_to(pathlib.Path(path).name)

  return spoil


def field(path: str, name: str, value: Any = ...) -> Spoil:
  """Sets a dotted field of a JSON file, or removes it."""

  def spoil(folder: pathlib.Path) -> None:
    content = fields = json.loads((folder / path).read_text())
    *sections, last = name.split(".")
    for section in sections:
      fields = fields[section]
    if value is ...:
      del fields[last]
    else:
      fields[last] = value
    (folder / path).write_text(json.dumps(content))

  return spoil


def arrays(path: str, **changes: Any) -> Spoil:
  """Changes arrays of an npz; None removes one."""

  def spoil(folder: pathlib.Path) -> None:
    content: dict[str, Any] = {}
    if (folder / path).exists():
      with np.load(folder / path) as npz:
        content = dict(npz)
    content |= changes
    np.savez(folder / path, **{k: v for k, v in content.items() if v is not None})

  return spoil


def both(*spoils: Spoil) -> Spoil:
  return lambda folder: [spoil(folder) for spoil in spoils]


def undone(stage: str, *spoils: Spoil) -> Spoil:
  """Makes a stage of the data preparation, and those after it, run again."""
  return both(gone(f"prepared/eve/work/talk/{stage}.stamp"), *spoils)


def sound(path: str, samples: np.ndarray, subtype: str = "FLOAT") -> Spoil:
  return lambda folder: soundfile.write(folder / path, samples, 16_000, subtype)


class _Bomb:
  """Unpickling it creates the folder `executed`."""

  def __reduce__(self):
    return os.mkdir, ("executed",)


def _bomb_pth(folder: pathlib.Path) -> None:
  with zipfile.ZipFile(folder / "model.pth", "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(_Bomb(), 2))


def _pth(**changes: Any) -> Spoil:
  """Changes entries of model.pth."""

  def spoil(folder: pathlib.Path) -> None:
    content = torch_zip.read(folder / "model.pth") | changes
    torch_zip.write(folder / "model.pth", content)

  return spoil


# --- the table ---

TRAIN = "--config=tiny.py --workdir=new"
RESUME = "--config=tiny.py --workdir=run"
PACK = (
  "--config=tiny.py --workdir=new --config.dataset.name=speech2gesture "
  "--config.dataset.root=packs --config.dataset.speaker=zoe"
)
EVAL = "--workdir=run"
DEMO = "--workdir=run --audio=talk.wav --output_dir=out"
IMPORT = "--checkpoint=model.pth --speaker=oliver --workdir=new"
EXPORT = "--workdir=run --output=new.bin"
STAGE = (
  "--videos=videos --speaker=eve --root=prepared --keypoints=openpose "
  "--openpose_dir=json"
)
NEW_STAGE = STAGE.replace("prepared", "new")
INSPECT = "--root=prepared --speaker=eve --clip=talk --output_dir=new"
CSV = "packs/zoe/processed_137.csv"
CLIP = "packs/zoe/clips/npz/talk-0.npz"
STATE = "run/checkpoints/3/state"
META = "run/checkpoints/3/meta/metadata"
CONFIG, SPEAKER = "run/config.json", "run/speaker.json"
VIDEO = "videos/talk.mp4"
WORK = "prepared/eve/work/talk"
FRAME = "json/talk/talk_000000000007_keypoints.json"
KEYS = np.zeros((64, 3, 137), np.float32)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)
CLIP_SOUND = np.ones(68_266)
LONG = "9" * 5000
HEAD = "dataset,pose_fn\n"


def each(call: str, says: dict[str, str], slow: bool = False) -> list[Case]:
  """One case per entry: flags appended to `call` -> the expected error."""
  return [Case(end[:40], call + end, line, slow=slow) for end, line in says.items()]


def spoilt(call: str, table: dict[str, list[Spoil]], slow: bool = False) -> list[Case]:
  """One case per way to spoil the material, listed by the expected error."""
  return [
    Case(f"{spoil.__qualname__.split('.')[0]}: {says}", call, says, spoil, slow)
    for says, spoils in table.items()
    for spoil in spoils
  ]


def cut_all(pattern: str) -> Spoil:
  def spoil(folder: pathlib.Path) -> None:
    for path in folder.glob(pattern):
      if path.is_file():
        cut(str(path.relative_to(folder)))(folder)

  return spoil


def nobody_detected(folder: pathlib.Path) -> None:
  for path in folder.glob("packs/zoe/clips/npz/*"):
    arrays(str(path.relative_to(folder)), pose=KEYS)(folder)


def mute(path: str) -> Spoil:
  return lambda folder: data_prep_helpers.write_video(folder / path, [0, 0.1])


# fmt: off
TRAIN_FLAGS = [
  *each("", {"": "--config", "--config=none.py": "none.py ... configs/",
    "--config=run": "--config=run", "--config=talk.wav": "talk.wav"}),
  *spoilt("--config=a.py", {
    "a.py": [holds("a.py", "def (")], "get_config": [holds("a.py", "")],
    "a.py ... no milk": [
      holds("a.py", "def get_config():\n  raise RuntimeError('no milk')")],
  }),
  *each(f"{TRAIN} ", {"--steps=3": "'steps'", "quick": "'quick' ... --"}),
  *each(f"{TRAIN} --config.", {
    # What the flag cannot be:
    "batch=3": "batch", "dataset.path=a": "path", "batch_size=x": "batch_size=x",
    "batch_size=1.5": "=1.5", "dataset=3": "dataset=3",
    "optimizer.milestones=(1,": "milestones",
    # What the field cannot be:
    "experiment=gan": "gan ... voice2pose",
    "generator.norm=ln": "norm ... 'ln' ... gn16",
    "batch_size=0": "batch_size is 0", "batch_size=1": "batch_size ... 1 ... 2",
    "batch_size=99": "99 ... 20 clips ... smaller", "num_epochs=0": "num_epochs is 0",
    "seed=-1": "seed is -1", "generator.channels=-8": "channels is -8",
    "generator.audio_channels=(4,4,4)": "audio_channels is (4, 4, 4) ... expected 4",
    "generator.audio_channels=('a',4,4,4)": "audio_channels",
    "optimizer.learning_rate=nan": "learning_rate is nan",
    "optimizer.learning_rate=inf": "learning_rate is inf",
    "optimizer.b1=1.5": "optimizer.b1 is 1.5",
    "optimizer.milestones=('a',)": "milestones",
    "discriminator.weight=-1.0": "discriminator.weight is -1.0",
    "template.kl_weight=-1.0": "kl_weight is -1.0",
    "template.frame_wise=True --config.template.kind=none": "frame_wise",
    "checkpoint.best_metric=x": "best_metric is 'x' ... lip_sync",
    "checkpoint.every_steps=-1": "every_steps is -1",
    "checkpoint.keep_best=-1": "keep_best is -1",
    "log.dev_videos=-1": "dev_videos is -1",
    "dataset.num_train_clips=0": "num_train_clips=0", "dataset.name=no:No": "'no:No'",
    "dataset.data_dir=talk.wav": "talk.wav",
    "dataset.num_dev_clips=-1": "num_dev_clips=-1",
    "dataset.statistics=published": "'ada' ... known",
  }),
  *each("--config=tiny.py --workdir=", {"talk.wav/x": "--workdir=talk.wav/x"}, True),
  *each(f"{TRAIN} --config.template.kind=vae --config.template.",
    {"pose_vae=run": "pose_vae=run"}, slow=True),
  *spoilt(f"{TRAIN} --config.template.kind=vae --config.template.pose_vae=vae",
    {"pose_vae=vae": [holds("vae/clips.txt", "a\nb\n")]}, slow=True),
  *each(f"{TRAIN} --pretrained=", {"none": "none", "vae": "--pretrained=vae"}, True),
]
TRAIN_PACK = [
  *each(f"{PACK} --config.dataset.", {"root=none": "dataset.root='none'",
    "root=talk.wav": "root='talk.wav'", "speaker=bob": "'bob' ... zoe",
    "speaker=../packs/zoe": "'../packs"}),
  *spoilt(PACK, {
    "processed_137.csv": [gone(CSV), is_folder(CSV),
      holds(CSV, f"{HEAD}train," + "a" * 200_000)],  # more than a cell may hold
    "column dataset, pose_fn missing": [holds(CSV, "")],
    "column pose_fn missing ... dataset, clip": [
      holds(CSV, "dataset,clip\ntrain,a.npz\n")],
    "cannot be read as csv": [holds(CSV, bytes(range(256)) * 9),
      holds(CSV, f"{HEAD}ä,b".encode("latin1"))],
    "not a readable npz ... null byte": [
      holds(CSV, f"{HEAD}train,a\0b.npz\ndev,a\0b.npz\n")],
    "no row has 'train'": [holds(CSV, HEAD)],
    "File name too long": [holds(CSV, f"{HEAD}train,{'a' * 5000}\ndev,a\n")],
    "talk-0 ... no such file": [gone(CLIP)],
    "talk-0 ... not a readable npz": [is_folder(CLIP), unreadable(CLIP), cut(CLIP),
      holds(CLIP, ""), holds(CLIP, "no zip"), arrays(CLIP, pose=np.array([_Bomb()]))],
    "talk-0 ... no audio": [arrays(CLIP, audio=None)],
    "talk-0 ... (64, 3, 135) ... (64, 3, 137)": [arrays(CLIP, pose=KEYS[..., :135])],
    "talk-0 ... bool": [arrays(CLIP, pose=KEYS > 0)],
    "talk-0 ... finite": [arrays(CLIP, pose=KEYS * np.nan),
      arrays(CLIP, audio=CLIP_SOUND * np.nan)],
    "talk-0 ... pose": [arrays(CLIP, pose=KEYS.astype(float) + 1e300)],
    "talk-0 ... (16000,) ... 68266": [arrays(CLIP, audio=NOISE)],
    "talk-0 ... <U3": [arrays(CLIP, audio=CLIP_SOUND.astype("U3"))],
    "talk-0 ... audio": [arrays(CLIP, audio=CLIP_SOUND * 1e300)],
    "zoe": [nobody_detected],
  }),
]
TRAIN_RESUME = [
  *each(RESUME, {" --config.seed=5": "seed (0 -> 5) ... --workdir"}),
  *spoilt(RESUME, {
    "training clip 0": [holds("run/clips.txt", "x\n" * 20)],
    "clips.txt": [gone("run/clips.txt"), holds("run/clips.txt", b"\xff\xfe\0")],
    "speaker.json": [cut(SPEAKER)], "config.json": [gone(CONFIG)],
    "checkpoints/3": [cut_all(f"{STATE}/**/*"), cut(META), holds(META, "[]")],
  }),
  *spoilt(RESUME, {"metrics.jsonl": [is_folder("run/metrics.jsonl"),
    holds("run/metrics.jsonl", b"\xff\xfe\0")]}, slow=True),
]
EVAL_CASES = [
  *each("", {"": "--workdir", "--workdir=none": "none: no such folder",
    "--workdir=talk.wav": "talk.wav", "--workdir=packs": "packs/config.json"}),
  *each(f"{EVAL} --", {
    "seed=x": "--seed=x", "step=7": "--step=7 ... latest, best, 3",
    "step=³": "--step=³", f"step={LONG}": "--step=999",
    "split=test": "--split=test ... train, dev", "split=": "--split= ... train, dev",
    "template=99": "--template=99 ... 19", "template=³": "--template=³",
    f"template={LONG}": "=999", "template=encoder": "--pose_vae",
    "num_samples=0": "--num_samples=0", "save_videos=-1": "--save_videos=-1",
    "pose_vae=run": "--pose_vae=run", "pose_vae=none": "none",
  }),
  *spoilt(f"{EVAL} --pose_vae=vae", {
    "vae ... bob ... ada": [field("vae/speaker.json", "name", "bob")]}),
  *spoilt(EVAL, {
    CONFIG: [cut(CONFIG), holds(CONFIG, "a: 1"), holds(CONFIG, "[1]"),
      holds(CONFIG, "[" * 100_000), is_folder(CONFIG), unreadable(CONFIG)],
    f"{CONFIG} ... batch_size": [
      field(CONFIG, "batch_size", [8]), field(CONFIG, "batch_size")],
    f"{CONFIG} ... pose": [field(CONFIG, "pose", 3), field(CONFIG, "pose")],
    f"{CONFIG} ... seed": [field(CONFIG, "seed", "zero")],
    f"{CONFIG} ... dataset": [field(CONFIG, "dataset", None)],
    f"{CONFIG} ... dataset.data_dir": [field(CONFIG, "dataset.data_dir", 3)],
    "checkpoints/3 ... --step": [field(CONFIG, "generator.channels", 16),
      gone(f"{STATE}/*/d/*")],
    SPEAKER: [cut(SPEAKER), gone(SPEAKER), field(SPEAKER, "tables")],
    f"{SPEAKER} ... hierarchical": [
      field(SPEAKER, "tables.hierarchical.mean", [1, 2])],
    f"{SPEAKER} ... positive": [
      field(SPEAKER, "tables.hierarchical.std", [0.0] * 242)],
    "run/checkpoints ... train": [gone("run/checkpoints")],
    "run/checkpoints": [gone("run/checkpoints/*"),
      both(gone("run/checkpoints"), holds("run/checkpoints", "x"))],
    "checkpoints/3": [field(CONFIG, "generator.channels", 10**9), gone(STATE),
      gone("run/checkpoints/3/meta"), holds(META, "3"),
      holds(META, '{"epoch": 1, "num_clips": "x"}'),
      holds(META, '{"epoch": 1, "num_clips": 100000000000000}')],
    "root": [both(field(CONFIG, "dataset.name", "speech2gesture"),
      field(CONFIG, "dataset.root", "nowhere"))],
  }),
]
DEMO_CASES = [
  *each("", {"--audio=talk.wav --output_dir=out": "--workdir",
    "--workdir=run --output_dir=out": "--audio"}),
  *each(f"{DEMO} --", {
    "num_samples=two": "two", "num_samples=0": "--num_samples=0", "seed=-1": "seed",
    "audio=none.wav": "none.wav: no such file or folder",
    "audio=run": "run: contains no sound files",
    "output_dir=talk.wav/x": "--output_dir=talk.wav/x", "step=first": "--step=first",
    "workdir=vae": "vae ... pose VAE", "speaker=nobody": "'nobody' ... oliver",
    "export=openpose,bvh": "'bvh' ... csv", "outputs=": "--outputs=: is empty",
    "outputs=mp4,gif": "--outputs=mp4,gif ... 'gif' ... mp4,npz,png",
    "size=720": "--size=720 ... WIDTHxHEIGHT", "size=641x480": "--size ... 642x480",
    "size=8x8": "--size=8x8 ... 64", "size=99999x99999": "--size=99999x99999 ... 7680",
    "scale=0": "--scale=0", "scale=nan": "--scale=nan", "scale=big": "--scale=big",
    "template=99": "--template=99 ... 0 to 19",
    "template=0:99": "--template=0:99", "template=best": "--template=best",
    f"template={LONG}": "--template=999",
    "template=none.npz": "none.npz: no such file",
    "template=none.json": "none.json: cannot be read",
    "template=like:none.mp4@3": "like:none.mp4@3: no such file",
    "template=like:talk.wav": "like:talk.wav ... no picture",
    "template=cluster:1": "template_map.json: no such file ... templates.map",
    "template=sequence": "--template=sequence: this model has no code mapper",
    "template=auto": "template_sequence does not exist; train it",
    "template=auto:vae": "--template=auto:vae: vae is a pose VAE",
    "direction=energy:1": "directions.npz: no such file ... templates.directions",
    "directions=d.npz": "--audio, --directions: give one of them",
  }),
  *each("--workdir=vae --output_dir=out --", {
    "directions=none.npz": "--directions=none.npz: no such file",
    "directions=talk.wav": "--directions=talk.wav: not a readable npz"}),
  *spoilt(f"{DEMO} --template=t.json", {
    "t.json: is not JSON": [holds("t.json", "{")],
    't.json: keyframe 0: "at" is 1': [
      holds("t.json", '{"version":1,"keyframes":[{"at":1}]}')],
    "index 99 is outside": [
      holds("t.json", '{"version":1,"keyframes":[{"at":0,"template":99}]}')],
  }),
  *spoilt(DEMO, {
    "talk.wav": [holds("talk.wav", ""), holds("talk.wav", "To be or not to be\n" * 99),
      unreadable("talk.wav"), sound("talk.wav", NOISE[:0])],
    "talk.wav ... 1/30 s": [sound("talk.wav", NOISE[:500])],
    "talk.wav ... NaN": [sound("talk.wav", NOISE * np.nan)],
    "talk.wav ... 32768": [sound("talk.wav", NOISE * 32768)],
    CONFIG: [gone(CONFIG)], "speaker.json": [cut(SPEAKER)],
    "checkpoints/3": [gone(f"{STATE}/*/d/*")],
  }),
  *spoilt(f"{DEMO} --audio=mute.mp4", {
    "mute.mp4: has no sound track": [mute("mute.mp4")]}),
  *spoilt(f"{DEMO} --audio=list.txt", {
    "line 2 ... none.wav": [holds("list.txt", "talk.wav\nnone.wav\n")],
    "list.txt": [holds("list.txt", b"\xff\0")],
    "list.txt: line 1": [holds("list.txt", b"a\0b\n")],
    "bad.wav": [both(holds("list.txt", "talk.wav\nbad.wav\n"), holds("bad.wav", "x"))],
  }),
  *spoilt(f"{DEMO} --template=t.npz", {
    "t.npz": [arrays("t.npz", template=np.array([_Bomb()])),
      both(arrays("t.npz", template=np.zeros(4)), cut("t.npz"))],
    "t.npz ... (1, 5) ... (4,)": [arrays("t.npz", template=np.zeros(5))],
    "t.npz ... NaN": [arrays("t.npz", template=np.zeros(4) * np.nan),
      arrays("t.npz", condition_code=np.zeros(4) * np.nan)],
  }),
]
IMPORT_CASES = [
  *each(f"{IMPORT} --", {
    "checkpoint=none.pth": "none.pth", "checkpoint=run": "run: is a folder",
    "speaker=nobody": "'nobody' ... oliver ... --root=DATA",
    "speaker=none.json": "--speaker=none.json ... speaker.json",
    "speaker=run/config.json": "--speaker=run/config.json ... hierarchical",
    "speaker=nobody --root=packs": "'nobody' ... zoe", "root=none": "none",
    "workdir=run": "--workdir=run ... another", "workdir=talk.wav/x": "talk.wav/x",
    "config=none.py": "none.py ... configs/",
    "config=tiny.py --config.template.size=9": "template.size ... 9",
    "config=tiny.py --config.dataset.root=none": "none",
    "pose_vae=model.pth": "--pose_vae=model.pth",
  }),
  *spoilt(IMPORT, {
    "model.pth ... empty": [holds("model.pth", "")],
    "model.pth": [unreadable("model.pth")], "model.pth ... again": [cut("model.pth")],
    "model.pth ... a text file": [holds("model.pth", "weights")],
    "model.pth ... mkdir": [_bomb_pth],
    "model.pth ... pickle": [holds("model.pth", pickle.dumps(_Bomb()))],
    "model.pth ... npz": [
      lambda folder: shutil.copy(folder / CLIP, folder / "model.pth")],
    "model.pth ... model_state_dict": [_pth(model_state_dict=[1])],
    "model.pth ... netG": [
      _pth(model_state_dict={"fc.weight": np.zeros(3, np.float32)})],
    "model.pth ... -3": [_pth(step=-3)],
  }),
]
EXPORT_CASES = [
  *each("--workdir=run", {"": "--output"}),
  *each(f"{EXPORT} --", {"workdir=none": "none: no such folder", "step=4": "--step=4",
    "output=talk.wav/x": "talk.wav/x", "output=packs": "packs"}),
  *spoilt(EXPORT, {"checkpoints/3": [gone(f"{STATE}/*/d/*")]}),
]
TORCH_CASES = each(EXPORT, {" --pose_vae=run": "--pose_vae=run"})
PORTABLE_CASES = each(EXPORT, {" --workdir=vae": "vae ... pose VAE"})
REPORT_CASES = [
  *each("", {"": "--config", "--config=none.py": "none.py"}),
  *each("--config=tiny.py --", {
    "seeds=0": "seeds", "output_dir=talk.wav/x": "talk.wav/x",
    "output_dir=new --config.batch_size=0": "batch_size is 0",
    "output_dir=new --config.dataset.name=speech2gesture --config.dataset.root=none":
      "none",
  }),
  *spoilt("--config=tiny.py --output_dir=rows", {"report_row.json": [both(
    lambda folder: shutil.copytree(folder / "vae", folder / "rows/pose_vae_0"),
    holds("rows/pose_vae_0/report_row.json", '{"scores": '))]}),
]
VIDEO_CASES = spoilt(NEW_STAGE, {
  "talk.mp4": [holds(VIDEO, "no video"), cut(VIDEO), holds(VIDEO, "")],
  "talk.mp4: has no sound track": [mute(VIDEO)],
})
PREP_CASES = [
  *each("--speaker=eve", {" --root=new": "--videos"}),
  *each(f"{NEW_STAGE} --", {
    "videos=none": "--videos=none", "videos=talk.wav": "--videos=talk.wav",
    "videos=run": "--videos=run: holds no videos",
    "speaker=../eve": "--speaker='../eve'", "keypoints=alphapose": "alphapose",
    "split_by=day": "day", "workers=0": "--workers=0",
    "skip_frames=-1": "--skip_frames=-1", "spike=-1": "--spike=-1.0",
    "cut=nan": "--cut=nan", "gap_frames=x": "gap_frames",
    "face_size=1": "--face_size=1 ... LOW,HIGH",
    "hand_size=a,b": "--hand_size=a,b ... LOW,HIGH",
    "hand_size=2,1": "--hand_size=2.0,1.0 ... LOW < HIGH",
    "root=talk.wav": "--root=talk.wav", "openpose_dir=none": "--openpose_dir=none",
  }),
  *VIDEO_CASES,
]
KEYPOINT_CASES = spoilt(STAGE, {
  "talk_000000000007": [undone("keypoints", cut(FRAME))],
  "talk_000000000007 ... people": [undone("keypoints", holds(FRAME, "[1]"))],
  "talk_000000000007 ... 1 points": [undone("keypoints",
    holds(FRAME, '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}'))],
  "frames 7": [gone(FRAME)],
  "70 JSON files ... 140 pictures": [undone("keypoints",
    gone("json/talk/talk_00000000007*"), gone("json/talk/talk_0000000000[89]*"),
    gone("json/talk/talk_0000000001*"))],
  "source.json": [undone("keypoints", cut(f"{WORK}/source.json"))],
})
STAGES_OUT_OF_ORDER = each(NEW_STAGE, {"": "talk ... python -m data_prep."})
CLEAN_CASES = spoilt(STAGE, {
  "keypoints.npz ... data_prep.prepare": [
    undone("clean", cut(f"{WORK}/keypoints.npz")),
    undone("clean", arrays(f"{WORK}/keypoints.npz", origin=np.zeros(3, np.int8)))],
  "source.json": [undone("clean", field(f"{WORK}/source.json", "canvas"))],
})
SPLIT_CASES = spoilt(STAGE, {"clips.json": [cut(f"{WORK}/clips.json")]})
STATISTICS_CASES = [
  *each(NEW_STAGE, {"": "new"}),
  *spoilt(STAGE, {"talk-": [cut_all("prepared/eve/clips/npz/*")]}),
]
INSPECT_CASES = [
  *each(f"{INSPECT} --", {"clip=walk": "--clip=walk ... talk",
    "clip=talk-100-9999": "--clip=talk-100-9999",
    "output_dir=talk.wav": "--output_dir=talk.wav"}),
  *each("--root=packs --", {"speaker=bob": "'bob' ... zoe",
    "speaker=zoe --num_clips=0": "num_clips",
    "speaker=zoe --clip=talk-9": "--clip=talk-9 ... talk-0"}),
  *spoilt("--root=packs --speaker=zoe", {"talk-0 ... pose": [arrays(CLIP, pose=None)]}),
  *spoilt(INSPECT, {"clean.npz": [cut(f"{WORK}/clean.npz")],
    "video.mp4": [gone(f"{WORK}/video.mp4")],
    "audio.wav": [gone(f"{WORK}/audio.wav")]}),
]
ENVIRONMENT_CASES = each("--path=", {"run": "run: holds something else",
  "new --python=none": "none: cannot be run"})

TABLES = {
  "train.py": TRAIN_FLAGS + TRAIN_PACK + TRAIN_RESUME,
  "eval.py": EVAL_CASES,
  "demo.py": DEMO_CASES,
  "-m sdt_jax.interop.import_torch": IMPORT_CASES,
  "-m sdt_jax.interop.export_torch": EXPORT_CASES + TORCH_CASES,
  "-m sdt_jax.interop.export_stablehlo": EXPORT_CASES + PORTABLE_CASES,
  "-m sdt_jax.evaluation.report": REPORT_CASES,
  "-m data_prep.prepare": PREP_CASES,
  "-m data_prep.transcode": VIDEO_CASES,
  "-m data_prep.keypoints": STAGES_OUT_OF_ORDER + KEYPOINT_CASES,
  "-m data_prep.clean": STAGES_OUT_OF_ORDER + CLEAN_CASES,
  "-m data_prep.rescale": STAGES_OUT_OF_ORDER,
  "-m data_prep.clips": STAGES_OUT_OF_ORDER,
  "-m data_prep.split": STAGES_OUT_OF_ORDER + SPLIT_CASES,
  "-m data_prep.statistics": STATISTICS_CASES,
  "-m data_prep.report": STAGES_OUT_OF_ORDER,
  "-m data_prep.inspect": INSPECT_CASES,
  "-m data_prep.mediapipe_env": ENVIRONMENT_CASES,
}
# fmt: on


# --- the material and the test ---


@pytest.fixture(scope="module")
def server():
  with programs.started() as started:
    yield started


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> pathlib.Path:
  """Good inputs of all kinds; the tests spoil copies."""
  folder = tmp_path_factory.mktemp("material")
  config = tiny.config("data")
  (folder / "tiny.py").write_text(
    "from configs import quick\n\n"
    "def get_config():\n"
    "  c = quick.get_config()\n"
    f"  c.update_from_flattened_dict({config_lib.flatten(config)!r})\n"
    "  return c\n"
  )
  _write_run(folder, "run", config)
  _write_run(folder, "vae", tiny.config("data", experiment="pose2pose"))
  run = runs.load(folder / "run")
  torch_zip.write(folder / "model.pth", original.from_state(run.state, run.config, 1))
  packs.write_pack(folder / "packs", "train train train dev")
  soundfile.write(folder / "talk.wav", NOISE, 16_000)
  data_prep_helpers.make_source(folder, "talk", frames=140)
  prepare.run(data_prep_helpers.options(folder, root=folder / "prepared"))
  return folder


def _write_run(folder: pathlib.Path, name: str, config) -> None:
  """Writes the workdir of a run at step 3, with its initial weights."""
  config = config.copy_and_resolve_references()
  config.dataset.data_dir = str(folder / "data")
  built = setup.build_data(config)
  source = built.sources["train"]
  clips = [source[i]["clip_id"].decode() for i in range(len(source))]
  config.dataset.data_dir = "data"
  workdir.create(folder / name, config, built.statistics, clips)
  method = methods.build(config, steps_per_epoch=2)
  state = runs.init_state(method, 0, len(clips))
  saved = Checkpoints(folder / name / workdir.CHECKPOINTS, "l1")
  meta = {"epoch": 1, "num_clips": len(clips)}
  saved.save(state.replace(step=state.step + 3), meta, {})
  saved.close()


def _listing(folder: pathlib.Path) -> dict[str, str]:
  """Path -> digest of each file that must not change; "" for a folder."""
  found = {
    str(path.relative_to(folder)): _digest(path) if path.is_file() else ""
    for path in folder.rglob("*")
  }
  return {name: of for name, of in found.items() if not _may_appear(name, of)}


def _may_appear(name: str, digest: str) -> bool:
  """The lock of a workdir, and empty folders for a data set that cannot be built."""
  return name.endswith(workdir.LOCK) or (name.startswith("data/") and not digest)


def _digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


# Lines that a good run prints on stderr, too.
_NOTES = re.compile(
  "speaker ada: statistics of |making the MediaPipe environment |.* rows left out by "
)


def _complaints(stderr: str) -> list[str]:
  """The lines that are neither a progress bar nor such a note."""
  lines = [line.split("\r")[-1].strip() for line in stderr.split("\n")]
  said = [line for line in lines if line and not _NOTES.match(line)]
  return [line for line in said if "%|" not in line]


@pytest.mark.parametrize(
  ("program", "case"),
  [
    pytest.param(
      program,
      case,
      id=f"{program.split()[-1]}: {case.name}",
      marks=[pytest.mark.slow] * case.slow,
    )
    for program, cases in TABLES.items()
    for case in cases
  ],
)
def test_bad_input_is_one_line_and_changes_nothing(
  server, material, tmp_path, program, case
):
  folder = tmp_path / "here"
  shutil.copytree(material, folder)
  if case.spoil:
    case.spoil(folder)
  before = _listing(folder)
  done = server.run(program, case.flags.split(), folder)
  (line,) = _complaints(done.stderr)
  assert line.startswith("error: ")
  assert done.returncode == 2
  pattern = ".*".join(map(re.escape, case.says.split(" ... ")))
  assert re.search(pattern, line)
  assert _listing(folder) == before
