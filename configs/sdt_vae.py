"""SDT-VAE: a trained pose VAE provides the templates of the training clips.

    python train.py --config=configs/pose2pose.py ... --workdir=output/vae
    python train.py --config=configs/sdt_vae.py ... \
      --config.template.pose_vae=output/vae

Both commands need the same `--config.dataset...` fields.

The paper reports for Oliver: L2 62.4, lip-sync error 0.17, FTD 0.92. These scores have
not been reproduced, because the data could not be obtained.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.template.kind = "vae"
  return c
