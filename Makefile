# Everything a user or CI runs. Each target starts from nothing: it makes .venv first if it is not there or not up to date.

PYTHON ?= python3
BIN    := .venv/bin
# Tests take nothing from the hub.
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# The Python of the environment that is active: a GPU's packages are installed otherwise (README).
GPU    := HF_HUB_OFFLINE=1 python -m benchmarks

# Containers tend to set it; without byte code each process would compile all that it imports, 20 seconds for vLLM.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help python setup tests lock docs demo reproduce evidence evidence-full test test-slow chaos test-gpu check bench bench-gpu
.PHONY: gpu-checks clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: python ## make .venv with the locked CPU set and this package (half a minute; nothing to do if that has not changed)
	@$(PYTHON) scripts/setup.py

# The same with what tests and checks need besides, a browser among it: as much again.
tests: python
	@$(PYTHON) scripts/setup.py tests

python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: SSB needs Python 3.11, 3.12 or 3.13." >&2; exit 2; }

lock: tests ## resolve the locked sets of constraints/ again
	@$(BIN)/python scripts/lock.py

demo: setup ## run the whole method on the pocket problems, without a GPU
	@$(BIN)/ssb run recipes/pocket.yaml

RECIPE    ?= recipes/qwen2.5-3b-gsm8k.yaml
OVERRIDES ?=
DETACH    ?=
unexport RECIPE OVERRIDES DETACH
# A variable's value as one word of the shell, as it was written: neither make nor the shell reads anything in it.
quoted = '$(subst ','\'',$(value $(1)))'

reproduce: python ## run the paper's experiment on a GPU (an A100 with 40 GB), from nothing to the comparison with the paper
	@$(PYTHON) scripts/reproduce.py $(if $(DETACH),--detach) $(call quoted,RECIPE) --overrides $(call quoted,OVERRIDES)

test: tests ## run the tests that take seconds, on two cores
	$(PYTEST) -n 2 --dist loadfile -m "not slow and not alone"
	$(PYTEST) -m alone $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

# pytest's code 5 says that no test was found: fine as long as none is marked slow.
test-slow: tests ## run the tests that take minutes, on two cores
	$(PYTEST) -n 2 --dist loadfile -m slow || { code=$$?; [ $$code -eq 5 ] && ! grep -rqs --include='*.py' 'mark\.slow' tests; }

CHAOS ?= --kills 50

chaos: setup ## kill the pocket's run at 50 random moments and compare (half an hour); CHAOS="--kills 10 --seed 2" in short
	@HF_HUB_OFFLINE=1 $(BIN)/python tests/support/chaos.py $(CHAOS)

test-gpu: ## the tests that need a CUDA GPU, in the environment that is active; without a GPU they are errors
	SSB_REQUIRE_GPU=1 HF_HUB_OFFLINE=1 python -m pytest tests/gpu

check: tests ## format, lint, no warning of the compiler's, types, and make test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python -W error -m compileall -qq -f ssb_unsloth scripts benchmarks examples tests
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

docs: tests ## write the pages that come from the source again, and build the site of docs/ in build/site
	@for page in keys library messages house; do $(BIN)/python scripts/$$page.py || exit; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

EVIDENCE := $(BIN)/ssb sweep --workers 2 recipes

evidence: setup ## base, SSB, its controls and the hints on the pocket with three seeds (docs/evidence.md)
	@$(EVIDENCE)/evidence.yaml

evidence-full: setup ## all of docs/evidence.md: learning rates, five seeds, ablations, two more pockets
	@$(EVIDENCE)/evidence-tuning.yaml
	@$(EVIDENCE)/evidence.yaml 'seeds=[1,2,3,4,5]'
	@$(EVIDENCE)/evidence-ablations.yaml
	@for text in rare rule; do \
		[ -d runs/models/pocket-$$text ] || $(BIN)/python -m ssb_unsloth.pocket.build --text $$text --out runs/models/pocket-$$text || exit; \
		$(EVIDENCE)/evidence-$$text.yaml || exit; \
	done
	@$(BIN)/python scripts/evidence.py runs/evidence-tuning runs/evidence runs/evidence-ablations runs/evidence-rare runs/evidence-rule

BENCH := HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks

bench: setup ## measure on the CPU (15 minutes, a quiet machine) and write docs/performance.md
	$(BENCH).startup
	$(BENCH).kd_loss
	$(BENCH).targets
	$(BENCH).teacher_pass
	$(BENCH).train_step
	$(BENCH).curate
	$(BENCH).report

bench-gpu: ## the same on a CUDA machine, in the environment that is active there, and the 3B geometry
	$(GPU).kd_loss --device cuda --dtype bfloat16
	$(GPU).teacher_pass --device cuda --dtype bfloat16 --geometry 3B --pairs 32 --reply 200 440
	$(GPU).train_step --device cuda --dtype bfloat16 --geometry 3B
	$(GPU).report

gpu-checks: ## what only a GPU can tell (docs/gpu.md): two commands of at most ten minutes
	HF_HUB_OFFLINE=1 python -m scripts.gpu_checks unsloth-train memory-caps
	HF_HUB_OFFLINE=1 python -m scripts.gpu_checks kd-kernel teacher-pass numerics

clean: ## remove what was made here: .venv, runs, caches, build files
	rm -rf .venv .venv-gpu runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis unsloth_compiled_cache
	find . -path ./.git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
