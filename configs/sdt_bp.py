"""SDT-BP with the hyper-parameters of the original: templates learnt with the network.

    python train.py --config=configs/sdt_bp.py --config.dataset.name=speech2gesture \
      --config.dataset.root=DATA --config.dataset.speaker=oliver
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
  return common.get_config()
