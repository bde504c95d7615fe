"""Runs that take seconds."""

import pathlib

import ml_collections

from configs import quick
from sdt_jax.evaluation.evaluator import Evaluator
from sdt_jax.synthesis.samples import Gallery
from sdt_jax.training import loop


def config(data_dir, **fields) -> ml_collections.ConfigDict:
  """The quick config, smaller still; `fields` such as `num_epochs=3`."""
  c = quick.get_config()
  c.batch_size = 8
  c.num_epochs = 2
  c.dataset.name, c.dataset.speaker = "synthetic", "ada"
  c.dataset.num_train_clips = 20
  c.dataset.num_dev_clips = 5
  c.dataset.data_dir = str(data_dir)
  c.generator.channels = 8
  c.generator.audio_channels = (4, 4, 8, 8)
  c.template.size = 4
  c.log.every_steps = 1
  c.log.train_videos = 0
  c.log.dev_videos = 0
  c.update_from_flattened_dict(fields)
  return c


def train(
  config, path: pathlib.Path, gallery=Gallery, pretrained=None, from_step=None
) -> bool:
  """Trains as train.py does."""
  return loop.train(
    config, path, Evaluator, gallery, pretrained=pretrained, from_step=from_step
  )
