# `make quickstart` and `make test` set themselves up; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart report bench test test-all lint clean

quickstart: $(VENV)/installed
	$(BIN)/python -m sdt_jax.quickstart

# The ladder of experiments on the synthetic speaker: docs/report is what it wrote.
report: $(VENV)/installed
	$(BIN)/python -m sdt_jax.evaluation.report --config=configs/quick.py

# All benchmarks: docs/performance.md says what they measure.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.all --output=docs/performance_table.md

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2

# With the slow ones.
test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m ""

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "error: Python %d.%d found, 3.11 or newer needed; give PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) output data
