# Every target sets up what it needs and does nothing twice.
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    takes PyTorch from one of its own indexes
PYTHON      ?= python3
VENV        ?= .venv
BIN         := $(VENV)/bin
TORCH_INDEX ?=
ROCM_INDEX  ?=
PIP         := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS     ?= 2

.PHONY: help demo test test-all check course diagrams docs bench download install install-rocm clean
help:          ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | expand -t 16

demo: $(VENV)/.core  ## train a small GPT on Shakespeare, show text before and after, save its loss curve
	@$(BIN)/cutaway demo

test: $(VENV)/.dev   ## the tests (two workers)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(VENV)/.oracles  ## the tests and the minutes-long ones, some against other libraries
	@$(BIN)/cutaway download smollm2-135m >/dev/null || echo "SmolLM2 cannot be fetched here: its tests will say so"
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

check: $(VENV)/.dev  ## format, lint, types, architecture, diagrams
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -p no:cacheprovider -m "not slow" tests/test_architecture.py tests/documents/test_tikz_*.py

course: $(VENV)/.course  ## the lessons as notebooks to work in, without their solutions (course/mine)
	@$(BIN)/python -m course start all
	@echo "open them: $(BIN)/jupyter lab course/mine    (or in an editor that knows notebooks)"

diagrams:      ## draw docs/diagrams anew where a source has changed (with LaTeX; all of them: FORCE=1)
	@$(PYTHON) docs/diagrams/render.py $(if $(FORCE),--force)

docs: $(VENV)/.docs  ## the documentation site, in build/docs/html; once its tools are there it needs no network
	@$(BIN)/python -m docs.site

bench: $(VENV)/.dev  ## every benchmark, each beside the machine's own limit
	@$(BIN)/python -m benchmarks

download: $(VENV)/.core  ## fetch and verify every vocabulary and corpus
	@$(BIN)/cutaway download --all

install: $(VENV)/.dev  ## a virtual environment with everything to work on cutaway

install-rocm:  ## the same with PyTorch built for AMD GPUs
	@test -n "$(ROCM_INDEX)" || { echo "give PyTorch's index for your ROCm version, as its install page names it: make install-rocm ROCM_INDEX=https://download.pytorch.org/whl/rocmX.Y"; exit 1; }
	@$(MAKE) install TORCH_INDEX=$(ROCM_INDEX)

clean:         ## remove the virtual environment
	rm -rf $(VENV)

# A Debian python3 without python3-venv has no ensurepip: the second line brings pip in from outside.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"cutaway needs Python 3.11 or newer and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "installing PyTorch (the largest download; $(if $(TORCH_INDEX),from $(TORCH_INDEX),a smaller build: see README, Install))"
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch,$(PIP) "torch==$$(sed -n 's/^torch==//p' constraints.txt)")
	@touch $@

$(VENV)/.core: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "installing cutaway"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.course: pyproject.toml constraints.txt $(VENV)/.core
	@echo "installing what notebooks need"
	@$(PIP) --editable ".[course]"
	@touch $@

$(VENV)/.oracles: pyproject.toml constraints.txt $(VENV)/.dev
	@echo "installing what the longer tests measure against"
	@$(PIP) --editable ".[dev,docs,oracles]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.core
	@echo "installing the development tools"
	@$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt $(VENV)/.core
	@echo "installing what the site is built with"
	@$(PIP) --editable ".[docs]"
	@touch $@
