# `make run` and `make test` do all the set-up they need; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
# Further words for pip, such as another index: make run PIP_FLAGS="--extra-index-url https://…"
PIP_FLAGS ?=
# Further words for the federation: make federation FEDERATION_FLAGS="--rounds 10"
FEDERATION_FLAGS ?=
# Further words for the demo: make demo DEMO_FLAGS=--keep
DEMO_FLAGS ?=
# Further words for the release: make release RELEASE_FLAGS=--dry-run
RELEASE_FLAGS ?=
# Further words for pytest: make test PYTEST_FLAGS="-k partition"
PYTEST_FLAGS ?=
# Test processes side by side
WORKERS ?= $(shell nproc)

BIN := $(VENV)/bin
# A digest of all that decides an installation: a fresh checkout, as on a runner, has new dates and installs nothing.
SETUP := $(shell (pwd; cat pyproject.toml constraints.txt) | sha256sum | cut -c1-16)
RUN := $(VENV)/.run-$(SETUP)
PIPELINE := $(VENV)/.pipeline-$(SETUP)
DEV := $(VENV)/.dev-$(SETUP)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
# Modules that are compiled at each start take more time than most tests.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help run federation demo release release-setup test test-all test-images test-federation lint types layers check bench clean

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 21

run: $(RUN) ## Set up, run a federation on real data, register its global model
	$(BIN)/flops run digits

federation: $(RUN) ## Set up, run a server and three hospitals as separate processes, with TLS and keys
	$(BIN)/python examples/federation.py $(FEDERATION_FLAGS)

demo: $(RUN) $(PIPELINE) ## Set up, show the loop: push, release, next round, a bad commit, a rollback; needs Docker Engine
	@$(BIN)/python examples/demo.py $(DEMO_FLAGS)

release: $(PIPELINE) ## Set up the release pipeline alone, release the current commit (docs/releases.md)
	@$(BIN)/flops release $(RELEASE_FLAGS)

release-setup: $(PIPELINE) ## Set up the release pipeline and nothing else

test: $(DEV) ## Set up and run the tests
	$(PYTEST) $(PYTEST_FLAGS)

test-images: $(DEV) ## Build both images, run the tests of containers; needs Docker Engine
	$(PYTEST) -m docker $(PYTEST_FLAGS)

test-federation: $(DEV) ## Run the tests of servers and hospitals as processes: failures, attacks
	$(PYTEST) -m federation $(PYTEST_FLAGS)

test-all: $(DEV) ## Run every test there is, also those that repeat at length what others prove; fails on a missing part
	FLOPS_TEST_REQUIRE=1 $(PYTEST) -m "thorough or not thorough" $(PYTEST_FLAGS)

check: lint types layers ## All that is checked without running anything

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

bench: $(DEV) ## Measure speed against a hand-written loop, Flower on Ray and Flower's own deployment
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/deployment.py

clean: ## Remove the environment and caches; never a registry or results
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# The environment: one folder, two depths. Versions come from constraints.txt, so it is the same every time.
# pip would compile modules one after the other; files that are no modules, such as templates, do not compile.
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile $(PIP_FLAGS) -c constraints.txt
COMPILE = @$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "FLOps needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "python's venv module is missing; on Debian: apt-get install python3-venv"; exit 2; }

$(RUN): | $(BIN)/python
	$(INSTALL) -e '.[research]'
	$(COMPILE)
	@touch $@

$(PIPELINE): | $(BIN)/python
	$(INSTALL) -e '.[pipeline]'
	$(COMPILE)
	@touch $@

$(DEV): | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	$(COMPILE)
	@touch $@ $(RUN) $(PIPELINE)
