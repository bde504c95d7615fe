"""SDT-BP with the hyper-parameters of the original: templates learnt with the network.

    python train.py --config=configs/sdt_bp.py --config.dataset.name=speech2gesture \
      --config.dataset.root=DATA --config.dataset.speaker=oliver

The paper states for Oliver: L2 50.6, lip-sync error 0.17, FTD 1.26. It has not been run
on that data here; on two CPU cores it trains 5 clips/s.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  return config.default()
