"""The Speech2Gesture baseline: no templates, plain poses, batch norm, motion GAN.

    python train.py --config=configs/s2g.py

This trains on the synthetic speaker. For a data pack, add
`--config.dataset.root=DATA --config.dataset.speaker=oliver`.

The paper reports for Oliver: L2 53.5, lip-sync error 0.23, FTD 8.30. These scores have
not been reproduced, because the data could not be obtained.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.pose.hierarchical = False
  c.generator.norm = "bn"
  c.template.kind = "none"
  c.discriminator.weight = 0.1
  return c
