# CacheCluster: `make help` lists what can be made. Everything is put into .venv, build and the user's cache directory.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
EXTENSIONS := $(shell find core sidecar -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi') core/cachecluster_core/gate_step.py

.PHONY: help install demo demo-down local test fuzz lint format crds commands image clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.venv/.installed: requirements.lock pyproject.toml
	@tests/require-tools
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

build/.extensions: .venv/.installed setup.py $(EXTENSIONS)
	mkdir -p build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

install: build/.extensions  ## the Python environment in .venv, with all commands in .venv/bin

demo: install  ## a Kubernetes, the operator and a CacheCluster called demo (CONTEXT=name uses an existing cluster)
	$(BIN)/python -m cachecluster_devcluster.demo up $(if $(CONTEXT),--context $(CONTEXT))

demo-down:  ## remove all that `make demo` made
	test ! -x $(BIN)/devcluster || $(BIN)/python -m cachecluster_devcluster.demo down $(if $(CONTEXT),--context $(CONTEXT))

local: install  ## cachecluster-local: three nodes on 127.0.0.1..3, port 6379, without Kubernetes
	$(BIN)/devcluster deps --for local
	$(BIN)/cachecluster-local --nodes 3 --port 6379

test: install  ## all tests that this machine can run, or one tier: TIER=0..4
	$(BIN)/python tests/run_tiers.py $(if $(TIER),--tier $(TIER))

bench-move: install  ## planned hand-overs beside the engine's FAILOVER, as clients see them: build/bench/move.json
	$(BIN)/python -m bench.move

bench-router: install  ## the router beside twemproxy, Envoy and the engine (ARGS="--quick", ARGS=--help): build/bench/router.json
	$(BIN)/python -m bench.router_peers
	$(BIN)/python -m bench.router $(ARGS)

fuzz: install  ## fuzz the router (TARGET=scanner or conversation, RUNS=100000); see tests/fuzz
	$(BIN)/devcluster deps --for fuzz
	$(BIN)/python -m tests.fuzz $(or $(TARGET),scanner) --runs $(or $(RUNS),100000)

lint: install  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## format the Python sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: install  ## write the CRDs, the chart's copy and docs/reference.md anew from the models
	$(BIN)/python -m cachecluster_operator.write_crds crds charts/cachecluster-operator/crds
	$(BIN)/python -m cachecluster_operator.write_reference docs/reference.md

commands: install  ## write the router's command table, and docs/commands.md, anew from the engines' COMMAND
	$(BIN)/python -m cachecluster_sidecar.router.generate_commands
	$(BIN)/python -m cachecluster_sidecar.router.write_commands docs/commands.md

image: install  ## the container image as build/image/cachecluster.tar
	$(BIN)/devcluster image --out build/image/cachecluster.tar

bench-durability: install  ## async, sync and WAIT side by side, in about a minute: build/bench/durability.json
	$(BIN)/python -m bench.durability

lock:  ## pin the newest versions that pyproject.toml allows in requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --all-extras --generate-hashes --no-annotate --no-header --no-emit-index-url -U pyproject.toml -o requirements.lock

clean:  ## remove .venv and build
	rm -rf .venv build
