"""SDT-BP: templates are learnt with the network; hyper-parameters of the original.

    python train.py --config=configs/sdt_bp.py

This trains on the synthetic speaker: 5 hours on two CPU cores (12 clips/s). For a data
pack, add `--config.dataset.root=DATA --config.dataset.speaker=oliver`.

The paper reports for Oliver: L2 50.6, lip-sync error 0.17, FTD 1.26. These scores have
not been reproduced, because the data could not be obtained.
"""

import ml_collections

from sdt_jax import config


def get_config() -> ml_collections.ConfigDict:
  return config.default()
