# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv when it is not there yet.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
READY := $(VENV)/.ready
export RAY_USAGE_STATS_ENABLED=0
export DO_NOT_TRACK=1

.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt edge/pyproject.toml
	@python=$$(for p in $(PYTHON) python3.11 python3.12 python3; do \
	  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done); \
	  test -n "$$python" || { echo "error: raysaas needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.11" >&2; exit 65; }; \
	  echo "installing into $(VENV) (about two minutes) ..." && $$python -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" -e edge
	@touch $@

install: $(READY)  ## Make .venv with the pinned packages

demo: $(READY)  ## Run the whole path on one use case: make demo ARGS="use_case=telco_churn data_dir=../shared/data"
	@$(BIN)/raysaas demo $(ARGS)

test: $(READY)  ## Run every test on a real Ray
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)  ## Lint, types, import floors, architecture budgets
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/test_architecture.py

bench: $(READY)  ## Measure us and others side by side and print ratios
	@for question in benchmarks/bench_*.py; do $(BIN)/python $$question $(ARGS) || exit 1; done

fuzz: $(READY)  ## Send 10,000 requests that schemathesis makes to a running application
	@RAYSAAS_FUZZ_CALLS=10000 $(BIN)/python -m pytest tests/cluster/test_security.py -k schemathesis $(ARGS)

lock: $(READY)  ## Write constraints.txt from what is installed
	@{ echo "# Exact versions of everything that is installed (Python 3.11). Made by: make lock"; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt

clean:  ## Remove the environment and all state
	rm -rf $(VENV) var

.PHONY: help install demo test check bench fuzz lock clean
