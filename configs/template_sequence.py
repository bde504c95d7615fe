"""The sequence of templates of a trained SDT run: the next one, given those before it
and the speech, for `demo.py --template=auto`.

    python train.py --config=configs/template_sequence.py \
      --config.template.of=<workdir of an sdt_bp or sdt_vae run>

It uses the data of that run and is saved in `<that workdir>/template_sequence`.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.experiment = "template_sequence"
  c.batch_size = 64
  c.num_epochs = 30
  c.template.kind = "none"
  c.optimizer.learning_rate = 2e-3
  c.optimizer.milestones = (-10, -4)
  c.evaluation.every_epochs = 0
  c.log.video_every_epochs = 0
  c.checkpoint.every_epochs = 10
  return c
