"""A method that only this file knows is trained, scored, resumed and rendered.

It has what the built-in methods do not: random numbers at generation time, and averaged
weights that it generates with.
"""

import dataclasses
import json
import pathlib
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
import tiny

import sdt_jax
from sdt_jax import audio, methods, workdir
from sdt_jax.errors import UserError
from sdt_jax.evaluation import run as evaluation
from sdt_jax.interop import portable
from sdt_jax.methods import base, train_state
from sdt_jax.synthesis import demo
from sdt_jax.training import runs


class _Noisy(nn.Module):
  """Mel spectrogram and noise -> poses, by one dense layer."""

  @nn.compact
  def __call__(self, mel, noise):
    frames = jax.image.resize(
      jnp.swapaxes(mel, 1, 2), (*noise.shape[:2], mel.shape[1]), "linear"
    )
    inputs = jnp.concatenate([frames, noise], axis=-1)
    shape = base.CLIP_SHAPE[1:]
    return nn.Dense(int(np.prod(shape)))(inputs).reshape(*noise.shape[:2], *shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(base.Method):
  networks: ClassVar[tuple[str, ...]] = ("noisy",)
  title: ClassVar[str] = "toy"

  network: _Noisy = dataclasses.field(default_factory=_Noisy)

  @classmethod
  def from_config(cls, config, steps_per_epoch):
    adam = base.adam(config, steps_per_epoch)
    return cls(optimizers={"noisy": adam})

  @property
  def inputs(self):
    return frozenset({"mel"})

  @property
  def template_shape(self):
    return None

  def init(self, key, num_clips):
    noise = jnp.zeros((1, audio.CLIP_FRAMES, 2))
    params = self.network.init(key, jnp.zeros((1, *base.CLIP_MEL_SHAPE)), noise)
    both = {"noisy": params["params"], "average": params["params"]}
    return train_state.create(both, {"noisy": {}}, {}, self.optimizers)

  def train_step(self, state, batch, key):
    noise = jax.random.normal(key, (*batch["poses"].shape[:2], 2))

    def loss_fn(params):
      mel = audio.mel_spectrogram(batch["audio"])
      poses = self.network.apply({"params": params}, mel, noise)
      return jnp.mean(jnp.abs(poses - batch["poses"])), poses

    (loss, poses), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params["noisy"]
    )
    grads = jax.lax.pmean(grads, base.AXIS)
    state = train_state.apply_gradients(state, {"noisy": grads}, self.optimizers)
    average = optax.incremental_update(
      state.params["noisy"], state.params["average"], 0.5
    )
    params = state.params | {"average": average}
    state = state.replace(step=state.step + 1, params=params)
    return state, jax.lax.pmean({"loss": loss}, base.AXIS), poses

  def sample(self, state, condition, num_frames, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (num_frames, 2)))(keys)
    params = {"params": state.params["average"]}
    return self.network.apply(params, condition.mel, noise)


@pytest.fixture(scope="module", autouse=True)
def _registered():
  methods.METHODS["toy"] = Toy
  yield
  del methods.METHODS["toy"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir) -> pathlib.Path:
  path = tmp_path_factory.mktemp("toy") / "w"
  fields = {"log.dev_videos": 1, "log.video_every_epochs": 1}
  assert tiny.train(
    tiny.config(data_dir, experiment="toy", num_epochs=2, **fields), path
  )
  return path


def test_it_trains_with_sample_videos(trained):
  lines = workdir.read_metrics(trained)
  assert {line["split"] for line in lines} == {"train", "dev", "epoch"}
  assert (trained / workdir.VIDEOS / "epoch0002_dev0.mp4").stat().st_size > 1000
  state = runs.load(trained).state
  average, last = state.params["average"], state.params["noisy"]
  assert np.any(average["Dense_0"]["kernel"] != last["Dense_0"]["kernel"])


def test_it_resumes_to_the_same_bits(trained, data_dir, tmp_path):
  assert tiny.train(
    tiny.config(data_dir, experiment="toy", num_epochs=1), tmp_path / "w"
  )
  assert tiny.train(
    tiny.config(data_dir, experiment="toy", num_epochs=2), tmp_path / "w"
  )
  states = [runs.load(path).state for path in (trained, tmp_path / "w")]
  jax.tree.map(np.testing.assert_array_equal, *states)


def test_it_is_evaluated(trained):
  file = evaluation.evaluate_run(trained, evaluation.Options())
  scores = json.loads(file.read_text())["metrics"]
  assert scores["l2"]["value"] > 0
  # Evaluation draws the same noise as the validation of the last epoch.
  last = [m for m in workdir.read_metrics(trained) if m["split"] == "dev"][-1]
  assert scores["lip_sync"]["value"] == pytest.approx(last["lip_sync"], rel=1e-5)


def test_it_is_rendered_with_noise_of_its_own_for_each_seed(trained, tmp_path):
  sound = 0.1 * np.random.default_rng(0).standard_normal(audio.num_samples(70))
  soundfile.write(tmp_path / "a.wav", sound, audio.SAMPLE_RATE)
  model = sdt_jax.load(trained)
  [video] = demo.render_files(model, [tmp_path / "a.wav"], tmp_path / "out")
  assert video.stat().st_size > 1000
  one, same, other = (
    model.generate(sound, audio.SAMPLE_RATE, seed=s) for s in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - other).max() > 1e-3


def test_a_clip_does_not_depend_on_its_batch(trained):
  run = runs.load(trained)
  mel = np.random.default_rng(0).random((3, *base.CLIP_MEL_SHAPE), np.float32)
  keys = jax.random.split(jax.random.key(1), 3)
  sample = lambda rows: run.method.sample(  # noqa: E731
    run.state, base.Condition(mel=mel[rows]), audio.CLIP_FRAMES, keys[rows]
  )
  together, alone = sample(np.arange(3)), sample(np.arange(2, 3))
  np.testing.assert_allclose(together[2], alone[0], atol=1e-5)


def test_it_is_exported(trained, tmp_path):
  exported = portable.export_model(trained, tmp_path / "toy.bin")
  poses = exported.call(np.ones((1, *base.CLIP_MEL_SHAPE), np.float32))
  assert poses.shape == (1, *base.CLIP_SHAPE)


def test_an_unknown_method_is_named():
  with pytest.raises(UserError, match=r"config\.experiment is 'toys'; expected .*toy"):
    methods.check(tiny.config("data", experiment="toys"))
