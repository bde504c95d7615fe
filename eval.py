# The program is in sdt_jax/programs/evaluate.py; `python eval.py --help` describes it.
from sdt_jax.programs import evaluate

if __name__ == "__main__":
  evaluate.run()
