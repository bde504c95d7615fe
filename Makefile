# `make quickstart` and `make test` create .venv if needed; PYTHON selects the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart report bench test test-all lint clean

quickstart: $(VENV)/installed
	$(BIN)/python -m sdt_jax.quickstart

# Trains and scores all experiments on the synthetic speaker; writes output/report.
report: $(VENV)/installed
	$(BIN)/python -m sdt_jax.evaluation.report --config=configs/quick.py

# Runs all benchmarks; docs/performance.md describes them.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.all --output=docs/performance_table.md

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2

# Includes the slow tests.
test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m ""

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "error: this is Python %d.%d, but 3.11 or newer is required; set PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) output data build *.egg-info
