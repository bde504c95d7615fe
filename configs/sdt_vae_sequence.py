"""SDT-VAE with the authors' sequence model, which draws a template for each frame.

    python train.py --config=configs/sdt_vae_sequence.py

As configs/sdt_vae.py, this first trains the pose VAE, in `<workdir>/pose_vae`, on the
synthetic speaker. Beside the gesture model it trains the code mapper and the code
discriminator of the paper's section 4.4 (docs/training.md). For a data pack, add
`--config.dataset.root=DATA --config.dataset.speaker=oliver`.

The paper gives no scores for sequences.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.template.kind = "vae"
  c.sequence.train = True
  return c
