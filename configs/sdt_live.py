"""SDT-BP with a causal generator, for live use: each frame is generated once, in order.

    python train.py --config=configs/sdt_live.py

A frame depends on the sound up to 74 ms after it, and on no later one (docs/live.md).
This trains on the synthetic speaker. For a data pack, add
`--config.dataset.root=DATA --config.dataset.speaker=oliver`. To learn also from the
motion of a model trained on the same clips, add `--config.teacher=<its workdir>`.

At this size it has not been trained to the end. With the sizes of configs/quick.py
(`--config=configs/quick.py --config.generator.causal=True --config.generator.norm=bn`,
three minutes on two CPU cores), the scores on dev are: lip-sync error 0.051, L1 0.89.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  c = config.default()
  c.generator.causal = True
  c.generator.norm = "bn"
  return c
