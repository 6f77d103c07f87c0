SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo claims up test dev lint format nano lock clean

# Which Python makes the environment, and which torch goes in: a local CUDA wheel's path works too.
PYTHON ?= python3
TORCH ?= torch==2.13.0
UV := uv==0.13.8
# More options for the tool behind a target: make test ARGS="-m 'not slow' -x"
ARGS ?=

VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Trust the certificates that the system trusts: a company's proxy often has its own.
export UV_SYSTEM_CERTS := true

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the environment in .venv (the other targets do it when needed)

demo up: export DAGSTER_HOME := $(CURDIR)/.insitu/dagster
demo: $(READY) ## Photos in, adapters tuned, measured, registered, promoted and served
	mkdir -p $$DAGSTER_HOME && cp infra/dagster.yaml $$DAGSTER_HOME/
	python -m pipelines.demo $(ARGS)

# A process for each core, each with one thread, as the tests.
claims: export OMP_NUM_THREADS := 1
claims: $(READY) ## Check the papers' claims and write the report (about two hours; continues)
	dvc repro boundid quadruples groups entities
	insitu claims $(ARGS)

up: $(READY) ## Start MLflow and Dagster, until Ctrl-C (ARGS="--port 3001" for Dagster's)
	mkdir -p $$DAGSTER_HOME && cp infra/dagster.yaml $$DAGSTER_HOME/
	insitu mlflow & trap "kill $$!" EXIT; dagster dev $(ARGS)

# A process for each core, each with one thread: small models gain little from a second one.
test: export OMP_NUM_THREADS := 1
test: $(READY) ## Run the tests
	pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

dev: $(READY) ## Set up for changing the code: environment and git hooks
	pre-commit install

lint: $(READY) ## Check style, formatting, types and layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

format: $(READY) ## Mend style and formatting where a tool can
	ruff check --fix .
	ruff format .

nano: $(READY) ## Train the embedded checkpoints again where their recipe changed (hours)
	cd models/nano && dvc repro $(ARGS)

lock: $(VENV)/bin/uv ## Resolve requirements.lock again (ARGS=--upgrade for newer versions)
	uv pip compile pyproject.toml --all-extras --output-file requirements.lock \
		--generate-hashes --no-emit-package torch \
		--python-version 3.11 --python-platform linux --custom-compile-command "make lock" \
		--quiet $(ARGS)

clean: ## Remove what the tools cached; .venv and DVC's cache stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# uv resolves and checks hashes in seconds where pip backtracks for minutes. torch goes first and by
# pip, because which build fits (CPU, CUDA) is the machine's matter and not the lock's. Every step is
# a process: compiled here, libraries load in half the time, also where Python may write no bytecode.
$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." \
			"insitu needs Python 3.11, for which requirements.lock is resolved." \
			"Install it and name it: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet "$(UV)"

$(READY): requirements.lock pyproject.toml | $(VENV)/bin/uv
	$(VENV)/bin/python -m pip install --quiet "$(UV)" "$(TORCH)"
	uv pip install --quiet --python $(VENV)/bin/python --no-deps --require-hashes \
		--compile-bytecode -r requirements.lock
	uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	uv pip check --python $(VENV)/bin/python
	touch $(READY)
