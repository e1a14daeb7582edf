.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AUDIT := .venv-audit/bin
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of Python processes: where bytecode is not kept, each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with the exact versions CI runs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $(STAMP)

check: install ## lint, format, strict types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

test: install ## the gate: every test but the slow ones
	$(PYTEST) -m "not slow and not chaos"

test-all: install ## also the slow tests
	$(PYTEST) -m "not chaos"

chaos: install ## crashes at every step, a storm of kills, stores that fail: tens of minutes
	$(BIN)/python -m pytest -m chaos

demo: install ## real music through a real S3 server, Ray and Prefect, into ./demo
	$(BIN)/python -m tests.demo

bench: install ## benchmarks, each with its table
	$(BIN)/python -m tests.benchmarks

audit: .venv-audit/.installed ## ask for known vulnerabilities of the exact versions; needs pypi.org
	$(AUDIT)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

sbom: install .venv-audit/.installed ## write dist/sbom.cdx.json, what the product consists of (CycloneDX)
	mkdir -p dist
	$(AUDIT)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o dist/sbom.cdx.json $(BIN)/python

.venv-audit/.installed: .ci/audit-requirements.txt
	$(PYTHON) -m venv .venv-audit
	$(AUDIT)/python -m pip install --quiet -r .ci/audit-requirements.txt
	touch $@

lock: install ## write constraints.txt from what is installed
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-audit .cache demo build dist .mypy_cache .pytest_cache .ruff_cache

.PHONY: help install check test test-all chaos demo bench audit sbom lock clean
