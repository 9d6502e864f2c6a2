# make demo   install onebit for training, train on MNIST, verify, pack, classify      make test   run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RELEASE := build/release
# one process per core; the tests of a file run in the same process, so their fixtures are made once
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

.PHONY: help setup demo test test-gpu nightly results-methods notebooks docs release lint types format clean

PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

setup: $(VENV)/dev

help:
	@sed -n '1s/^# //p' Makefile
	@sed -n 's/^| `\(make .*\)` | \(.*\) |$$/\1: \2/p' CONTRIBUTING.md

# an editable installation: only changes of the dependencies or of the C code need a new one
$(VENV)/train: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/onebit/native/csrc/* src/onebit/native/csrc/training/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "onebit needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing onebit and torch into $(VENV): minutes, as torch may bring CUDA (README.md: Does it work here?)"
	$(PIP_INSTALL) -e '.[train]'
	@touch $@

# onebit is installed already: this adds the packages of its extra and compiles nothing
$(VENV)/dev: $(VENV)/train
	@echo "installing the tools for tests, lint and notebooks into $(VENV): another minute"
	$(PIP_INSTALL) --quiet 'onebit[dev]'
	@touch $@

demo: $(VENV)/train
	@$(BIN)/python -m tools.demo

test: setup
	$(BIN)/python -m pytest $(PARALLEL) --junitxml=build/tests.xml

# skipped, with a notice, where torch finds no GPU
test-gpu: setup
	$(BIN)/python -m pytest -m gpu -rs tests/gpu

# the tests for a GPU run on a device that stands in for one
nightly: setup build/timm build/language
	$(BIN)/python -m pytest -m nightly $(PARALLEL)
	ONEBIT_TEST_DEVICE=stand-in $(BIN)/python -m pytest -m gpu $(PARALLEL) tests/gpu

# nets for the nightly tests and `python -m benchmarks zoo`; ONEBIT_TIMM names another folder
build/timm:
	$(PIP_INSTALL) --quiet --no-deps --target $@ timm==1.0.31 torchvision==0.29.1

# models of transformers and llama.cpp, for the nightly tests and examples/language_model.py
build/language:
	$(PIP_INSTALL) --quiet --target $@ transformers==5.24.0 gguf==0.19.0 xllamacpp==2026.10.11549
	$(PIP_INSTALL) --quiet --no-deps --target $@ accelerate==1.15.0 peft==0.21.2 torchao==0.18.0

# takes hours; finished runs are not trained again
results-methods: setup
	$(BIN)/python -m tools.results --train

notebooks: setup
	$(BIN)/python tools/run_notebooks.py

# the site: open site/index.html
docs: setup
	$(PIP_INSTALL) --quiet 'onebit[docs]'
	$(BIN)/python -m tools.site

# sdist and wheel of the last commit in dist/, checked, and used in a fresh environment without torch; publishes nothing
release: export PYTHONPATH :=
release: setup
	@! git status --porcelain | grep . || { echo "a release is of a commit, but these files differ from it"; exit 1; }
	rm -rf $(RELEASE)
	$(BIN)/python -m venv $(RELEASE)/tools
	$(RELEASE)/tools/bin/python -m pip install --quiet -c constraints.txt build twine
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(RELEASE)/tools/bin/python -m build --outdir $(RELEASE)
	$(RELEASE)/tools/bin/twine check --strict $(RELEASE)/onebit-*
	$(BIN)/python -m venv $(RELEASE)/use
	$(RELEASE)/use/bin/python -m pip install --quiet -c constraints.txt $(RELEASE)/*.whl
	$(RELEASE)/use/bin/python -I tools/wheel_check.py
	$(BIN)/python -m tools.release

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python -m tools.sizes

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
