"""SDT-VAE: the templates are those that a trained pose VAE gave the training clips.

    python train.py --config=configs/pose2pose.py ... --workdir=output/vae
    python train.py --config=configs/sdt_vae.py ... \
      --config.template.pose_vae=output/vae

with the same `--config.dataset...` fields in both.

The paper states for Oliver: L2 62.4, lip-sync error 0.17, FTD 0.92. It has not been run
on that data here.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.template.kind = "vae"
  return c
