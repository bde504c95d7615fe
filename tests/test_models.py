"""Every network: forward passes equal the original's; further properties."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax import audio
from sdt_jax.interop import names
from sdt_jax.models import layers, operations
from sdt_jax.models.code_mapper import CodeDiscriminator, CodeMapper
from sdt_jax.models.discriminator import MotionDiscriminator
from sdt_jax.models.generator import Generator
from sdt_jax.models.pose_vae import PoseVAE

MEL = golden.load("mel")["mel"]


def _generator(experiment):
  module = Generator(norm="bn" if experiment == "s2g" else "in_star")
  recorded = golden.load(f"generator_{experiment}")
  code = None if experiment == "s2g" else jnp.asarray(recorded["code"])
  init = functools.partial(module.init, num_frames=64)
  target = jax.eval_shape(init, jax.random.key(0), MEL, code)
  variables = names.to_flax(
    golden.state_dict(f"voice2pose_{experiment}"), names.GENERATOR, target, "netG."
  )
  return module, variables, code, recorded


@pytest.mark.parametrize("experiment", ["s2g", "sdt_bp"])
def test_generator_equals_the_original_in_evaluation(experiment):
  module, variables, code, recorded = _generator(experiment)
  features = module.apply(
    variables, MEL, 64, False, method=lambda m, *args: m.audio_encoder(*args)
  )
  poses = module.apply(variables, MEL, code, 64)
  theirs = recorded["audio_features_eval"].swapaxes(1, 2)
  assert golden.relative_error(features, theirs) < 1e-5
  assert golden.relative_error(poses, recorded["poses_eval"]) < 1e-5


@pytest.mark.parametrize(("experiment", "tolerance"), [("s2g", 1e-4), ("sdt_bp", 1e-5)])
def test_generator_equals_the_original_in_training(experiment, tolerance):
  module, variables, code, recorded = _generator(experiment)
  poses, _ = module.apply(variables, MEL, code, 64, train=True, mutable=["batch_stats"])
  assert golden.relative_error(poses, recorded["poses_train"]) < tolerance


def test_batch_statistics_equal_the_original_after_two_passes():
  module, variables, _, recorded = _generator("s2g")
  apply = functools.partial(module.apply, mutable=["batch_stats"])
  # The recording ran the audio encoder once alone and once inside the generator.
  encode = lambda m, *args: m.audio_encoder(*args)  # noqa: E731
  _, updated = apply(variables, MEL, 64, True, method=encode)
  _, updated = apply(variables | updated, MEL, None, 64, train=True)
  ours = names.from_flax(updated, names.GENERATOR)
  prefix = "after_two_forwards/"
  theirs = {k[len(prefix) :]: v for k, v in recorded.items() if k.startswith(prefix)}
  assert len(theirs) == 6
  for name, array in theirs.items():
    assert golden.relative_error(ours[name], array) < 1e-5, name


@pytest.mark.parametrize("experiment", ["s2g", "sdt_bp"])
def test_generator_takes_any_length(experiment):
  module, variables, code, recorded = _generator(experiment)
  frames = int(recorded["long_num_frames"])
  sound = golden.speech()[None, : int(recorded["long_num_samples"])]
  mel = audio.mel_spectrogram(jnp.asarray(sound))
  template = None if code is None else code[:1]
  poses = module.apply(variables, mel, template, frames)
  assert golden.relative_error(poses, recorded["poses_long_eval"]) < 1e-4


@pytest.mark.parametrize("train", [False, True])
def test_discriminator_equals_the_original(train):
  recorded = golden.load("discriminator")
  module = MotionDiscriminator()
  init = functools.partial(module.init, train=True)
  target = jax.eval_shape(init, jax.random.key(0), recorded["motion"])
  variables = names.to_flax(
    golden.state_dict("voice2pose_s2g_model"), names.DISCRIMINATOR, target, "netD_pose."
  )
  score, _ = module.apply(
    variables, recorded["motion"], train=train, mutable=["batch_stats"]
  )
  theirs = recorded["score_train" if train else "score_eval"]
  assert golden.relative_error(score, theirs) < (1e-4 if train else 1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_pose_vae_equals_the_original(train):
  recorded = golden.load("autoencoder")
  module = PoseVAE()
  init = functools.partial(module.init, train=True)
  noise = np.zeros((3, 32), np.float32)
  target = jax.eval_shape(init, jax.random.key(0), recorded["poses"], noise)
  variables = names.to_flax(
    golden.state_dict("pose2pose"), names.POSE_VAE, target, "ae."
  )
  apply = functools.partial(module.apply, variables, mutable=["batch_stats"])
  (mean, log_var), _ = apply(
    recorded["poses"], train, method=lambda m, *args: m.encoder(*args)
  )
  decoded, _ = apply(recorded["z"], train, method=lambda m, *args: m.decoder(*args))
  kind, tolerance = ("train", 1e-4) if train else ("eval", 1e-5)
  assert golden.relative_error(mean, recorded[f"mu_{kind}"]) < tolerance
  assert golden.relative_error(log_var, recorded[f"logvar_{kind}"]) < tolerance
  assert golden.relative_error(decoded, recorded[f"decoded_{kind}"]) < tolerance


def _sequence_network(module, inputs, table, prefix):
  """Variables of a network of the sequence model."""
  init = functools.partial(module.init, train=True)
  target = jax.eval_shape(init, jax.random.key(0), inputs)
  return names.to_flax(golden.state_dict("sequence"), table, target, prefix)


@pytest.mark.parametrize("train", [False, True])
def test_the_sequence_model_equals_the_original(train):
  recorded = golden.load("code_mapper")
  kind, tolerance = ("train", 1e-4) if train else ("eval", 1e-5)
  noise = golden.recipe("code_noise", (2, 256, 64)).swapaxes(1, 2)
  mapper, discriminator = CodeMapper(), CodeDiscriminator()
  variables = _sequence_network(mapper, noise, names.CODE_MAPPER, "netG.code_mapper.")
  codes, _ = mapper.apply(variables, noise, train, mutable=["batch_stats"])
  theirs = recorded[f"code_sequence_{kind}"].swapaxes(1, 2)
  assert golden.relative_error(codes, theirs) < tolerance

  generator = Generator()
  init = functools.partial(generator.init, num_frames=64)
  target = jax.eval_shape(init, jax.random.key(0), MEL, codes)
  weights = {
    name: array
    for name, array in golden.state_dict("sequence").items()
    if "code_mapper" not in name
  }
  variables = names.to_flax(weights, names.GENERATOR, target, "netG.")
  poses = generator.apply(variables, MEL, theirs, 64, train)
  assert golden.relative_error(poses, recorded[f"poses_{kind}"]) < tolerance

  rows = golden.recipe("mu_real", (6, 32))
  table = names.CODE_DISCRIMINATOR
  variables = _sequence_network(discriminator, rows, table, "netD_code.")
  score, _ = discriminator.apply(variables, rows, train, mutable=["batch_stats"])
  assert golden.relative_error(score[:, None], recorded[f"score_{kind}"]) < tolerance


def test_initial_weights_have_the_scale_of_pytorch():
  module = Generator()
  variables = module.init(jax.random.key(0), MEL[:1], jnp.zeros((1, 32)), 64)
  kernel = variables["params"]["unet"]["e1"]["conv"]["kernel"]
  output = variables["params"]["output"]["conv"]
  assert np.isclose(np.std(kernel), np.sqrt(2 / (3 * 256)), rtol=0.02)
  for array in output.values():
    assert np.isclose(np.abs(array).max(), 1 / 16, rtol=0.02)


def _small(norm):
  """A small generator with random parameters and running statistics."""
  module = Generator(channels=8, audio_channels=(4, 4, 8, 8), norm=norm)
  init = functools.partial(module.init, num_frames=32)
  shapes = jax.eval_shape(
    init, jax.random.key(0), jnp.zeros((1, 80, 214)), jnp.zeros((1, 5))
  )
  rng = np.random.default_rng(0)
  return module, jax.tree.map(lambda x: rng.uniform(-0.2, 0.8, x.shape) ** 2, shapes)


# Normalising over the 3 time steps of the deepest level amplifies rounding errors.
@pytest.mark.parametrize(
  ("norm", "frame_wise", "tolerance"),
  [
    ("in_star", False, 1e-5),
    ("bn", True, 1e-5),
    ("in", True, 1e-4),
    ("gn4", False, 1e-4),
  ],
)
@pytest.mark.usefixtures("compile_fast")
def test_padding_after_a_sequence_does_not_change_its_poses(
  norm, frame_wise, tolerance
):
  module, variables = _small(norm)
  apply = jax.jit(module.apply, static_argnums=3)
  lengths, longest = [81, 32], 96
  rng = np.random.default_rng(0)
  mel = rng.uniform(size=(2, 80, audio.mel_frames_over(longest)))
  template = rng.standard_normal((2, longest, 5) if frame_wise else (2, 5))
  together = apply(variables, mel, template, longest, lengths=jnp.asarray(lengths))
  for i, length in enumerate(lengths):
    own_mel = mel[i : i + 1, :, : audio.mel_frames_over(length)]
    own_template = template[i : i + 1, :length] if frame_wise else template[i : i + 1]
    alone = apply(variables, own_mel, own_template, length)
    assert golden.relative_error(together[i, :length], alone[0]) < tolerance, length


def test_group_norm_equals_its_definition():
  """Each group of channels has mean 0 and variance 1 over its channels and time."""
  x = np.random.default_rng(0).normal(3, 2, (2, 5, 7, 12)).astype(np.float32)
  y, _ = layers.GroupNorm(3).init_with_output(jax.random.key(0), x, None)
  groups = np.asarray(y).reshape(2, 5, 7, 3, 4)
  np.testing.assert_allclose(groups.mean((1, 2, 4)), 0, atol=1e-5)
  np.testing.assert_allclose(groups.var((1, 2, 4)), 1, rtol=1e-4)
  one, _ = layers.GroupNorm(12).init_with_output(jax.random.key(0), x, None)
  per_channel = operations.instance_norm(x, None, axes=(1, 2))
  np.testing.assert_allclose(one, per_channel, atol=1e-5)
