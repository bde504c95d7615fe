"""Six optimisation steps of every experiment equal those of the original."""

import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdt_jax import keypoints as kp
from sdt_jax.interop import names
from sdt_jax.methods.base import AXIS, Condition
from sdt_jax.methods.pose2pose import Pose2Pose
from sdt_jax.methods.sequence import SequenceModel
from sdt_jax.methods.voice2pose import Voice2Pose
from sdt_jax.models import operations
from sdt_jax.models.code_mapper import CodeDiscriminator, CodeMapper
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.models.pose_vae import PoseEncoder, PoseVAE

NUM_STEPS, BANK = 6, 10


def _convolve_by_taps(x, kernel, stride, padding):
  """`operations.convolve` by matrix products; XLA convolves float64 very slowly."""
  sizes = kernel.shape[:-2]
  x = jnp.pad(x, [(0, 0), *[(padding, padding)] * len(sizes), (0, 0)])
  ends = [n - size + 1 for n, size in zip(x.shape[1:-1], sizes, strict=True)]
  windows = (
    tuple(slice(t, t + end, stride) for t, end in zip(tap, ends, strict=True))
    for tap in np.ndindex(*sizes)
  )
  taps = kernel.reshape(-1, *kernel.shape[-2:])
  return sum(x[:, *w] @ tap for w, tap in zip(windows, taps, strict=True))


@pytest.fixture
def float64(monkeypatch):
  """Removes our half of the rounding errors; the recordings are in float32."""
  monkeypatch.setattr(operations, "convolve", _convolve_by_taps)
  with jax.enable_x64(True):
    yield


def _widened(tree):
  return jax.tree.map(
    lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x, tree
  )


def _voice2pose(experiment, optimizer=None):
  """Model and state before the first step, with the recorded initial weights."""
  gan = experiment == "s2g"
  has_sequence = experiment == "sdt_vae_sequence"
  model = Voice2Pose(
    generator=Generator(norm="bn" if gan else "in_star", axis_name=AXIS),
    discriminator=MotionDiscriminator(axis_name=AXIS) if gan else None,
    template={"s2g": "none", "sdt_bp": "bp"}.get(experiment, "vae"),
    clip_template_shape=(32,),
    kl_weight=0.1,
    gan_weight=0.1,
    sequence=_sequence() if has_sequence else None,
    optimizers=_optimizers(
      *("generator", "templates", "discriminator", "code_mapper"),
      "code_discriminator",
      optimizer=optimizer,
    ),
  )
  state = model.init(jax.random.key(0), BANK)
  weights = golden.state_dict("voice2pose_s2g_model" if gan else "voice2pose_sdt_bp")
  _set_network(state, "generator", weights, names.GENERATOR, "netG.")
  if gan:
    _set_network(state, "discriminator", weights, names.DISCRIMINATOR, "netD_pose.")
  if has_sequence:
    for name, (table, prefix) in SEQUENCE.items():
      _set_network(state, name, golden.state_dict("sequence"), table, prefix)
  if model.template == "vae":
    state.bank["mean"] = jnp.asarray(golden.recipe("external_code", (BANK, 32)))
  return model, state


SEQUENCE = {
  "code_mapper": (names.CODE_MAPPER, "netG.code_mapper."),
  "code_discriminator": (names.CODE_DISCRIMINATOR, "netD_code."),
  "pose_encoder": (names.POSE_ENCODER, "pose_encoder."),
}


def _sequence() -> SequenceModel:
  return SequenceModel(
    mapper=CodeMapper(axis_name=AXIS),
    discriminator=CodeDiscriminator(axis_name=AXIS),
    encoder=PoseEncoder(),
  )


def _pose2pose(optimizer=None):
  """As `_voice2pose`, for the pose VAE."""
  model = Pose2Pose(
    vae=PoseVAE(axis_name=AXIS),
    kl_weight=0.1,
    optimizers=_optimizers("vae", optimizer=optimizer),
  )
  state = model.init(jax.random.key(0), BANK)
  weights = golden.state_dict("pose2pose")
  _set_network(state, "vae", weights, names.POSE_VAE, "ae.")
  return model, state


def _set_network(state, name, weights, table, prefix):
  variables = names.to_flax(weights, table, state.network(name), prefix)
  state.params[name] = variables["params"]
  state.batch_stats[name] = variables.get("batch_stats", {})


def _optimizers(*entries, optimizer=None):
  optimizer = optimizer or optax.adam(1e-4, b1=0.9, b2=0.999, eps=1e-8)
  return dict.fromkeys(entries, optimizer)


def _batch(step: int, clips: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {
    "poses": golden.recipe(f"poses/step{step}", (4, 64, *kp.UPPER_BODY.shape)),
    "index": np.array([(3 * step + i) % BANK for i in range(4)], np.int32),
    **clips,
  }


def _voice2pose_batch(step: int) -> dict[str, np.ndarray]:
  starts = [(o + 1111 * step) % 120_000 for o in (0, 30_000, 60_000, 100_000)]
  return _batch(
    step, {"audio": np.stack([golden.speech()[s : s + 68_266] for s in starts])}
  )


def _pose2pose_batch(step: int) -> dict[str, np.ndarray]:
  return _batch(step, {"noise": golden.recipe(f"eps/step{step}", (4, 32))})


def _sequence_batch(step: int) -> dict[str, np.ndarray]:
  noise = golden.recipe(f"code_noise/step{step}", (4, 256, 64)).swapaxes(1, 2)
  return _voice2pose_batch(step) | {"noise": noise}


def _run(model, state, batches):
  """State after the last step, and the metrics of each step."""

  # The axis "data" has one entry, as on one device.
  def step(state, batch):
    noise = batch.pop("noise", None)  # recorded, instead of drawn
    return model.update(state, batch, noise)[:2]

  step = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=AXIS))
  history = []
  for batch in batches:
    state, metrics = step(state, {k: v[None] for k, v in batch.items()})
    state, metrics = jax.tree.map(lambda x: x[0], (state, metrics))
    history.append({k: float(v) for k, v in metrics.items()})
  return state, history


def _gradient_norms(state_before, state_after, name, table):
  """Norms by parameter name of the original; a step of SGD(1) is the gradient."""
  moved = jax.tree.map(
    lambda a, b: a - b, state_before.params[name], state_after.params[name]
  )
  arrays = names.from_flax({"params": moved}, table)
  return {k: np.linalg.norm(v) for k, v in arrays.items()}


def _assert_close(ours: dict, theirs: dict, rtol: float, score_atol=0.0):
  assert theirs
  for name, value in theirs.items():
    atol = score_atol if "score" in name else 0.0
    assert ours[name] == pytest.approx(value, rel=rtol, abs=atol), name


def _distance(ours, theirs) -> float:
  """Relative Euclidean distance; single values differ slightly more after six steps."""
  return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _expected(losses: dict[str, float]) -> dict[str, float]:
  """The weighted losses that the original reports, from our unweighted terms."""
  reported = {"G_reg_loss": losses["l1"], "G_loss": losses["loss"]}
  if "kl" in losses:
    reported["G_clipcode_kl_loss"] = 0.1 * losses["kl"]
  if "gan" in losses:
    reported |= {
      "G_pose_gan_loss": 0.1 * losses["gan"],
      "D_pose_gan_loss": 0.1 * losses["d_gan"],
      "pose_score_fake": losses["score_fake"],
      "pose_score_real": losses["score_real"],
    }
  if "code_gan" in losses:
    reported |= {
      "G_seq_diff_loss": losses["code_smoothness"],
      "G_code_seq_kl_loss": losses["code_kl"],
      "G_code_gan_loss": losses["code_gan"],
      "D_code_gan_loss": losses["code_d_gan"],
      "code_score_fake": losses["code_score_fake"],
      "code_score_real": losses["code_score_real"],
      "code_sequence_gen_std": losses["code_std"],
    }
  return reported


# Losses that depend on the discriminator's score of generated motion amplify rounding
# errors, since Adam's first updates have the size of the learning rate, however small
# the gradient. Changing the inputs by 1e-6 changes these losses by up to 1e-2 at step 2
# and 9e-2 at step 5, the others by 2e-3.
_CHAOTIC = {"G_pose_gan_loss", "D_pose_gan_loss", "pose_score_fake", "G_loss"}

# The code discriminator is calmer: the same change of the inputs changes these by up to
# 2.1e-3 at step 5, and all others by less than 4e-4.
_CHAOTIC_CODES = {"G_code_gan_loss", "D_code_gan_loss", "code_score_real"}


def _assert_history(history, recorded, reported, chaotic_names=(), chaotic_rtol=0.12):
  for step, theirs in enumerate(json.loads(str(recorded["losses"]))):
    chaotic = {k: v for k, v in theirs.items() if step > 1 and k in chaotic_names}
    stable = {k: v for k, v in theirs.items() if k not in chaotic}
    ours = reported(history[step])
    # The targets of scores are 0 and 1; a mean score near 0 has no relative accuracy.
    _assert_close(ours, stable, *((1e-4, 0) if step == 0 else (2e-3, 2e-4)))
    if chaotic:
      _assert_close(ours, chaotic, chaotic_rtol)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["s2g", "sdt_bp", "sdt_vae"])
def test_voice2pose_trains_like_the_original(experiment, request):
  recorded = golden.load(f"train_{experiment}")
  if experiment != "s2g":
    request.getfixturevalue("float64")
  model, state = _voice2pose(experiment)
  batches = [_voice2pose_batch(s) for s in range(NUM_STEPS)]
  if experiment != "s2g":
    state, batches = _widened((state, batches))
  end, history = _run(model, state, batches)

  _assert_history(history, recorded, _expected, _CHAOTIC if experiment == "s2g" else ())
  norms = json.loads(str(recorded["param_norms_end"]))
  ours = names.from_flax(end.network("generator"), names.GENERATOR)
  _assert_close({k: np.linalg.norm(v) for k, v in ours.items()}, norms, 1e-3)
  if experiment == "sdt_bp":
    error = golden.relative_error(end.templates(), recorded["clip_codes_end"])
    assert error < 1e-2
  code = None if experiment == "s2g" else golden.recipe("code", (2, 32))
  condition = Condition(mel=golden.load("mel")["mel"], template=code)
  poses = model.sample(end, condition, 64, jax.random.key(0))
  # In float32 on both sides, sdt_bp differs by 0.0121 and sdt_vae by 0.0125; in
  # float64, our result is exact, and 0.0097 and 0.0094 are the recording's own error.
  # For s2g, changing the inputs by 1e-6 changes these poses by 0.11.
  tolerance = 0.25 if experiment == "s2g" else 1e-2
  assert _distance(poses, recorded["poses_end_eval"]) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["s2g", "sdt_bp", "sdt_vae"])
def test_voice2pose_gradients_equal_the_original(experiment):
  recorded = golden.load(f"train_{experiment}")
  model, state = _voice2pose(experiment, optax.sgd(1.0))
  end, _ = _run(model, state, [_voice2pose_batch(0)])
  theirs = json.loads(str(recorded["grad_norms_step0"]))
  ours = _gradient_norms(state, end, "generator", names.GENERATOR)
  _assert_close(ours, theirs, 1e-3)
  if experiment == "s2g":
    theirs = json.loads(str(recorded["disc_grad_norms_step0"]))
    ours = _gradient_norms(state, end, "discriminator", names.DISCRIMINATOR)
    _assert_close(ours, theirs, 1e-3)
  if experiment == "sdt_bp":
    gradient = state.templates() - end.templates()
    assert golden.relative_error(gradient, recorded["code_grad_step0"]) < 1e-3


@pytest.mark.slow
def test_the_sequence_model_trains_like_the_original():
  recorded = golden.load("train_sdt_vae_sequence")
  model, state = _voice2pose("sdt_vae_sequence")
  end, history = _run(model, state, [_sequence_batch(s) for s in range(NUM_STEPS)])

  _assert_history(history, recorded, _expected, _CHAOTIC_CODES, 1e-2)
  norms = json.loads(str(recorded["param_norms_end"]))
  networks = {"generator": (names.GENERATOR, "netG."), **SEQUENCE}
  ours = {}
  for name, (table, prefix) in networks.items():
    ours |= names.from_flax(end.network(name), table, prefix)
  wanted = {k: v for k, v in norms.items() if not k.endswith("num_batches_tracked")}
  assert len(wanted) == 26 + (7 * 5 + 2) * 2
  _assert_close({k: np.linalg.norm(v) for k, v in ours.items()}, wanted, 1e-3)
  frozen = (s.network("pose_encoder") for s in (state, end))
  jax.tree.map(np.testing.assert_array_equal, *frozen)

  noise = golden.recipe("code_noise", (2, 256, 64)).swapaxes(1, 2)
  codes = model.draw_templates(end, noise)
  # Differs by 0.0025; changing the inputs by 1e-6 makes that 0.0044.
  assert _distance(codes.swapaxes(1, 2), recorded["code_sequence_end_eval"]) < 1e-2
  condition = Condition(mel=golden.load("mel")["mel"], template=codes)
  poses = model.sample(end, condition, 64, jax.random.key(0))
  # Differs by 0.0116, with the recorded codes too; see sdt_vae above.
  assert _distance(poses, recorded["poses_end_eval"]) < 3e-2


@pytest.mark.slow
def test_the_sequence_models_gradients_equal_the_original():
  recorded = golden.load("train_sdt_vae_sequence")
  model, state = _voice2pose("sdt_vae_sequence", optax.sgd(1.0))
  batch = _sequence_batch(0)
  end, _ = _run(model, state, [batch])
  theirs = json.loads(str(recorded["grad_norms_step0"]))
  mapper = _gradient_norms(state, end, "code_mapper", names.CODE_MAPPER)
  ours = _gradient_norms(state, end, "generator", names.GENERATOR)
  ours |= {f"code_mapper.{name}": norm for name, norm in mapper.items()}
  _assert_close(ours, theirs, 1e-3)
  theirs = json.loads(str(recorded["disc_grad_norms_step0"]))
  ours = _gradient_norms(state, end, "code_discriminator", names.CODE_DISCRIMINATOR)
  _assert_close(ours, theirs, 1e-3)

  codes, _ = model.sequence.mapper.clone(axis_name=None).apply(
    state.network("code_mapper"), batch["noise"], train=True, mutable=["batch_stats"]
  )
  theirs = recorded["code_sequence_step0"].swapaxes(1, 2)
  assert golden.relative_error(codes, theirs) < 1e-4
  encoder = state.network("pose_encoder")
  mean, _ = model.sequence.encoder.apply(encoder, batch["poses"], train=False)
  assert golden.relative_error(mean, recorded["mu_gt_step0"]) < 1e-5


def test_pose2pose_trains_like_the_original():
  recorded = golden.load("train_pose2pose")
  model, state = _pose2pose()
  batches = [_pose2pose_batch(s) for s in range(NUM_STEPS)]
  end, history = _run(model, state, batches)
  _assert_history(
    history,
    recorded,
    lambda ours: {
      "reg_loss": ours["l1"],
      "kl_loss": 0.1 * ours["kl"],
      "loss": ours["loss"],
    },
  )
  norms = json.loads(str(recorded["param_norms_end"]))
  ours = names.from_flax(end.network("vae"), names.POSE_VAE)
  _assert_close({k: np.linalg.norm(v) for k, v in ours.items()}, norms, 1e-3)
  inputs = golden.load("autoencoder")
  mean, _ = model.encode(end, inputs["poses"])
  decoded = model.decode(end, inputs["z"])
  assert golden.relative_error(mean, recorded["mu_end"]) < 1e-2
  assert golden.relative_error(decoded, recorded["decoded_end"]) < 1e-2
  # Rows of clips that were in no batch stay zero.
  seen = {int(i) for batch in batches for i in batch["index"]}
  rows = np.abs(np.asarray(end.bank["mean"])).sum(axis=1)
  assert {i for i in range(BANK) if rows[i] > 0} == seen


def test_pose2pose_gradients_equal_the_original():
  recorded = golden.load("train_pose2pose")
  model, state = _pose2pose(optax.sgd(1.0))
  end, _ = _run(model, state, [_pose2pose_batch(0)])
  theirs = json.loads(str(recorded["grad_norms_step0"]))
  _assert_close(_gradient_norms(state, end, "vae", names.POSE_VAE), theirs, 1e-3)
