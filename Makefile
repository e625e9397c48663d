# make test    the gate: environment, lint, tests
# make mnist   the default experiment, from nothing to runs/mnist/report.html
# make bench   how long a step takes on this machine

PYTHON ?= python3.11
SEED ?= 0
BIN := .venv/bin
INSTALLED := .venv/installed

# Convolution gradients compile slowly; what was compiled once is kept.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: test lint format mnist bench clean

$(INSTALLED): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test: lint
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A run that was cut off goes on; a finished one is only evaluated again.
mnist: $(INSTALLED)
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/mnist.py --workdir=runs/mnist \
	    --config.seed=$(SEED) \
	    $(if $(wildcard runs/mnist/config.json),--resume)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.step

clean:
	rm -rf .venv .cache *.egg-info
