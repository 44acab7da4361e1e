# Everything a user or CI runs. Each target starts from nothing: it makes .venv first if it is not there or not up to date.

PYTHON ?= python3
BIN    := .venv/bin
# Tests take nothing from the hub.
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: ## make .venv with the locked CPU set and this package (2 minutes; nothing to do if that has not changed)
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: SSB needs Python 3.11 or 3.12." >&2; exit 2; }
	@$(PYTHON) scripts/setup.py

demo: setup ## run the whole method on the pocket problems, without a GPU
	@$(BIN)/ssb run recipes/pocket.yaml

test: setup ## run the tests that take seconds
	$(PYTEST) -m "not slow"

# pytest's code 5 says that no test was found: fine as long as none is marked slow.
test-slow: setup ## run the tests that take minutes
	$(PYTEST) -m slow || { code=$$?; [ $$code -eq 5 ] && ! grep -rqs --include='*.py' 'mark\.slow' tests; }

check: setup ## format, lint, types, and make test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

clean: ## remove what was made here: .venv, runs, caches, build files
	rm -rf .venv runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis unsloth_compiled_cache
	find . -path ./.git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
