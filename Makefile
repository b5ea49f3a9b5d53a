# `make demo` and `make test` do everything on a fresh Debian 12 with make and python3-venv.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COLLECTION := indexes/demo
READY := $(VENV)/.ready
PEERS := .work/peers
SIZE ?= 100000
SPACE ?= wordllama

.PHONY: help setup demo test check types lint layers unit crash docs bench speed model clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,explore,foreign]'
	touch $(READY)

setup: $(READY) ## make the virtual environment

demo: $(READY) ## index the sample corpus and ask it questions in all directions
	$(BIN)/muomni model fetch base
	$(BIN)/muomni add examples/corpus -c $(COLLECTION) --prune
	$(BIN)/muomni add examples/records.jsonl -c $(COLLECTION)-records
	$(BIN)/python examples/demo.py $(BIN)/muomni $(COLLECTION)

test: check unit ## everything that keeps the project good

check: lint types layers

lint: $(READY) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

layers: $(READY) ## the order of imports
	$(BIN)/lint-imports --no-cache

unit: $(READY) ## the tests
	$(BIN)/muomni model fetch base
	$(BIN)/python -m pytest -n 2

crash: $(READY) ## let a collection live through thousands of deaths, kills, faults and flipped bits
	nice $(BIN)/python tests/crash/marathon.py $(CRASH)

docs: $(READY) ## generate the pages that come from the code
	$(BIN)/python scripts/generate_cli_reference.py

# Each peer by itself, so that one that does not fit this machine is left out.
$(PEERS)/.ready: benchmarks/peers.txt pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . matplotlib
	grep -v '^#' benchmarks/peers.txt | while read -r peer; do \
		$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
			-c constraints.txt --prefer-binary $$peer || echo "$$peer: left out"; \
	done
	touch $(PEERS)/.ready

bench: $(PEERS)/.ready ## speed, size and recall beside the peers: SIZE=100000 SPACE=wordllama
	nice $(PEERS)/bin/python benchmarks/compare.py --size $(SIZE) --space $(SPACE)

speed: $(READY) ## speed of each part, beside its bare cost
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/busy.py
	$(BIN)/python benchmarks/path.py
	$(BIN)/python benchmarks/filters.py
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/compact.py
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/cold.py
	$(BIN)/python benchmarks/duplicates.py
	$(BIN)/python benchmarks/map.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/page.py

model: $(READY) ## rebuild the model `base` from the named packages and compare
	$(BIN)/python scripts/build_base_model.py --check

clean: ## remove what the targets made
	rm -rf $(VENV) $(PEERS) $(COLLECTION) $(COLLECTION)-records .pytest_cache .mypy_cache .ruff_cache .hypothesis
