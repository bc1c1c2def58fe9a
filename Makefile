# Each target makes what it needs of the environment in .venv, so all of them work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest

.PHONY: help demo test test-slow lint
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(RUN_STAMP) ## the whole job in small: runs/demo/report.html and report.json
	$(BIN)/python -m uniemox_jax.demo --workdir=runs/demo

test: $(DEV_STAMP) ## the fast tests
	$(PYTEST)

test-slow: $(DEV_STAMP) ## published model sizes and long runs
	$(PYTEST) -m slow

lint: $(DEV_STAMP) ## style
	$(BIN)/ruff check .

$(VENV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): setup.py pyproject.toml | $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(DEV_STAMP): setup.py pyproject.toml | $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $(RUN_STAMP) $@
