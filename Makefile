# What can be done here. `make help` explains every target.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := OMP_NUM_THREADS=2

.DEFAULT_GOAL := help
.PHONY: help venv demo test check fix fuzz test-all test-crash test-gpu bench bench-training bench-selection golden docs notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make .venv and install evsim with its pinned tools

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## run the quickstart: a week of phones, a table, a plot, a run folder
	$(BIN)/evsim run quickstart

test: $(STAMP) ## run the tests that every change must pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(STAMP) ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(STAMP) ## mutated inputs of every kind; EVSIM_FUZZ_CASES=1000000 for a night
	EVSIM_FUZZ_CASES=$${EVSIM_FUZZ_CASES:-20000} OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -n 0 tests/fuzz

test-all: $(STAMP) ## also the slow tests, and every example of the laws
	EVSIM_EXAMPLES=1 $(RUN) $(BIN)/python -m pytest -m 'not gpu and not benchmark'

test-crash: $(STAMP) ## kill 100 runs at random instants (KILLS=n: so many) and resume each until it ends
	OMP_NUM_THREADS=1 EVSIM_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/crash

test-gpu: $(STAMP) ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(STAMP) ## benchmarks: replay, synchronous rounds, buffered aggregation, reading a million tasks
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks/test_timeline.py tests/benchmarks/test_world.py tests/benchmarks/test_results.py

bench-training: $(STAMP) ## training benchmarks: every executor against the bare loop
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks/test_training.py tests/benchmarks/test_models.py \
		tests/benchmarks/test_groups.py tests/benchmarks/test_training_gpu.py

bench-selection: $(STAMP) ## selection benchmarks: up to a million clients
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks/test_selection.py

golden: $(STAMP) ## rewrite the golden timelines; the diff is a change in behaviour
	EVSIM_REWRITE_GOLDEN=1 $(BIN)/python -m pytest tests/golden

docs: $(STAMP) ## rewrite the generated pages
	$(BIN)/python -m evsim.scenario.reference

notebooks: $(STAMP) ## install the notebook tools and execute the notebooks of analysis/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,analysis]'
	$(RUN) $(BIN)/python -m pytest -m slow tests/analysis

clean: ## remove what was built and what was run
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
