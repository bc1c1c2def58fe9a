# Each target makes what it needs of the environment in .venv, so all of them work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
LOCK := requirements-dev.lock
# With LOCKED=1, .venv gets the very versions that the lock file names.
CONSTRAINT := $(if $(LOCKED),--constraint $(LOCK))
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest
# At most four processes; the tests of a file stay together, since they share runs. tests/conftest.py says how many
# there are by default, and the order: files that take long come first.
PARALLEL := -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
TIMM := .venv-timm
TIMM_STAMP := $(TIMM)/.installed
GPU := .venv-gpu
GPU_STAMP := $(GPU)/.installed
COLAB := .venv-colab
COLAB_STAMP := $(COLAB)/.installed
COLAB_VERSIONS := tpu_scripts/colab_versions.txt
COLAB_TESTS := tests/models tests/convert tests/teacher tests/objectives/test_metrics.py tests/train tests/runtime/test_begin.py \
  tests/system/test_runs.py

.PHONY: help demo test test-slow test-app test-timm test-colab gpu-compiler test-gpu-compiler lint format lock
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

demo: $(RUN_STAMP) ## the whole method at a small size: runs/demo/report.html and report.json
	$(BIN)/python -m uniemox_jax.demo --workdir=runs/demo

test: $(DEV_STAMP) ## the fast tests
	$(PYTEST) $(PARALLEL)

test-slow: $(DEV_STAMP) ## published model sizes and long runs
	$(PYTEST) -m slow

test-app: $(DEV_STAMP) ## the pages in a real Chromium, which must be installed
	$(PYTEST) -m chromium

test-timm: $(TIMM_STAMP) ## weights to and from timm itself, in an environment of its own
	JAX_PLATFORMS=cpu $(TIMM)/bin/python -m pytest tests/with_timm

test-colab: $(COLAB_STAMP) ## the core tests with Google Colab's versions of jax, flax and Orbax
	JAX_PLATFORMS=cpu $(COLAB)/bin/python -m pytest $(COLAB_TESTS)

gpu-compiler: $(GPU_STAMP) ## the GPU compiler of `plan --topology=h100:8`, in an environment of its own

test-gpu-compiler: $(GPU_STAMP) ## attention compiled for every GPU that `plan` knows, without one
	JAX_PLATFORMS=cpu XLA_FLAGS=--xla_gpu_enable_triton_gemm=false $(GPU)/bin/python -m pytest tests/with_gpu_compiler

CODE := uniemox_jax data_pipelines configs benchmarks docs tests

lint: $(DEV_STAMP) ## formatter, linter and type checker
	$(BIN)/yapf --diff --recursive --parallel $(CODE)
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV_STAMP) ## apply the formatter and the linter's fixes
	$(BIN)/yapf --in-place --recursive --parallel $(CODE)
	$(BIN)/ruff check --fix .

lock: $(DEV_STAMP) ## write the versions in .venv to requirements-dev.lock, which make LOCKED=1 installs
	{ echo "# Every version that the tests passed with. 'make lock' writes this file; 'make LOCKED=1 test' installs it."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > $(LOCK)

$(VENV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): setup.py pyproject.toml | $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(DEV_STAMP): setup.py pyproject.toml | $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINT) -e '.[dev]'
	touch $(RUN_STAMP) $@

# An environment of its own, which sees what .venv has.
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
define beside
	$(BIN)/python -m venv --clear $(1)
	$(BIN)/python $(PACKAGES) > $$($(1)/bin/python $(PACKAGES))/main.pth
endef

# What .venv has, and what must not be there: torchvision beside a CPU build of torch breaks imports of transformers.
$(TIMM_STAMP): Makefile | $(DEV_STAMP)
	$(call beside,$(TIMM))
	$(TIMM)/bin/python -m pip install --no-deps timm==1.0.31 torchvision==0.29.2 onnx==1.23.2 onnx-ir==1.1.0 \
	  onnxscript==0.7.2
	touch $@

# What .venv has, and the GPU compiler, which must not be there: every run on the CPU would look for a GPU. The versions
# are those of jax in $(LOCK).
$(GPU_STAMP): Makefile | $(DEV_STAMP)
	$(call beside,$(GPU))
	$(GPU)/bin/python -m pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 \
	  nvidia-cuda-nvcc-cu12==12.9.86
	touch $@

$(COLAB_STAMP): $(COLAB_VERSIONS) setup.py pyproject.toml | $(VENV)
	$(BIN)/python -m venv --clear $(COLAB)
	$(COLAB)/bin/python -m pip install --constraint $(COLAB_VERSIONS) -e '.[dev]'
	touch $@
