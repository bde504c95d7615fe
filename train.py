# The program is in sdt_jax/programs/train.py; `python train.py --help` describes it.
from sdt_jax.programs import train

if __name__ == "__main__":
  train.run()
