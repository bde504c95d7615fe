"""The tables that map the original's parameter names to ours."""

import json

import golden
import numpy as np
import pytest

from sdt_jax.errors import UserError
from sdt_jax.interop import names

NETWORKS = {
  "netG.": (names.GENERATOR, "voice2pose_s2g_model"),
  "netD_pose.": (names.DISCRIMINATOR, "voice2pose_s2g_model"),
  "pose_encoder.": (names.POSE_ENCODER, "voice2pose_sdt_vae_model"),
  "ae.": (names.POSE_VAE, "pose2pose"),
}
BIAS = np.ones(4, np.float32)
CONV = {"params": {"output": {"conv": {"kernel": np.ones((3, 2, 4)), "bias": BIAS}}}}
TABLE = {"seq.3": "output"}


@pytest.mark.parametrize("prefix", NETWORKS)
def test_the_table_names_everything_in_the_originals_order(prefix):
  table, manifest = NETWORKS[prefix]
  content = json.loads((golden.DATA / "state_dict_manifest.json").read_text())
  theirs = [name for name in content[manifest] if name.startswith(prefix)]
  assert set(theirs) <= names.known(table, prefix)
  ours = [prefix + name for name, _ in names._entries(table) if prefix + name in theirs]
  assert ours == [name for name in theirs if "num_batches" not in name]


def test_kernels_are_transposed_and_back():
  kernel = np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)
  state = {"x.seq.3.weight": kernel, "x.seq.3.bias": BIAS}
  variables = names.to_flax(state, TABLE, CONV, "x.")
  ours = variables["params"]["output"]["conv"]["kernel"]
  assert ours[2, 1, 3] == kernel[3, 1, 2]
  back = names.from_flax(variables, TABLE, "x.")
  assert list(back) == list(state)
  np.testing.assert_array_equal(back["x.seq.3.weight"], kernel)


_KERNEL = np.ones((4, 2, 3))


@pytest.mark.parametrize(
  ("state", "more", "complaint"),
  [
    (  # leftovers on both sides are listed together
      {"seq.3.weight": _KERNEL, "seq.9.weight": 0, "seq.8.weight": 0},
      *({}, r"lacks seq\.3\.bias; .*seq\.8.weight, seq\.9"),
    ),
    (
      {"seq.3.weight": _KERNEL, "seq.3.bias": BIAS},
      *({"extra": {"kernel": BIAS}}, "the table does not name params/extra/kernel"),
    ),
    (
      {"seq.3.weight": np.ones((4, 9, 3)), "seq.3.bias": BIAS},
      *({}, r"seq\.3\.weight: shape \(3, 9, 4\)"),
    ),
  ],
)
def test_what_does_not_fit_is_named(state, more, complaint):
  with pytest.raises(UserError, match=complaint):
    names.to_flax(state, TABLE, {"params": CONV["params"] | more})
