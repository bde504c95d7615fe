"""The Speech2Gesture baseline: no template, plain poses, batch norm, GAN on motion.

    python train.py --config=configs/s2g.py --config.dataset.name=speech2gesture \
      --config.dataset.root=DATA --config.dataset.speaker=oliver

The paper states for Oliver: L2 53.5, lip-sync error 0.23, FTD 8.30. It has not been run
on that data here.
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
