# Every target sets up what it needs in .venv; nothing is installed by hand.
.DEFAULT_GOAL := help
SHELL := bash
# Tests start hundreds of processes, and each would compile all anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM_VENV ?= .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: help setup demo record console test test-all setup-vllm bench-serving-vllm test-vllm test-ray test-peers test-board test-browser test-slow chromium screenshots check format docs lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(READY) ## create .venv with the locked dependencies

# torch first and alone: a resolver that meets it among others may pick another build of it.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev,demo]'
	@touch $@

demo: $(READY) ## pull the model, ask questions of a real public data lake
	$(BIN)/agentsys models pull
	$(BIN)/agentsys ask --lake package:vega_datasets/_data --questions benchmarks/data/demo_questions.json --take 6

record: $(READY) ## write anew the recorded run that the console opens with; LAKE is a copy of the demo lake
	rm -f ui/recorded/demo.db*
	$(BIN)/agentsys ask --board ui/recorded/demo.db --lake $(LAKE) --questions benchmarks/data/demo_questions.json --take 2
	$(BIN)/python -c "import sqlite3; sqlite3.connect('ui/recorded/demo.db').execute('PRAGMA wal_checkpoint(TRUNCATE)')"
	rm -f ui/recorded/demo.db?*

console: $(READY) ## ask questions of the demo lake, and look at runs and the board, in the browser
	$(BIN)/agentsys console --lake package:vega_datasets/_data

test: $(READY) ## everything but the slow suites, the browser, other vendors' peers and the style checks
	$(BIN)/agentsys models pull
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not browser and not peers"

test-peers: $(READY) ## clients and servers of other vendors, from npm
	$(BIN)/python -m pytest -q -m peers

chromium: ## install Chromium with apt-get where there is none
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	{ echo "There is no Chromium, and apt-get could not install it: do that as your system does, as root." >&2; exit 1; }

test-browser: $(READY) chromium ## the console in Chromium, with the real engine
	$(BIN)/agentsys models pull
	$(BIN)/python -m pytest -q -m browser

screenshots: $(READY) chromium ## draw the console's pages into docs/img
	$(BIN)/agentsys models pull
	AGENTSYS_TEST_SCREENSHOTS=docs/img $(BIN)/python -m pytest -q -m browser -k light_and_dark

# An environment of its own: vLLM pins versions that the rest need not bear.
$(VLLM_READY): requirements-vllm.lock
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.lock
	@touch $@

setup-vllm: $(VLLM_READY) ## create .venv-vllm, with vLLM for the CPU

bench-serving-vllm: $(READY) $(VLLM_READY) ## what serving by urgency buys over vLLM's own orders, on this machine
	$(BIN)/agentsys bench serving --engine vllm --check

test-vllm: $(VLLM_READY) ## vLLM on the CPU: engine conformance, our scheduler in it, and its answers beside ours
	$(VLLM_VENV)/bin/python -m pytest -q -W default -k vllm tests/serving/test_engine_conformance.py tests/serving/test_vllm_engine.py \
	  tests/serving/test_vllm_scheduler.py tests/serving/test_vllm_equality.py tests/serving/test_vllm_adapters.py tests/serving/test_vllm_answers.py

test-ray: $(READY) ## the launcher on a real Ray cluster of this machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[ray]'
	$(BIN)/agentsys models pull
	$(BIN)/python -m pytest -q tests/serving/test_ray.py

test-board: $(READY) ## clients of one board under checkers, and kill -9: a tenth of the full benchmarks
	$(BIN)/agentsys bench isolation --quick --check
	$(BIN)/agentsys bench crash --quick --check
	$(BIN)/agentsys bench crash --check --set server=own --set kills=25

test-slow: $(READY) ## what takes too long for `make test`: large files, many streams, several hosts, long histories
	$(BIN)/agentsys models pull
	$(BIN)/python -m pytest -q -m "slow and not browser and not peers" --ignore tests/serving/test_ray.py

test-all: test test-peers test-browser test-vllm test-ray test-slow ## all suites

check: $(READY) ## lint, format, types, floors, and the lengths of files and functions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p agentsys
	$(BIN)/lint-imports
	$(BIN)/agentsys bench structure --check

format: $(READY) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## write the pages that come from the code
	$(BIN)/python docs/generate.py

lock: $(READY) ## write requirements.lock from what is installed in .venv
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^(torch==[^+]*).*/\1/' > requirements.lock

clean: ## remove what the targets made
	rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
