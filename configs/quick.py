"""A small SDT-BP model on the synthetic speaker, for a first try.

    python train.py --config=configs/quick.py

Training takes two minutes on two CPU cores. Expected scores on dev: lip-sync error
0.06, L1 0.90, and FTD 4.5 with a pose VAE of the same size (docs/report).
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.batch_size = 16
  c.num_epochs = 10
  c.dataset.num_train_clips = 768
  c.dataset.num_dev_clips = 64
  c.generator.channels = 96
  c.generator.audio_channels = (12, 24, 48, 96)
  c.template.learning_rate_scale = 10.0
  c.optimizer.learning_rate = 1e-3
  c.optimizer.milestones = (-3, -1)
  c.log.dev_videos = 2
  c.log.train_videos = 0
  c.log.video_every_epochs = 5
  return c
