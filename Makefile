# make run = the whole product on this machine. Everything is built into .venv and node_modules, nothing else is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
# Processes of the tests. Each has servers of its own, which need a core beside it: more of them on two cores and what waits
# for something waits too long.
JOBS := 2
BIN := $(VENV)/bin
# What `make run` needs of the set-up.
READY := $(VENV)/.installed $(VENV)/.sdk $(VENV)/.fetched
NODE := $(shell command -v node >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null && echo node)
SDK_SOURCES := $(shell find sdk_js -path sdk_js/node_modules -prune -o -type f -print 2>/dev/null | grep -v /dist/)

.PHONY: help run test oracle check bench setup clients peers lock generate clean

help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

run: ## Set up and start everything with the demo shop: http://127.0.0.1:8080/demo/ (ARGS="--http-port 9000")
	@$(MAKE) --no-print-directory -j3 $(READY)
	@exec $(BIN)/tracker up --demo $(ARGS)

test: setup clients ## All tests: unit, properties, integration with the real Kafka and Redis, browser, other vendors' clients
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

oracle: setup ## A long run of the oracle, every disturbance in it (ORACLE_EVENTS=100000 ORACLE_SEED=5 ORACLE_SECONDS=150)
	ORACLE_EVENTS=$${ORACLE_EVENTS:-100000} $(BIN)/pytest -s tests/integration/test_oracle.py $(ARGS)

check: setup ## Lint, format, types, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m tracker.contract.generate --check
ifneq ($(and $(NODE),$(wildcard sdk_js/package.json)),)
	cd sdk_js && npm run --silent check
endif

bench: setup peers ## CPU and throughput of the endpoint and the worker, and of other stream engines beside it
	$(BIN)/python -m bench

setup: $(VENV)/.packages $(READY) ## .venv from pinned, hashed requirements; the SDK; Kafka and Redis

generate: setup ## Write the files that are generated from tracker/contract
	$(BIN)/python -m tracker.contract.generate

lock: ## Renew requirements/*.txt from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "uv is missing: pip install uv"; exit 1; }
	uv pip compile $(LOCK) requirements/build.in -o requirements/build.txt
	uv pip compile $(LOCK) pyproject.toml --extra fit -c requirements/build.txt -o requirements/runtime.txt
	uv pip compile $(LOCK) pyproject.toml --extra fit --extra embedded requirements/build.in -c requirements/build.txt \
		-c requirements/runtime.txt -o requirements/run.txt
	uv pip compile $(LOCK) pyproject.toml --all-extras requirements/build.in -c requirements/run.txt -o requirements/dev.txt
	for file in requirements requirements-old; do \
		uv pip compile $(LOCK) tests/clients/python/$$file.in -o tests/clients/python/$$file.txt || exit 1; done
	uv pip compile $(LOCK) bench/peers/requirements.in -o bench/peers/requirements.txt
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-python-downloads --custom-compile-command 'make lock'

clean: ## Remove .venv, node_modules and caches; data/ stays
	rm -rf $(VENV) sdk_js/node_modules tests/clients/node/node_modules bench/clients/node_modules examples/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/.made:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 to 3.14 is missing: sudo apt-get install python3 python3-venv (or PYTHON=/path/to/python make setup)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Without what tests and checks need: half the time for who only looks.
$(VENV)/.run-packages: requirements/run.txt | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	@touch $@

$(VENV)/.packages: requirements/dev.txt $(VENV)/.run-packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.run-packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Java, Kafka's jars and redis-server into the user's cache, so that the first `tracker up` starts at once.
$(VENV)/.fetched: tracker/embedded/kafka/jgo.lock.toml tracker/embedded/parts.py $(VENV)/.installed
	$(BIN)/python -m tracker.embedded fetch
	@touch $@

clients: $(VENV)/clients/.python $(VENV)/clients/.go $(VENV)/clients/.node $(VENV)/clients/.examples ## Clients of other vendors, for tests/clients

$(VENV)/clients/.python: $(wildcard tests/clients/python/*.txt) | $(VENV)/.packages
	@rm -rf $(VENV)/clients/python $(VENV)/clients/python-old
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--target $(VENV)/clients/python -r tests/clients/python/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--target $(VENV)/clients/python-old -r tests/clients/python/requirements-old.txt
	@touch $@

$(VENV)/clients/.go: $(wildcard tests/clients/go/*) | $(VENV)/.made
	@mkdir -p $(@D)
	@command -v go >/dev/null || echo "Go not found: Segment's client for Go is not tested"
	! command -v go >/dev/null || (cd tests/clients/go && CGO_ENABLED=0 go build -trimpath -o ../../../$(@D)/segment-go .)
	@touch $@

$(VENV)/clients/.node: tests/clients/node/package.json tests/clients/node/package-lock.json | $(VENV)/.made
	@mkdir -p $(@D)
ifneq ($(NODE),)
	cd tests/clients/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
else
	@echo "Node 20+ not found: other vendors' clients for Node and browsers are not tested"
endif
	@touch $@

$(VENV)/clients/.examples: examples/package.json examples/package-lock.json | $(VENV)/.made
	@mkdir -p $(@D)
ifneq ($(NODE),)
	cd examples && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
else
	@echo "Node 20+ not found: the examples for React, Vue and Next are not tested"
endif
	@touch $@

peers: $(VENV)/.peers $(VENV)/.peers-node ## Other stream engines for Python and clients for browsers, for `make bench`

$(VENV)/.peers: bench/peers/requirements.txt | $(VENV)/.packages
	@rm -rf $(VENV)/peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--target $(VENV)/peers -r bench/peers/requirements.txt
	@touch $@

$(VENV)/.peers-node: bench/clients/package.json bench/clients/package-lock.json | $(VENV)/.made
ifneq ($(NODE),)
	cd bench/clients && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
else
	@echo "Node 20+ not found: other vendors' clients for browsers are not measured"
endif
	@touch $@

# Without Node 20+ the built snippet in tracker/static is used as it is.
ifneq ($(and $(NODE),$(wildcard sdk_js/package.json)),)
sdk_js/node_modules/.installed: sdk_js/package.json $(wildcard sdk_js/package-lock.json)
	cd sdk_js && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.sdk: sdk_js/node_modules/.installed $(SDK_SOURCES) | $(VENV)/.made
	cd sdk_js && npm run --silent build
	@touch $@
else
$(VENV)/.sdk: | $(VENV)/.made
	@echo "Node 20+ not found: the snippet that lies in tracker/static is used"
	@touch $@
endif
