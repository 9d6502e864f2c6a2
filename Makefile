# make demo   set up, train on real MNIST, prove, pack, classify        make test   set up and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a process per core; the tests of a file stay in one, which makes their fixtures once
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

.PHONY: setup demo test nightly results-methods lint types format clean

setup: $(VENV)/installed

# the package is installed in place: only a change of what it depends on, or of its C code, asks for a new installation
$(VENV)/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/onebit/native/csrc/*)
	@echo "setting up $(VENV) (a minute or two; torch is the large part)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "onebit needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python tools/demo.py

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

nightly: setup
	$(BIN)/python -m pytest -m nightly $(PARALLEL)

# hours of training; what was trained before is not trained again
results-methods: setup
	$(BIN)/python tools/results_methods.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
