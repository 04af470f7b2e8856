# What one does here. `make demo` and `make test` work from a fresh clone with nothing but Python 3.11, pip and make.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first Python on the path that is new enough; say `make PYTHON=/some/python3.12 setup` for another one.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CACHE := .cache/graftwork

.PHONY: help setup demo fetch browser check format test coverage bench bench-serving bench-training

help:
	@echo "make setup    a virtual environment in $(VENV) with the versions of constraints.txt"
	@echo "make demo     the whole story on real data"
	@echo "make test     check, then every test"
	@echo "make coverage every test, and which lines and branches they reach: up to twice as long"
	@echo "make check    formatting, lint and types"
	@echo "make format   put the code in its form"
	@echo "make bench    training beside its peers"
	@echo "make bench-training  every strategy beside its peers on three sets and five seeds: hours"
	@echo "make bench-serving   serving beside its peers, which are installed"

setup: $(STAMP)

# Debian's Python may come without ensurepip: then the system's own pip fills the environment.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found. Install it, or say make PYTHON=/path/to/python3.11 setup." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/graft demo

# The real model and the real texts that the journeys walk with.
fetch: setup
	$(BIN)/python scripts/fetch_models.py --out $(CACHE)/models minilm
	$(BIN)/python scripts/fetch_datasets.py --out $(CACHE)/datasets bbc sentiment

# Reports are looked at in a real browser.
browser:
	sh scripts/install_browser.sh

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: check fetch browser
	$(PYTEST)

# Apart, because before Python 3.14 counting branches takes the processor up to as long again as the tests do.
coverage: fetch browser
	$(PYTEST) --cov --cov-report=term

bench: fetch
	$(BIN)/python -m benchmarks.train_from_csv

# The peers are a few hundred megabytes, so they come only with what compares with them.
bench-serving: fetch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.serving

# Hours on two cores; runs that are there are not made again.
bench-training: fetch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.training
