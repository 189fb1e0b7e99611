# SPDX-License-Identifier: Apache-2.0
# `make` shows what there is. Everything runs in .venv, which the first target that needs it makes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
SETUP := .venv/.set-up
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
LINTED := src tests scripts bench
PROOF_COUNT ?= 200
ARGS ?=

.PHONY: help setup demo test test-engines check check-hub format prove bench serve proto clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(SETUP) ## make .venv with all that tests and checks need

$(SETUP): pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh
	@touch $@

demo: $(SETUP) ## pull a real model cold, warm, and four times at once, and prove it (ARGS=--public|--local)
	@bash scripts/demo_model.sh
	$(BIN)/python -m scripts.demo $(ARGS)

test: $(SETUP) ## the whole suite, without the engines
	$(PYTEST) $(PARALLEL) -m "not alone and not engines"
	$(PYTEST) -m alone

test-engines: $(SETUP) ## the tests with torch, NIXL and vLLM on CPU: 3 GB, once; skipped where they cannot be had
	bash scripts/setup_engines.sh
	$(PYTEST) -m engines -o faulthandler_timeout=0 --durations 5 tests/engines

check: $(SETUP) ## format, lint, types, imports, generated code, fast tests
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/ruff check $(LINTED)
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	bash scripts/proto.sh --check
	$(PYTEST) $(PARALLEL) -q -m "not alone and not packages and not slow" tests/unit tests/docs tests/contracts

check-hub: $(SETUP) ## compare the public Hub with what a client gets through a server; needs a network
	$(BIN)/python -m scripts.check_hub $(ARGS)

format: $(SETUP) ## format, and mend what ruff can mend
	$(BIN)/ruff format $(LINTED)
	$(BIN)/ruff check --fix $(LINTED)

prove: $(SETUP) ## the proofs by number, PROOF_COUNT rounds each (default 200)
	PROOF_COUNT=$(PROOF_COUNT) $(PYTEST) $(PARALLEL) -m prove --timeout 0 -o faulthandler_timeout=0 --durations 20

bench: $(SETUP) ## measure against the raw limit and others (ARGS=--quick); writes bench/results.json
	$(BIN)/python -m bench.suite $(ARGS)

serve: $(SETUP) ## run the server with ARGS
	$(BIN)/modelexpress serve $(ARGS)

proto: $(SETUP) ## generate src/modelexpress/wire/*_pb2* from proto/
	bash scripts/proto.sh

clean: ## remove caches and build results; the environments stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .demo
	find src tests scripts bench -name __pycache__ -type d -prune -exec rm -rf {} +
