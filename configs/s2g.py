"""The Speech2Gesture baseline: no template, plain poses, batch norm, GAN on motion.

    python train.py --config=configs/s2g.py --config.dataset.name=speech2gesture \
      --config.dataset.root=DATA --config.dataset.speaker=oliver
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
  c = common.get_config()
  c.pose.hierarchical = False
  c.generator.norm = "bn"
  c.template.kind = "none"
  c.discriminator.weight = 0.1
  return c
