"""The pose VAE, which provides the templates of SDT-VAE and the features of FTD.

    python train.py --config=configs/pose2pose.py

This trains on the synthetic speaker. For a data pack, add
`--config.dataset.root=DATA --config.dataset.speaker=oliver`.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.experiment = "pose2pose"
  c.checkpoint.best_metric = "l1"
  return c
