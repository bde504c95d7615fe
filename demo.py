# The program is in sdt_jax/programs/demo.py; `python demo.py --help` describes it.
from sdt_jax.programs import demo

if __name__ == "__main__":
  demo.run()
