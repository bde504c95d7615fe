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
    name: what is bad.
    flags: of the program, separated by blanks.
    says: what must be in the line, in this order, separated by " ... ".
    spoil: makes the material bad; None where the flags are.
    slow: whether the program works for seconds before it can know.
  """

  name: str
  flags: str
  says: str
  spoil: Spoil | None = None
  slow: bool = False


# --- what spoils a file of the material ---


def cut(path: str, share: float = 0.5) -> Spoil:
  """Keeps its beginning."""

  def spoil(folder: pathlib.Path) -> None:
    content = (folder / path).read_bytes()
    (folder / path).write_bytes(content[: int(len(content) * share)])

  return spoil


def holds(path: str, content: bytes | str) -> Spoil:
  """Another content."""
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
  """A link to itself; rights would not keep the administrator out."""

  def spoil(folder: pathlib.Path) -> None:
    (folder / path).unlink()
    (folder / path).symlink_to(pathlib.Path(path).name)

  return spoil


def field(path: str, name: str, value: Any = ...) -> Spoil:
  """Sets a dotted field of a JSON file, or leaves it out."""

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
  """Changes arrays of an npz; None leaves one out."""

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
  """Makes a stage of the data preparation work again, and then the rest."""
  return both(gone(f"prepared/eve/work/talk/{stage}.stamp"), *spoils)


def sound(path: str, samples: np.ndarray, subtype: str = "FLOAT") -> Spoil:
  return lambda folder: soundfile.write(folder / path, samples, 16_000, subtype)


class _Bomb:
  """Whoever unpickles it makes the folder `executed`."""

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
INSPECT = "--root=prepared --speaker=eve --clip=talk --output=new.mp4"
CSV = "packs/zoe/processed_137.csv"
CLIP = "packs/zoe/clips/npz/talk-0.npz"
STATE = "run/checkpoints/3/state"
META = "run/checkpoints/3/meta/metadata"
VIDEO = "videos/talk.mp4"
WORK = "prepared/eve/work/talk"
FRAME = "json/talk/talk_000000000007_keypoints.json"
KEYS = np.zeros((64, 3, 137), np.float32)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)

# fmt: off
TRAIN_FLAGS = [
  Case("no config", "", "--config"),
  Case("config not there", "--config=none.py", "none.py ... configs/"),
  Case("config a folder", "--config=run", "--config=run"),
  Case("config no Python", "--config=talk.wav", "talk.wav"),
  Case("config with a syntax error", "--config=a.py", "a.py", holds("a.py", "def (")),
  Case("config without get_config", "--config=a.py", "get_config", holds("a.py", "")),
  Case("config that fails", "--config=a.py", "a.py ... no milk",
       holds("a.py", "def get_config():\n  raise RuntimeError('no milk')")),
  Case("unknown flag", f"{TRAIN} --steps=3", "'steps'"),
  Case("unknown field", f"{TRAIN} --config.batch=3", "batch"),
  Case("unknown inner field", f"{TRAIN} --config.dataset.path=a", "path"),
  Case("field of a wrong type", f"{TRAIN} --config.batch_size=x", "batch_size=x"),
  Case("field with half a number", f"{TRAIN} --config.batch_size=1.5", "=1.5"),
  Case("section as a field", f"{TRAIN} --config.dataset=3", "dataset=3"),
  Case("broken tuple", f"{TRAIN} --config.optimizer.milestones=(1,", "milestones"),
  Case("stray word", f"{TRAIN} quick", "'quick' ... --"),
  Case("unknown experiment", f"{TRAIN} --config.experiment=gan", "gan ... voice2pose"),
  Case("unknown norm", f"{TRAIN} --config.generator.norm=ln", "norm ... 'ln' ... 'bn'"),
  Case("batch of none", f"{TRAIN} --config.batch_size=0", "batch_size is 0"),
  Case("batch of one", f"{TRAIN} --config.batch_size=1", "batch_size ... 1 ... 2"),
  Case("batch too large", f"{TRAIN} --config.batch_size=99",
       "99 ... 20 clips ... smaller"),
  Case("no epochs", f"{TRAIN} --config.num_epochs=0", "num_epochs is 0"),
  Case("negative seed", f"{TRAIN} --config.seed=-1", "seed is -1"),
  Case("negative channels", f"{TRAIN} --config.generator.channels=-8",
       "channels is -8"),
  Case("three audio channels", f"{TRAIN} --config.generator.audio_channels=(4,4,4)",
       "audio_channels is (4, 4, 4) ... expected 4"),
  Case("audio channels of text",
       f"{TRAIN} --config.generator.audio_channels=('a',4,4,4)",
       "audio_channels"),
  Case("learning rate nan", f"{TRAIN} --config.optimizer.learning_rate=nan",
       "learning_rate is nan"),
  Case("learning rate inf", f"{TRAIN} --config.optimizer.learning_rate=inf",
       "learning_rate is inf"),
  Case("b1 above one", f"{TRAIN} --config.optimizer.b1=1.5", "optimizer.b1 is 1.5"),
  Case("milestones of text", f"{TRAIN} --config.optimizer.milestones=('a',)",
       "milestones"),
  Case("negative GAN weight", f"{TRAIN} --config.discriminator.weight=-1.0",
       "discriminator.weight is -1.0"),
  Case("negative KL weight", f"{TRAIN} --config.template.kl_weight=-1.0",
       "kl_weight is -1.0"),
  Case("frame-wise without templates",
       f"{TRAIN} --config.template.frame_wise=True --config.template.kind=none",
       "frame_wise"),
  Case("unknown metric", f"{TRAIN} --config.checkpoint.best_metric=x",
       "best_metric is 'x' ... lip_sync"),
  Case("negative every_steps", f"{TRAIN} --config.checkpoint.every_steps=-1",
       "every_steps is -1"),
  Case("negative keep_best", f"{TRAIN} --config.checkpoint.keep_best=-1",
       "keep_best is -1"),
  Case("negative videos", f"{TRAIN} --config.log.dev_videos=-1", "dev_videos is -1"),
  Case("no synthetic clips", f"{TRAIN} --config.dataset.num_train_clips=0",
       "num_train_clips=0"),
  Case("synthetic speaker without a name", f"{TRAIN} --config.dataset.speaker=",
       "speaker"),
  Case("data_dir a file", f"{TRAIN} --config.dataset.data_dir=talk.wav", "talk.wav"),
  Case("workdir below a file", "--config=tiny.py --workdir=talk.wav/x",
       "--workdir=talk.wav/x", slow=True),
  Case("published tables of nobody", f"{TRAIN} --config.dataset.statistics=published",
       "'ada' ... known"),
  Case("vae without its workdir", f"{TRAIN} --config.template.kind=vae", "pose_vae",
       slow=True),
  Case("vae of another kind",
       f"{TRAIN} --config.template.kind=vae --config.template.pose_vae=run",
       "pose_vae=run", slow=True),
  Case("vae of other clips",
       f"{TRAIN} --config.template.kind=vae --config.template.pose_vae=vae",
       "pose_vae=vae", holds("vae/clips.txt", "a\nb\n"), slow=True),
  Case("pretrained not there", f"{TRAIN} --pretrained=none", "none", slow=True),
  Case("pretrained of another kind", f"{TRAIN} --pretrained=vae", "--pretrained=vae",
       slow=True),
]
TRAIN_PACK = [
  Case("root not there", f"{PACK} --config.dataset.root=none", "dataset.root='none'"),
  Case("root a file", f"{PACK} --config.dataset.root=talk.wav", "root='talk.wav'"),
  Case("unknown speaker", f"{PACK} --config.dataset.speaker=bob", "'bob' ... zoe"),
  Case("speaker as a path", f"{PACK} --config.dataset.speaker=../packs/zoe",
       "'../packs"),
  Case("no csv", PACK, "processed_137.csv", gone(CSV)),
  Case("csv a folder", PACK, "processed_137.csv", is_folder(CSV)),
  Case("csv empty", PACK, "column dataset, pose_fn missing", holds(CSV, "")),
  Case("csv without a column", PACK, "column pose_fn missing ... dataset, clip",
       holds(CSV, "dataset,clip\ntrain,a.npz\n")),
  Case("csv binary", PACK, "cannot be read as csv", holds(CSV, bytes(range(256)) * 9)),
  Case("csv with zero bytes", PACK, "not a readable npz ... null byte",
       holds(CSV, "dataset,pose_fn\ntrain,a\0b.npz\ndev,a\0b.npz\n")),
  Case("csv not UTF-8", PACK, "cannot be read", holds(CSV,
       "dataset,pose_fn\nä,b".encode("latin1"))),
  Case("csv without rows", PACK, "no row has 'train'", holds(CSV, "dataset,pose_fn\n")),
  Case("csv without dev", PACK, "no row has 'dev'",
       holds(CSV, "dataset,pose_fn\ntrain,clips/npz/talk-0.npz\n")),
  Case("csv with an endless name", PACK, "File name too long",
       holds(CSV, "dataset,pose_fn\n" + f"train,{'a' * 5000}\ndev,a\n")),
  Case("csv with a giant cell", PACK, "processed_137.csv",
       holds(CSV, "dataset,pose_fn\ntrain," + "a" * 200_000)),
  Case("clip not there", PACK, "talk-0 ... no such file", gone(CLIP)),
  Case("clip a folder", PACK, "talk-0 ... not a readable npz", is_folder(CLIP)),
  Case("clip that cannot be read", PACK, "talk-0 ... not a readable npz",
       unreadable(CLIP)),
  Case("clip empty", PACK, "talk-0 ... not a readable npz", holds(CLIP, "")),
  Case("clip truncated", PACK, "talk-0 ... not a readable npz", cut(CLIP)),
  Case("clip no zip", PACK, "talk-0 ... not a readable npz", holds(CLIP, "no zip")),
  Case("clip pickled", PACK, "talk-0 ... not a readable npz",
       arrays(CLIP, pose=np.array([_Bomb()]))),
  Case("clip without sound", PACK, "talk-0 ... no audio", arrays(CLIP, audio=None)),
  Case("poses of a wrong shape", PACK, "talk-0 ... (64, 3, 135) ... (64, 3, 137)",
       arrays(CLIP, pose=KEYS[..., :135])),
  Case("poses of a wrong type", PACK, "talk-0 ... bool", arrays(CLIP, pose=KEYS > 0)),
  Case("poses with NaN", PACK, "talk-0 ... finite", arrays(CLIP, pose=KEYS * np.nan)),
  Case("poses beyond float32", PACK, "talk-0 ... pose",
       arrays(CLIP, pose=KEYS.astype(float) + 1e300)),
  Case("sound too short", PACK, "talk-0 ... (16000,) ... 68266", arrays(CLIP,
       audio=NOISE)),
  Case("sound with NaN", PACK, "talk-0 ... finite",
       arrays(CLIP, audio=np.full(68266, np.nan))),
  Case("sound as text", PACK, "talk-0 ... <U1", arrays(CLIP, audio=np.full(68266,
       "a"))),
  Case("sound far beyond 1", PACK, "talk-0 ... audio",
       arrays(CLIP, audio=np.full(68266, 1e300))),
  Case("nobody ever detected", PACK, "zoe", lambda folder: [
       arrays(str(p.relative_to(folder)), pose=KEYS)(folder)
       for p in (folder / "packs/zoe/clips/npz").iterdir()]),
]
TRAIN_RESUME = [
  Case("another config", f"{RESUME} --config.seed=5", "seed (0 -> 5) ... --workdir"),
  Case("other clips", RESUME, "training clip 0",
       lambda folder: holds("run/clips.txt", "x\n" * 20)(folder)),
  Case("clips gone", RESUME, "clips.txt", gone("run/clips.txt")),
  Case("clips binary", RESUME, "clips.txt", holds("run/clips.txt", b"\xff\xfe\0")),
  Case("metrics a folder", RESUME, "metrics.jsonl", is_folder("run/metrics.jsonl"),
       slow=True),
  Case("metrics binary", RESUME, "metrics.jsonl",
       holds("run/metrics.jsonl", b"\xff\xfe\0"), slow=True),
  Case("speaker broken", RESUME, "speaker.json", cut("run/speaker.json")),
  Case("config gone", RESUME, "config.json", gone("run/config.json")),
  Case("state truncated", RESUME, "checkpoints/3", lambda folder: [
       cut(str(p.relative_to(folder)))(folder)
       for p in (folder / STATE).rglob("*") if p.is_file()]),
  Case("meta truncated", RESUME, "checkpoints/3", cut(META)),
  Case("meta without its fields", RESUME, "checkpoints/3", holds(META, "[]")),
]
EVAL_CASES = [
  Case("no workdir", "", "--workdir"),
  Case("workdir not there", "--workdir=none", "none: no such folder"),
  Case("workdir a file", "--workdir=talk.wav", "talk.wav"),
  Case("workdir of something else", "--workdir=packs", "packs/config.json"),
  Case("seed of text", f"{EVAL} --seed=x", "--seed=x"),
  Case("step not there", f"{EVAL} --step=7", "--step=7 ... latest, best, 3"),
  Case("step of superscripts", f"{EVAL} --step=³", "--step=³"),
  Case("step of too many digits", f"{EVAL} --step={'9' * 5000}", "--step=999"),
  Case("unknown split", f"{EVAL} --split=test", "--split=test ... train, dev"),
  Case("template outside", f"{EVAL} --template=99", "--template=99 ... 19"),
  Case("template of superscripts", f"{EVAL} --template=³", "--template=³"),
  Case("template of too many digits", f"{EVAL} --template={'9' * 5000}", "=999"),
  Case("encoder without a VAE", f"{EVAL} --template=encoder", "--pose_vae"),
  Case("no samples", f"{EVAL} --num_samples=0", "--num_samples=0"),
  Case("negative videos", f"{EVAL} --save_videos=-1", "--save_videos=-1"),
  Case("gesture model as VAE", f"{EVAL} --pose_vae=run", "--pose_vae=run"),
  Case("VAE not there", f"{EVAL} --pose_vae=none", "none"),
  Case("VAE of another speaker", f"{EVAL} --pose_vae=vae", "vae ... bob ... ada",
       field("vae/speaker.json", "name", "bob")),
  Case("config truncated", EVAL, "run/config.json", cut("run/config.json")),
  Case("config no JSON", EVAL, "run/config.json", holds("run/config.json", "a: 1")),
  Case("config a list", EVAL, "run/config.json", holds("run/config.json", "[1]")),
  Case("config nested without end", EVAL, "run/config.json",
       holds("run/config.json", "[" * 100_000)),
  Case("config a folder", EVAL, "run/config.json", is_folder("run/config.json")),
  Case("config that cannot be read", EVAL, "run/config.json",
       unreadable("run/config.json")),
  Case("config without a field", EVAL, "run/config.json ... batch_size",
       field("run/config.json", "batch_size")),
  Case("config without a section", EVAL, "run/config.json ... pose",
       field("run/config.json", "pose")),
  Case("config with text for a number", EVAL, "run/config.json ... seed",
       field("run/config.json", "seed", "zero")),
  Case("config with a list for a number", EVAL, "run/config.json ... batch_size",
       field("run/config.json", "batch_size", [8])),
  Case("config with null for a section", EVAL, "run/config.json ... dataset",
       field("run/config.json", "dataset", None)),
  Case("config with a number for text", EVAL, "run/config.json ... dataset.data_dir",
       field("run/config.json", "dataset.data_dir", 3)),
  Case("config of another architecture", EVAL, "checkpoints/3 ... --step",
       field("run/config.json", "generator.channels", 16)),
  Case("config with giant channels", EVAL, "checkpoints/3",
       field("run/config.json", "generator.channels", 10**9)),
  Case("speaker truncated", EVAL, "run/speaker.json", cut("run/speaker.json")),
  Case("speaker not there", EVAL, "run/speaker.json", gone("run/speaker.json")),
  Case("speaker without tables", EVAL, "run/speaker.json", field("run/speaker.json",
       "tables")),
  Case("speaker with a short table", EVAL, "run/speaker.json ... hierarchical",
       field("run/speaker.json", "tables.hierarchical.mean", [1, 2])),
  Case("speaker with no spread", EVAL, "run/speaker.json ... positive",
       field("run/speaker.json", "tables.hierarchical.std", [0.0] * 242)),
  Case("no checkpoints", EVAL, "run/checkpoints ... train", gone("run/checkpoints")),
  Case("checkpoints empty", EVAL, "run/checkpoints", gone("run/checkpoints/*")),
  Case("checkpoints a file", EVAL, "run/checkpoints",
       both(gone("run/checkpoints"), holds("run/checkpoints", "x"))),
  Case("checkpoint without its arrays", EVAL, "checkpoints/3 ... --step",
       gone(f"{STATE}/*/d/*")),
  Case("checkpoint without its state", EVAL, "checkpoints/3", gone(STATE)),
  Case("checkpoint without meta", EVAL, "checkpoints/3",
       gone("run/checkpoints/3/meta")),
  Case("meta of another kind", EVAL, "checkpoints/3", holds(META, "3")),
  Case("meta with text for a number", EVAL, "checkpoints/3",
       holds(META, '{"epoch": 1, "num_clips": "x"}')),
  Case("meta with a giant number", EVAL, "checkpoints/3",
       holds(META, '{"epoch": 1, "num_clips": 100000000000000}')),
  Case("data of another speaker gone", EVAL, "root", both(
       field("run/config.json", "dataset.name", "speech2gesture"),
       field("run/config.json", "dataset.root", "nowhere"))),
]
DEMO_CASES = [
  Case("no workdir", "--audio=talk.wav --output_dir=out", "--workdir"),
  Case("no audio", "--workdir=run --output_dir=out", "--audio"),
  Case("samples of text", f"{DEMO} --num_samples=two", "two"),
  Case("no samples", f"{DEMO} --num_samples=0", "--num_samples=0"),
  Case("negative seed", f"{DEMO} --seed=-1", "seed"),
  Case("sound not there", f"{DEMO} --audio=none.wav",
       "none.wav: no such file or folder"),
  Case("folder without sounds", f"{DEMO} --audio=run", "run: contains no sound files"),
  Case("sound empty", DEMO, "talk.wav", holds("talk.wav", "")),
  Case("sound that cannot be read", DEMO, "talk.wav", unreadable("talk.wav")),
  Case("sound as text", DEMO, "talk.wav", holds("talk.wav",
       "To be or not to be\n" * 99)),
  Case("sound without samples", DEMO, "talk.wav", sound("talk.wav", NOISE[:0])),
  Case("sound too short", DEMO, "talk.wav ... 1/15 s", sound("talk.wav", NOISE[:500])),
  Case("sound with NaN", DEMO, "talk.wav ... NaN", sound("talk.wav", NOISE * np.nan)),
  Case("sound in 16 bit as float", DEMO, "talk.wav ... 32768", sound("talk.wav",
       NOISE * 32768)),
  Case("video without sound", f"{DEMO} --audio=mute.mp4",
       "mute.mp4: has no sound track",
       lambda folder: data_prep_helpers.write_video(folder / "mute.mp4", [0, 0.1])),
  Case("list with a missing sound", f"{DEMO} --audio=list.txt", "line 2 ... none.wav",
       holds("list.txt", "talk.wav\nnone.wav\n")),
  Case("list binary", f"{DEMO} --audio=list.txt", "list.txt", holds("list.txt",
       b"\xff\0")),
  Case("list with zero bytes", f"{DEMO} --audio=list.txt", "list.txt: line 1",
       holds("list.txt", b"a\0b\n")),
  Case("one bad sound among good", f"{DEMO} --audio=list.txt", "bad.wav",
       both(holds("list.txt", "talk.wav\nbad.wav\n"), holds("bad.wav", "x"))),
  Case("output below a file", f"{DEMO} --output_dir=talk.wav/x",
       "--output_dir=talk.wav/x"),
  Case("unknown step", f"{DEMO} --step=first", "--step=first"),
  Case("pose VAE as workdir", f"{DEMO} --workdir=vae", "vae ... pose VAE"),
  Case("unknown speaker", f"{DEMO} --speaker=nobody", "'nobody' ... oliver"),
  Case("unknown export", f"{DEMO} --export=openpose,bvh", "'bvh' ... csv"),
  Case("template outside", f"{DEMO} --template=99", "--template=99 ... 0 to 19"),
  Case("blend outside", f"{DEMO} --template=0:99", "--template=0:99"),
  Case("template of a word", f"{DEMO} --template=best", "--template=best"),
  Case("template of too many digits", f"{DEMO} --template={'9' * 5000}",
       "--template=999"),
  Case("template not there", f"{DEMO} --template=none.npz", "none.npz: no such file"),
  Case("template truncated", f"{DEMO} --template=t.npz", "t.npz",
       both(arrays("t.npz", template=np.zeros(4)), cut("t.npz"))),
  Case("template pickled", f"{DEMO} --template=t.npz", "t.npz",
       arrays("t.npz", template=np.array([_Bomb()]))),
  Case("template of another size", f"{DEMO} --template=t.npz",
       "t.npz ... (1, 5) ... (4,)",
       arrays("t.npz", template=np.zeros(5))),
  Case("template with NaN", f"{DEMO} --template=t.npz", "t.npz ... NaN",
       arrays("t.npz", template=np.zeros(4) * np.nan)),
  Case("workdir without a config", DEMO, "run/config.json", gone("run/config.json")),
  Case("workdir with a broken speaker", DEMO, "speaker.json", cut("run/speaker.json")),
  Case("checkpoint without its arrays", DEMO, "checkpoints/3", gone(f"{STATE}/*/d/*")),
]
IMPORT_CASES = [
  Case("file not there", f"{IMPORT} --checkpoint=none.pth", "none.pth"),
  Case("file a folder", f"{IMPORT} --checkpoint=run", "run: is a folder"),
  Case("file empty", IMPORT, "model.pth ... empty", holds("model.pth", "")),
  Case("file that cannot be read", IMPORT, "model.pth", unreadable("model.pth")),
  Case("file truncated", IMPORT, "model.pth ... again", cut("model.pth")),
  Case("file of text", IMPORT, "model.pth ... a text file", holds("model.pth",
       "weights")),
  Case("malicious pickle", IMPORT, "model.pth ... mkdir", _bomb_pth),
  Case("plain pickle", IMPORT, "model.pth ... pickle", holds("model.pth",
       pickle.dumps(_Bomb()))),
  Case("npz", IMPORT, "model.pth ... npz", lambda folder: shutil.copy(folder / CLIP,
       folder / "model.pth")),
  Case("no checkpoint of the original", IMPORT, "model.pth ... model_state_dict",
       _pth(model_state_dict=[1])),
  Case("another architecture", IMPORT, "model.pth ... netG",
       _pth(model_state_dict={"fc.weight": np.zeros(3, np.float32)})),
  Case("a negative step", IMPORT, "model.pth ... -3", _pth(step=-3)),
  Case("unknown speaker", f"{IMPORT} --speaker=nobody", "'nobody' ... oliver"),
  Case("workdir in use", f"{IMPORT} --workdir=run", "--workdir=run ... another"),
  Case("workdir below a file", f"{IMPORT} --workdir=talk.wav/x", "talk.wav/x"),
  Case("config not there", f"{IMPORT} --config=none.py", "none.py ... configs/"),
  Case("config of another model", f"{IMPORT} --config=tiny.py --config.template.size=9",
       "template.size ... 9"),
  Case("a pose VAE that is not wanted", f"{IMPORT} --pose_vae=model.pth",
       "--pose_vae=model.pth"),
  Case("data that is not there",
       f"{IMPORT} --config=tiny.py --config.dataset.root=none", "none"),
]
EXPORT_CASES = [
  Case("workdir not there", f"{EXPORT} --workdir=none", "none: no such folder"),
  Case("no output", "--workdir=run", "--output"),
  Case("step not there", f"{EXPORT} --step=4", "--step=4"),
  Case("output below a file", f"{EXPORT} --output=talk.wav/x", "talk.wav/x"),
  Case("output a folder", f"{EXPORT} --output=packs", "packs"),
  Case("checkpoint without its arrays", EXPORT, "checkpoints/3",
       gone(f"{STATE}/*/d/*")),
]
TORCH_CASES = [
  Case("gesture model as VAE", f"{EXPORT} --pose_vae=run", "--pose_vae=run"),
]
PORTABLE_CASES = [Case("pose VAE", f"{EXPORT} --workdir=vae", "vae ... pose VAE")]
REPORT_CASES = [
  Case("no config", "", "--config"),
  Case("config not there", "--config=none.py", "none.py"),
  Case("no seeds", "--config=tiny.py --seeds=0", "seeds"),
  Case("output below a file", "--config=tiny.py --output_dir=talk.wav/x", "talk.wav/x"),
  Case("field that cannot be",
       "--config=tiny.py --output_dir=new --config.batch_size=0", "batch_size is 0"),
  Case("data that are not there", "--config=tiny.py --output_dir=new "
       "--config.dataset.name=speech2gesture --config.dataset.root=none", "none"),
  Case("broken row", "--config=tiny.py --output_dir=rows", "report_row.json", both(
       lambda folder: shutil.copytree(folder / "vae", folder / "rows/pose_vae_0"),
       holds("rows/pose_vae_0/report_row.json", '{"scores": '))),
]
PREP_CASES = [
  Case("no videos", "--speaker=eve --root=new", "--videos"),
  Case("videos not there", f"{NEW_STAGE} --videos=none", "--videos=none"),
  Case("videos a file", f"{NEW_STAGE} --videos=talk.wav", "--videos=talk.wav"),
  Case("folder without videos", f"{NEW_STAGE} --videos=run",
       "--videos=run: holds no videos"),
  Case("speaker as a path", f"{NEW_STAGE} --speaker=../eve", "--speaker='../eve'"),
  Case("unknown backend", f"{NEW_STAGE} --keypoints=alphapose", "alphapose"),
  Case("unknown split", f"{NEW_STAGE} --split_by=day", "day"),
  Case("no workers", f"{NEW_STAGE} --workers=0", "--workers=0"),
  Case("root below a file", f"{NEW_STAGE} --root=talk.wav", "--root=talk.wav"),
  Case("no folder of JSON", f"{NEW_STAGE} --openpose_dir=none", "--openpose_dir=none"),
  Case("video of text", NEW_STAGE, "talk.mp4", holds(VIDEO, "no video")),
  Case("video truncated", NEW_STAGE, "talk.mp4", cut(VIDEO)),
  Case("video empty", NEW_STAGE, "talk.mp4", holds(VIDEO, "")),
  Case("video without sound", NEW_STAGE, "talk.mp4: has no sound track",
       lambda folder: data_prep_helpers.write_video(folder / VIDEO, [0, 0.1])),
]
KEYPOINT_CASES = [
  Case("JSON truncated", STAGE, "talk_000000000007", undone("keypoints", cut(FRAME))),
  Case("JSON of something else", STAGE, "talk_000000000007 ... people",
       undone("keypoints", holds(FRAME, "[1]"))),
  Case("JSON of too few points", STAGE, "talk_000000000007 ... 1 points",
       undone("keypoints", holds(FRAME,
       '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}'))),
  Case("a frame missing", STAGE, "frames 7", gone(FRAME)),
  Case("frames missing at the end", STAGE, "70 JSON files ... 140 pictures",
       undone("keypoints", gone("json/talk/talk_00000000007*"),
              gone("json/talk/talk_0000000000[89]*"),
       gone("json/talk/talk_0000000001*"))),
  Case("source truncated", STAGE, "source.json",
       undone("keypoints", cut(f"{WORK}/source.json"))),
]
STAGES_OUT_OF_ORDER = [
  Case("stage before its time", NEW_STAGE, "talk ... python -m data_prep."),
]
CLEAN_CASES = [
  Case("keypoints truncated", STAGE, "keypoints.npz ... data_prep.prepare",
       undone("clean", cut(f"{WORK}/keypoints.npz"))),
  Case("keypoints of another shape", STAGE, "keypoints.npz ... data_prep.prepare",
       undone("clean", arrays(f"{WORK}/keypoints.npz", origin=np.zeros(3, np.int8)))),
  Case("canvas of another kind", STAGE, "source.json",
       undone("clean", field(f"{WORK}/source.json", "canvas"))),
]
SPLIT_CASES = [
  Case("clips.json truncated", STAGE, "clips.json", cut(f"{WORK}/clips.json")),
]
STATISTICS_CASES = [
  Case("pack not there", NEW_STAGE, "new"),
  Case("clip truncated", STAGE, "talk-", lambda folder: [
       cut(str(p.relative_to(folder)))(folder)
       for p in (folder / "prepared/eve/clips/npz").iterdir()]),
]
INSPECT_CASES = [
  Case("unknown video", f"{INSPECT} --clip=walk", "--clip=walk ... talk"),
  Case("stretch outside", f"{INSPECT} --clip=talk-100-9999", "--clip=talk-100-9999"),
  Case("clean.npz truncated", INSPECT, "clean.npz", cut(f"{WORK}/clean.npz")),
  Case("picture gone", INSPECT, "video.mp4", gone(f"{WORK}/video.mp4")),
  Case("sound gone", INSPECT, "audio.wav", gone(f"{WORK}/audio.wav")),
  Case("output below a file", f"{INSPECT} --output=talk.wav/x.mp4", "talk.wav/x.mp4"),
]
ENVIRONMENT_CASES = [
  Case("folder in use", "--path=run", "run: holds something else"),
  Case("no such Python", "--path=new --python=none", "none: cannot be run"),
]

TABLES = {
  "train.py": TRAIN_FLAGS + TRAIN_PACK + TRAIN_RESUME,
  "eval.py": EVAL_CASES,
  "demo.py": DEMO_CASES,
  "-m sdt_jax.interop.import_torch": IMPORT_CASES,
  "-m sdt_jax.interop.export_torch": EXPORT_CASES + TORCH_CASES,
  "-m sdt_jax.interop.export_stablehlo": EXPORT_CASES + PORTABLE_CASES,
  "-m sdt_jax.evaluation.report": REPORT_CASES,
  "-m data_prep.prepare": PREP_CASES,
  "-m data_prep.transcode": PREP_CASES[-4:],
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
  """A workdir as a training leaves it after 3 steps, untrained."""
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
  """Path -> digest of its content, "" for a folder, of all that must not change."""
  found = {
    str(path.relative_to(folder)): _digest(path) if path.is_file() else ""
    for path in folder.rglob("*")
  }
  return {name: of for name, of in found.items() if not _may_come(name, of)}


def _may_come(name: str, digest: str) -> bool:
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
