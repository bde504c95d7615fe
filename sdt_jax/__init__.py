"""Speech-driven gesture synthesis (Speech Drives Templates) in JAX and Flax.

model = sdt_jax.load("output/my_run")
poses = model.generate(audio, sample_rate, template=3)   # (T, 2, 121) in pixels
"""


def load(workdir, step="latest", speaker=None):
  """Opens a trained run for generation; see `sdt_jax.synthesis.generate.load`."""
  # Imported here, so that tools that only need a keypoint name do not start JAX.
  from sdt_jax.synthesis import generate

  return generate.load(workdir, step, speaker)
