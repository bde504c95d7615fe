"""Flags and keys of the original code: complete, documented, and translated."""

import re
import shlex

import programs
import pytest

from sdt_jax import config as config_lib
from sdt_jax import original_names

PROGRAMS = {"train.py": "train", "eval.py": "evaluate", "demo.py": "demo"}
DOCUMENT = (programs.ROOT / original_names.DOCUMENT).read_text()
KEYS = (programs.ROOT / "tests" / "data" / "original_keys.txt").read_text().split()


def _defined_flags(program: str) -> set[str]:
  source = programs.ROOT / "sdt_jax" / "programs" / f"{PROGRAMS[program]}.py"
  names = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source.read_text())
  assert names
  return set(names)


def test_the_table_has_every_key_of_the_original():
  assert list(original_names.table()["keys"]) == KEYS


def test_the_document_contains_the_tables():
  assert original_names.tables() in DOCUMENT


def test_what_it_is_called_here_exists():
  table = original_names.table()
  for name, entry in {**table["flags"], **table["keys"]}.items():
    assert entry.get("ours") or entry["note"], name
    for ours in entry.get("ours", []):
      program, _, flag = ours.partition(" --")
      if flag:
        assert flag in _defined_flags(program), ours
      else:
        assert ours in config_lib.BY_NAME, ours


def test_translated_values_are_allowed():
  for key, entry in original_names.table()["keys"].items():
    for value in filter(None, entry.get("values", {}).values()):
      fields = [f for f in entry["ours"] if " " not in f]
      for field in map(config_lib.BY_NAME.get, fields):
        parsed = {str: str, int: int, bool: "True".__eq__, tuple: lambda _: ()}
        assert field.allowed.test(parsed[type(field.default)](value)), key


def test_fields_and_flags_in_the_document_exist():
  fields = re.findall(r"--config\.([a-z_.]+)", DOCUMENT)
  assert {f for f in fields if f != "field"} <= set(config_lib.BY_NAME)
  for program in PROGRAMS:
    commands = re.findall(rf"`python {program} ([^`]*)`", DOCUMENT)
    assert commands
    flags = re.findall(r"--(\w+)", " ".join(commands))
    assert set(flags) <= _defined_flags(program)


BP = "configs/voice2pose_sdt_bp.yaml"
ROOT = "--config.dataset.root=datasets/speakers"
IMPORT = "python -m sdt_jax.interop.import_torch --checkpoint="
COMMANDS = {
  f"train.py --config_file {BP} --tag oliver DATASET.SPEAKER oliver SYS.NUM_WORKERS 32":
    f"python train.py --config=configs/sdt_bp.py --tag=oliver {ROOT} "
    "--config.dataset.speaker=oliver --config.dataset.num_threads=32",
  "train.py --config-file configs/voice2pose_s2g_speech2gesture.yaml TRAIN.LR 1e-3 "
  "DATASET.ROOT_DIR d VOICE2POSE.GENERATOR.NORM GN":
    "python train.py --config=configs/s2g.py --config.dataset.root=d "
    "--config.optimizer.learning_rate=1e-3 --config.generator.norm=gn16",
  "train.py --config=configs/sdt_bp.py --config.batch_size=8 TRAIN.VALIDATE False":
    "python train.py --config=configs/sdt_bp.py --config.evaluation.every_epochs=0 "
    "--config.batch_size=8",
  f"train.py --config_file={BP} --resume_from=a/c-3.pth DATASET.SPEAKER oliver":
    f"{IMPORT}a/c-3.pth --speaker=oliver --workdir=output/imported/c-3 "
    "--root=datasets/speakers && python train.py --resume=output/imported/c-3 "
    "--config.dataset.speaker=oliver",
  f"train.py --config_file {BP} --pretrain_from run":
    f"python train.py --config=configs/sdt_bp.py --pretrained=run {ROOT}",
  f"train.py --config_file {BP} --test_only --checkpoint run TEST.MULTIPLE 3":
    "python eval.py --workdir=run --num_samples=3",
  "eval.py --test-only": "python eval.py --workdir=DIR",
  "demo.py --demo_input a.wav --checkpoint c.pth DATASET.SPEAKER xing "
  "DEMO.CODE_INDEX 4 DEMO.CODE_INDEX_B 7 DEMO.MULTIPLE 5":
    f"{IMPORT}c.pth --speaker=xing --workdir=output/imported/c && "
    "python demo.py --workdir=output/imported/c --audio=a.wav "
    "--output_dir=output/demo --template=4:7 --num_samples=5",
  "train.py --config_file configs/voice2pose_sdt_vae.yaml "
  "VOICE2POSE.POSE_ENCODER.AE_CHECKPOINT output/vae":
    f"python train.py --config=configs/sdt_vae.py {ROOT} "
    "--config.template.pose_vae=output/vae",
}  # fmt: skip


@pytest.mark.parametrize("old", COMMANDS)
def test_a_command_of_the_original_is_translated(old):
  answer = original_names.answer(shlex.split(old))
  assert answer == (
    f"this is a command of the original code; here: {COMMANDS[old]} "
    f"({original_names.DOCUMENT})"
  )


def test_what_cannot_be_translated_is_named():
  answer = original_names.answer(["demo.py", "SYS.VIDEO_FORMAT", "['mp4']"])
  assert "not translated: SYS.VIDEO_FORMAT" in answer


@pytest.mark.parametrize(
  "command",
  [
    "train.py --config=configs/sdt_bp.py --tag=a --nonsense",
    "demo.py a.wav",
    "import_torch.py --checkpoint=a.pth --nonsense",
  ],
)
def test_other_commands_are_not_answered(command):
  assert original_names.answer(command.split()) is None


def test_the_programs_answer_with_one_line():
  for program, flags in (
    ("train.py", ["--config_file", BP]),
    ("eval.py", ["--workdir=run", "DATASET.SPEAKER", "oliver"]),
    ("demo.py", ["--demo_input", "a.wav"]),
    ("train.py", [f"--config={BP}"]),
  ):
    result = programs.python(program, *flags)
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: this is a command of the original code; here: ")
    assert original_names.DOCUMENT in line
