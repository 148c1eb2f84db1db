# Verbs of the project; CI and the README use the same ones.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PORT ?= 8000
DATA ?= .meshwork
CODE := shared gateway services pipelines deploy tests
COMPOSE := docker compose -f local.yml
SHARED ?= $(abspath ..)/shared
# Arguments of `make scale`: everything of the form service=number on the command line.
SERVICES := ingest segmentation sfm mvs postprocess export webhooks
SCALES := $(foreach s,$(SERVICES),$(if $($(s)),$(s)=$($(s))))

.PHONY: help setup lock servers demo test lint types imports simulate unit contract integration security e2e fuzz acceptance serve up down logs scale generate bench bench-all bench-served bench-load bench-scale chaos key clean

help: ## list the verbs
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## virtual environment and system libraries

$(VENV)/.installed: requirements.lock
	@deploy/setup/system_packages.sh libraries
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

lock: setup ## requirements.lock: every package with its hashes, from the requirements files; UPGRADE=1 takes newer ones
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/uv pip compile --quiet --generate-hashes --only-binary :all: --no-emit-package pip \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_36 $(if $(UPGRADE),--upgrade) \
	  requirements.txt requirements-dev.txt --output-file requirements.lock

servers: setup ## RabbitMQ, PostgreSQL and MinIO for tests and the native mesh
	@deploy/setup/system_packages.sh servers
	@deploy/setup/minio.sh

demo: setup ## reconstruct a sample capture, or PHOTOS=folder, and check the signed webhook
	$(RUN) -m deploy.demo $(if $(PHOTOS),--photos "$(PHOTOS)")

serve: setup ## the embedded mode in the foreground: PORT=8000 DATA=folder
	$(RUN) -m deploy.embedded --port $(PORT) --data "$(DATA)"

up: ## the full mesh: containers where Docker answers, else native processes
	@if docker info >/dev/null 2>&1; then deploy/docker/compose.sh; else $(MAKE) --no-print-directory servers && $(RUN) -m deploy.native up; fi

down: ## end the mesh; data stays
	@if docker info >/dev/null 2>&1; then $(COMPOSE) down; else $(RUN) -m deploy.native down; fi

logs: ## follow the logs; S="sfm mvs" for some services
	@if docker info >/dev/null 2>&1; then $(COMPOSE) logs -f $(S); else $(RUN) -m deploy.native logs $(S); fi

scale: ## replicas of a service: make scale mvs=3
	@test -n "$(SCALES)" || { echo "say which: make scale mvs=3"; exit 2; }
	@if docker info >/dev/null 2>&1; then $(COMPOSE) scale $(SCALES); else $(RUN) -m deploy.native scale $(SCALES); fi

test: servers lint types imports ## everything that CI runs
	$(RUN) -m pytest -n 2
	$(if $(wildcard $(SHARED)/acceptance),$(MAKE) --no-print-directory acceptance,@echo "no customer's tests beside the project")

lint: setup ## ruff, and known vulnerabilities of what requirements.lock pins
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check --quiet $(CODE)
	$(RUN) -m deploy.audit

types: setup ## mypy, strict
	$(VENV)/bin/mypy

imports: setup ## the directions of imports
	$(VENV)/bin/lint-imports

simulate: setup ## the protocol under seeded schedules and faults: SEEDS=2000 FIRST=0 MUTANT=name, or all
	$(RUN) -m tests.simulation --seeds $(or $(SEEDS),2000) --first $(or $(FIRST),0) $(if $(MUTANT),--mutant $(MUTANT))

unit contract integration security e2e: servers ## one kind of tests
	$(RUN) -m pytest tests/$@

bench-scale: servers ## one job of mvs, or sfm, with 1 to 16 replicas: ARGS="--stage mvs --photos 60 --stretch 4.9"
	MESHWORK_THREADS=1 OPENBLAS_NUM_THREADS=1 $(RUN) -m tests.benchmarks.scale $(ARGS)

chaos: servers ## every process killed at every point, and a thousand jobs in a storm
	$(RUN) -m pytest tests/chaos --chaos full

fuzz: servers ## N requests against the HTTP surface, and N values for messages, manifests and file parsers, in all: N=100000 SEED=1
	$(RUN) -m tests.security.fuzzing --requests $(or $(N),100000) --values $(or $(N),100000) $(if $(SEED),--seed $(SEED))

acceptance: servers ## the customer's tests against the embedded mode and the native mesh
	$(RUN) -m deploy.acceptance "$(SHARED)/acceptance" --mode embedded
	$(RUN) -m deploy.acceptance "$(SHARED)/acceptance" --mode mesh

generate: setup ## files that are made from code: JSON Schemas, broker definitions, AsyncAPI
	$(RUN) -m deploy.generate_schemas
	$(RUN) -m shared.broker.generate

bench: setup ## fidelity, speed and memory on four rendered captures: PRESET=balanced CAPTURES="animal statue"
	$(RUN) -m tests.benchmarks.fidelity $(if $(PRESET),--preset $(PRESET)) $(if $(CAPTURES),--captures $(CAPTURES),--captures main) --data "$(SHARED)/data"

bench-all: setup ## the other captures, and photographs that people took
	$(RUN) -m tests.benchmarks.fidelity $(if $(PRESET),--preset $(PRESET)) --captures rest --data "$(SHARED)/data"

bench-served: servers ## a capture through the gateway, embedded and mesh: CAPTURES="animal" PRESET=balanced
	$(RUN) -m tests.benchmarks.fidelity served $(or $(CAPTURES),animal) $(if $(PRESET),--preset $(PRESET))

bench-load: servers ## jobs a second at two gateways, then many jobs of stand-ins through six stages, none lost, no process growing: JOBS=10000 AGAINST=checkout
	$(RUN) -m tests.benchmarks.load gateway --gateways 2 --queued 20000 $(if $(JOBS),--jobs $(JOBS)) $(if $(AGAINST),--against "$(AGAINST)")
	$(RUN) -m tests.benchmarks.load stages $(if $(JOBS),--jobs $(JOBS))

key: setup ## a key for a tenant: TENANT=acme SCOPES="submit read" DAYS=90
	@$(RUN) -m deploy.keys "$(TENANT)" $(if $(SCOPES),--scopes $(SCOPES)) $(if $(DAYS),--days $(DAYS))

clean: ## remove what was made here
	rm -rf $(VENV) .demo .bench .meshwork .mypy_cache .ruff_cache .pytest_cache
