"""The versions for the CPU against the plain operations, in value and derivatives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdt_jax import keypoints as kp
from sdt_jax.models import cpu, layers, operations
from sdt_jax.models.generator import Generator

pytestmark = pytest.mark.usefixtures("compile_fast")

# Size of the map, kernel, stride, padding.
CASES = {
  "plain": ((7, 6), (3, 3), 1, 1),
  "halves even": ((8, 6), (4, 4), 2, 1),
  "halves odd": ((9, 7), (4, 4), 2, 1),
  "closes the map": ((10, 8), (6, 3), 1, 0),
  "kernel no multiple of the stride": ((11, 9), (3, 5), 2, 1),
  "stride 3": ((11, 10), (4, 3), 3, 2),
  "kernel misses the last rows": ((10, 11), (2, 3), 4, 0),
  "padding beyond the kernel": ((5, 4), (2, 1), 2, 3),
} | {
  "kernel {}, stride {}, padding {}".format(*case): ((7, 6), *case)
  for case in itertools.product([(1, 1), (2, 3), (5, 4)], [1, 2, 3], [0, 1, 2])
}


def _inputs(case, dtype):
  """Map, kernel, a tangent of each, and the gradient of the output."""
  size, kernel, stride, padding = CASES[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), dtype)
  weights = jnp.asarray(rng.normal(size=(*kernel, 3, 5)), dtype)
  options = {"stride": stride, "padding": padding}
  out = jax.eval_shape(functools.partial(operations.convolve, **options), x, weights)
  rest = (rng.normal(size=a.shape) for a in (x, weights, out))
  return (x, weights, *(jnp.asarray(a, dtype) for a in rest)), options


def _derivatives(convolve, options, x, kernel, dx, dkernel, gradient):
  """Output, its tangent, and the gradients of map and kernel."""
  convolve = functools.partial(convolve, **options)
  y, dy = jax.jvp(convolve, (x, kernel), (dx, dkernel))
  _, vjp = jax.vjp(convolve, x, kernel)
  return y, dy, *vjp(gradient)


def _both(case, dtype):
  inputs, options = _inputs(case, dtype)
  return zip(
    *(
      jax.jit(functools.partial(_derivatives, convolve, options))(*inputs)
      for convolve in (cpu.convolve, operations.convolve)
    ),
    strict=True,
  )


@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_derivatives(case):
  with jax.enable_x64(True):
    for ours, plain in _both(case, jnp.float64):
      assert ours.dtype == np.float64
      np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["halves odd", "closes the map"])
def test_bfloat16_stays_bfloat16(case):
  for ours, plain in _both(case, jnp.bfloat16):
    assert ours.dtype == jnp.bfloat16
    ours, plain = np.asarray(ours, np.float32), np.asarray(plain, np.float32)
    np.testing.assert_allclose(ours, plain, rtol=0, atol=0.02 * np.abs(plain).max())


@pytest.mark.parametrize("case", ["halves odd", "closes the map"])
def test_convolution_under_vmap(case):
  (x, kernel, dx, dkernel, gradient), options = _inputs(case, jnp.float32)
  function = functools.partial(_derivatives, cpu.convolve, options)
  y, dy, to_x, to_kernel = jax.jit(jax.vmap(function, in_axes=(0, None, 0, None, 0)))(
    x[:, None], kernel, dx[:, None], dkernel, gradient[:, None]
  )
  plain = _derivatives(operations.convolve, options, x, kernel, dx, dkernel, gradient)
  ours = y[:, 0], dy[:, 0], to_x[:, 0], to_kernel.sum(0)
  for a, b in zip(ours, plain, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"stride": (2, 1)}, "stride is"),
    ({"stride": 0}, "stride is"),
    ({"padding": ((1, 1), (0, 1))}, "padding is"),
    ({"padding": "SAME"}, "padding is"),
    ({"padding": -1}, "padding is"),
    ({"x": jnp.ones((2, 8, 3))}, "x has shape"),
    ({"x": jnp.ones((2, 2, 8, 3))}, "kernel of shape"),
    ({"kernel": jnp.ones((4, 9, 3, 5))}, "kernel of shape"),
    ({"kernel": jnp.ones((4, 4, 1, 3))}, "feature"),
  ],
)
def test_unsupported_convolutions_are_refused(changes, named):
  x, kernel = jnp.ones((2, 6, 6, 3)), jnp.ones((4, 4, 3, 5))
  supported = {"x": x, "kernel": kernel, "stride": 2, "padding": 0}
  cpu.convolve(**supported)
  with pytest.raises(ValueError, match=named):
    cpu.convolve(**(supported | changes))


def test_the_gradient_of_a_strided_block_does_not_multiply_by_zeros():
  x = jnp.ones((2, 8, 6, 3))
  block = layers.ConvBlock(5, kernel=(4, 4), stride=2, norm="in")
  variables = block.init(jax.random.key(0), x, True)

  def program(function, *inputs):
    return jax.jit(jax.grad(function, (0, 1))).lower(*inputs).compile().as_text()

  ours = program(lambda v, x: block.apply(v, x, True)[..., 0].sum(), variables, x)
  kernel = variables["params"]["conv"]["kernel"]
  plain = program(lambda k, x: operations.convolve(x, k, 2, 1).sum(), kernel, x)
  assert "_dilate=" in plain
  assert "_dilate=" not in ours


def _mask(shape):
  """Bool (batch, 1, ..., time, 1) with 5 and 3 valid steps."""
  mask = np.arange(shape[-2]) < np.array([[5], [3]])
  return jnp.asarray(mask.reshape(2, *(1,) * (len(shape) - 3), -1, 1))


@pytest.mark.parametrize(
  ("shape", "axes", "masked"),
  [
    *itertools.product(
      [(2, 5, 7, 3)], [(1, 2), (-2, -3), (2,), range(1, 4)], [False, True]
    ),
    *[((2, 9, 3), (1,), False), ((2, 9, 3), (1,), True), ((2, 9, 3), (-1,), False)],
  ],
)
def test_instance_norm_and_its_derivatives(shape, axes, masked):
  rng = np.random.default_rng(0)

  def derivatives(norm, x, dx, gradient):
    norm = functools.partial(norm, mask=_mask(shape) if masked else None, axes=axes)
    gradients = jax.grad(lambda x: jnp.vdot(jnp.sin(norm(x)), gradient))
    _, vjp = jax.vjp(norm, x)
    return *jax.jvp(norm, (x,), (dx,)), *vjp(gradient), jax.jvp(gradients, (x,), (dx,))

  with jax.enable_x64(True):
    x = jnp.asarray(rng.normal(3.0, 2.0, shape))
    inputs = x, *jnp.asarray(rng.normal(size=(2, *shape)))
    ours, plain = (
      jax.jit(functools.partial(derivatives, norm))(*inputs)
      for norm in (cpu.instance_norm, operations.instance_norm)
    )
    assert all(a.dtype == np.float64 for a in jax.tree.leaves(ours))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), ours, plain)


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"x": jnp.ones((2, 9, 3), int)}, "x has dtype int32"),
    ({"mask": jnp.ones((2, 9, 1))}, "mask has dtype float32"),
    ({"mask": jnp.ones((9, 1), bool)}, "mask has dtype bool and shape"),
    ({"axes": (3,)}, "axes are"),
    ({"axes": (4,)}, "axes are"),
    ({"axes": (1, 1)}, "duplicate"),
  ],
)
def test_unsupported_norms_are_refused(changes, named):
  supported = {"x": jnp.ones((2, 9, 3)), "mask": None, "axes": (1,)}
  cpu.instance_norm(**supported)
  with pytest.raises(ValueError, match=named):
    cpu.instance_norm(**(supported | changes))


def test_mean_of_a_large_map_is_exact():
  """The map has far more values than float32 can add one by one."""
  x = jnp.asarray(np.random.default_rng(0).random((2, 80, 427, 4)) + 10, jnp.float32)
  expected = np.asarray(x, np.float64).mean((1, 2))
  ours = np.asarray(cpu.mean(x, None, (1, 2)), np.float64)[:, 0, 0]
  np.testing.assert_allclose(ours, expected, rtol=3e-7)


def _float64_generator(norm, has_template):
  """Function (variables, mel, template) -> poses in training, inputs and a tangent."""
  module = Generator(channels=8, audio_channels=(4, 4, 8, 8), norm=norm)
  rng = np.random.default_rng(0)
  mel = rng.uniform(size=(2, 80, 214))
  template = rng.normal(size=(2, 5)) if has_template else None
  init = functools.partial(module.init, num_frames=32)
  shapes = jax.eval_shape(init, jax.random.key(0), mel, template)
  variables = jax.tree.map(lambda x: rng.uniform(-0.5, 0.5, x.shape) ** 2, shapes)
  inputs = variables, mel, template
  tangent = jax.tree.map(lambda x: rng.normal(size=np.shape(x)), inputs)

  def generate(variables, mel, template):
    train = {"train": True, "mutable": ["batch_stats"]}
    return module.apply(variables, mel, template, 32, **train)[0]

  return generate, inputs, tangent


def _assert_tangent(function, inputs, tangent, rtol):
  """Compares the directional derivative with central finite differences."""
  step = 1e-8  # few LeakyReLUs change sign
  at = jax.jit(
    lambda step: function(*jax.tree.map(lambda x, t: x + step * t, inputs, tangent))
  )
  derivative = jax.jvp(at, (0.0,), (1.0,))[1]
  expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), at(step), at(-step))
  for ours, theirs in zip(*map(jax.tree.leaves, (derivative, expected)), strict=True):
    assert np.abs(ours).max() > 0
    np.testing.assert_allclose(ours, theirs, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("has_template", [False, True])
@pytest.mark.parametrize("norm", ["bn", "in", "in_star"])
def test_forward_mode_through_a_generator(norm, has_template):
  with jax.enable_x64(True):
    _assert_tangent(*_float64_generator(norm, has_template), rtol=1e-5)


def test_forward_mode_through_the_gradient_of_a_generator():
  with jax.enable_x64(True):
    generate, inputs, tangent = _float64_generator("in", True)
    gradient = jax.grad(lambda *args: jnp.square(generate(*args)).sum(), (1, 2))
    _assert_tangent(gradient, inputs, tangent, rtol=1e-4)


def test_a_generator_of_another_skeleton():
  module = Generator(8, (4, 4, 8, 8), pose_shape=(3, 10))
  init = functools.partial(module.init_with_output, template=None, num_frames=32)
  mel = jnp.ones((2, 80, 214))
  poses, variables = jax.eval_shape(init, jax.random.key(0), mel)
  assert poses.shape == (2, 32, 3, 10)
  assert variables["params"]["output"]["conv"]["kernel"].shape == (1, 8, 30)
  assert Generator().pose_shape == kp.UPPER_BODY.shape
