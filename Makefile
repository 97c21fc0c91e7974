# Everything a checkout needs. `make` alone lists the targets.
# A fresh machine needs Python 3.11 or newer, a JDK 17 or newer, and make; the rest comes from package registries.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV   ?= .venv
ENGINE ?= vllm

BIN       := $(VENV)/bin
LOCK      := requirements/cpu.lock
OVERRIDES := requirements/overrides.txt
INSTALLED := $(VENV)/.installed
UV        := $(BIN)/uv
UV_PIN    := uv==0.13.9
SUITES    := tests
# A test that hangs fails with every thread's stack instead of hanging the run.
PYTEST    := $(BIN)/python -m pytest --timeout=900 --durations=10

# uv does not read pip's configuration. Where pip is told of a folder of wheels, that is where the CPU build of torch is;
# elsewhere uv finds it by itself.
define uv_torch
links="$${PIP_FIND_LINKS:-$$($(BIN)/pip config get global.find-links 2>/dev/null || true)}"; \
if [ -n "$$links" ]; then export UV_FIND_LINKS="$$links"; torch=; else torch=--torch-backend=cpu; fi
endef

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | \
	  awk -F '\t' '{ printf "  make %-13s %s\n", $$1, $$2 }'

.PHONY: check-machine
check-machine:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: no $(PYTHON) on the PATH; install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; spark_helium needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	  shown="$$("$$java" -version 2>&1)" || \
	  { echo "error: cannot run $$java; install a JDK 17 or newer (and point JAVA_HOME to it)"; exit 1; }; \
	  major="$$(printf '%s\n' "$$shown" | sed -nE 's/.* version "(1\.)?([0-9]+).*/\2/p' | head -n 1)"; \
	  [ "$${major:-0}" -ge 17 ] || \
	  { echo "error: $$java is Java $${major:-of an unknown version}; Spark 4 needs a JDK 17 or newer"; exit 1; }

# The stamp depends on what decides the environment; the sources are installed editable.
$(INSTALLED): pyproject.toml hatch_build.py spark_helium/version.py $(LOCK) | check-machine
	@echo "== setting up $(VENV) (a first time: some minutes, about 2 GB) =="
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV_PIN)'
	@$(uv_torch); set -x; $(UV) pip install --quiet --python $(BIN)/python --no-deps $$torch -r $(LOCK)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: install
install: $(INSTALLED) ## Set up .venv: everything to run, test and build spark_helium on CPUs
	@echo "spark_helium is installed in $(VENV): source $(BIN)/activate"

.PHONY: demo
demo: $(INSTALLED) ## Ask the built-in model about a table of product reviews (ENGINE=simulator: no model)
	@$(BIN)/python -m spark_helium.demo --engine $(ENGINE)

.PHONY: test
test: lint typecheck scala ## All checks and tests, the real engine's too
	$(PYTEST) -m "not engine" $(SUITES)
	$(PYTEST) --session connect -m "not engine" tests/functions tests/test_semantic.py \
	  $(addprefix tests/sql/test_,placement.py analysis_errors.py measurement.py report.py fields.py semantic_joins.py)
	$(PYTEST) -m engine $(SUITES)

.PHONY: test-fast
test-fast: scala ## The tests that need no engine
	$(PYTEST) -m "not engine" $(SUITES)

.PHONY: golden
golden: scala ## Write the plans in tests/sql/golden anew; read git diff afterwards
	$(BIN)/python -m pytest --quiet --regenerate-golden tests/sql/test_golden_plans.py

.PHONY: function-docs
function-docs: scala ## Write docs/functions.md from the catalog of SQL functions
	$(BIN)/python -m spark_helium.catalyst_rules.function_page

.PHONY: lint
lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(INSTALLED) ## Let ruff rewrite what lint complains about
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: typecheck
typecheck: $(INSTALLED) ## mypy on the package
	$(BIN)/mypy

.PHONY: scala
scala: $(INSTALLED) ## Compile the Scala sources if one changed; warnings are errors
	$(BIN)/python -m spark_helium.catalyst_rules.compiler

.PHONY: wheel
wheel: $(INSTALLED) scala ## Build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: bench
bench: $(INSTALLED) ## Run all suites of spark-helium bench (ENGINE=simulator: no model; hours with the real one)
	$(UV) pip install --quiet --python $(BIN)/python 'matplotlib>=3.10,<4' 'openai>=3.54,<4'
	$(BIN)/spark-helium bench --engine $(ENGINE)

.PHONY: bench-peers
bench-peers: $(INSTALLED) ## Build the environments of the systems that benchmarks compare with (2.5 GB)
	$(BIN)/python -m benchmarks.peers

.PHONY: bench-peers-lock
bench-peers-lock: $(INSTALLED) ## Resolve their requirements.in again, and build what changed
	$(BIN)/python -m benchmarks.peers --lock

.PHONY: lock
lock: $(INSTALLED) ## Resolve requirements/cpu.lock again; versions that still fit stay
	@$(uv_torch); set -x; UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --quiet \
	  --extra cpu --extra connect --extra dev --override $(OVERRIDES) $$torch --no-annotate \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --output-file $(LOCK)

.PHONY: clean
clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) dist build target project/target spark_helium/catalyst_rules/jars benchmarks/peers/.environments
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
