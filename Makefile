# make test    the gate: environment, lint, tests
# make mnist   the default experiment, from nothing to runs/mnist/report.html
# make data-check  every data set found in SAMPLES, and those of packages
# make bench   how long a step, and data, take on this machine

PYTHON ?= python3.11
SEED ?= 0
SAMPLES ?= ../shared/data
BIN := .venv/bin
INSTALLED := .venv/installed

# Convolution gradients compile slowly; what was compiled once is kept.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: test lint format mnist data-check bench clean

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

data-check: $(INSTALLED)
	@if [ -d "$(SAMPLES)" ]; then \
	  $(BIN)/python -m experiments.data_check --samples="$(SAMPLES)"; \
	else \
	  echo "Nothing to check: no folder $(SAMPLES); name one by SAMPLES=DIR."; \
	fi

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.data

clean:
	rm -rf .venv .cache *.egg-info
