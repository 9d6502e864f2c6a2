# make demo   install what training needs, train on MNIST, prove, pack, classify      make test   run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a process per core; the tests of a file stay in one, which makes their fixtures once
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

.PHONY: setup demo test nightly results-methods notebooks lint types format clean

PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

setup: $(VENV)/dev

# the package is installed in place: only a change of what it depends on, or of its C code, asks for a new installation
$(VENV)/train: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/onebit/native/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "onebit needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing onebit and what training needs into $(VENV): a minute or two, torch is the large part"
	$(PIP_INSTALL) -e '.[train]'
	@touch $@

# onebit is installed by now: this adds the packages that its extra names, and compiles nothing again
$(VENV)/dev: $(VENV)/train
	@echo "installing the tools of tests, lint and notebooks into $(VENV): another minute"
	$(PIP_INSTALL) --quiet 'onebit[dev]'
	@touch $@

demo: $(VENV)/train
	@$(BIN)/python -m tools.demo

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

nightly: setup
	$(BIN)/python -m pytest -m nightly $(PARALLEL)

# hours of training; what was trained before is not trained again
results-methods: setup
	$(BIN)/python -m tools.results_methods

notebooks: setup
	$(BIN)/python tools/run_notebooks.py

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
