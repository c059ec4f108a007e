# Everything starts from a fresh clone with Python 3.11: `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto
# Where there are a compiler and an emulator for AArch64 (Debian's g++-aarch64-linux-gnu and qemu-user), the tests use them.
AARCH64 := $(and $(shell command -v aarch64-linux-gnu-g++),$(shell command -v qemu-aarch64),build/aarch64)

.PHONY: demo test cross lint format docs dist bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m haste_compiler.demo

test: $(VENV)/.dev $(AARCH64)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Of the tests, those of what is compiled for AArch64, run by an emulator.
cross: $(VENV)/.dev build/aarch64
	$(BIN)/python -m pytest tests/codegen/cpu/test_cross.py tests/examples

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in build/site. What is dead, a link or an anchor, is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The package as it would be published, checked, installed and used in an environment of its own.
dist: $(VENV)/.release
	.ci/dist $(BIN)/python

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.peers

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# TVM's own wheels for AArch64, of the versions that are installed, unpacked.
build/aarch64: $(VENV)/.dev
	$(BIN)/python -m pip freeze | grep ^apache-tvm > $(VENV)/tvm.txt
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
		--dest $(VENV)/aarch64 --requirement $(VENV)/tvm.txt
	rm -rf $@.made && mkdir -p $@.made
	for wheel in $(VENV)/aarch64/*.whl; do $(BIN)/python -m zipfile -e $$wheel $@.made || exit; done
	mv $@.made $@

# PyTorch first and by itself: a torch that is there already, a CPU-only one for instance, is kept by what follows.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

# One rule for every extra of pyproject.toml: .demo, .dev, .docs, .release, .bench.
$(VENV)/.%: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@
