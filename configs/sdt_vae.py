"""SDT-VAE: a pose VAE provides the templates of the training clips.

    python train.py --config=configs/sdt_vae.py

This first trains the pose VAE, in `<workdir>/pose_vae`, then SDT-VAE, both on the
synthetic speaker. For a data pack, add
`--config.dataset.root=DATA --config.dataset.speaker=oliver`. To use a pose VAE that was
trained before on the same clips, add `--config.template.pose_vae=<its workdir>`.

The paper reports for Oliver: L2 62.4, lip-sync error 0.17, FTD 0.92. These scores have
not been reproduced, because the data could not be obtained.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.template.kind = "vae"
  return c
