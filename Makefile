# make run · make test · make lint · make slow · make bench · make sanitize · make wheel · make docs · make clean
#   PYTHON=python3.12 make run         another interpreter (3.11 or 3.12)
#   make run ARGS="--method rtn"       other arguments for `compress run`
#   make test JOBS=4                   processes that run tests side by side; each takes about 1.5 GB

VENV  := .venv
BIN   := $(VENV)/bin
TORCH := 2.13.0
ARGS  ?= --method spqr
JOBS  ?= 2
# The first interpreter that really starts and has a version we support.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: run test lint unit slow bench sanitize wheel docs clean

run: $(VENV)/.installed
	$(BIN)/compress run $(ARGS)

# mypy takes one core for a minute; the tests run beside it.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory -j 2 lint unit

# A file's tests stay in one process, which keeps what they share; the longest files are first (tests/conftest.py), or one
# process would work alone at the end.
unit: $(VENV)/.dev
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

# Figures are taken from a tree whose tests pass.
bench: test
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# The native kernels under the sanitizers of GCC, in folders of their own: addresses and undefined behaviour, then data
# races among threads of our own, as the sanitizer cannot look into an OpenMP runtime.
SANITIZE_RUN = $(abspath $(BIN))/python -m pytest -p no:cacheprovider -m 'slow or not slow' --timeout 3600
sanitize: $(VENV)/.dev
	for kind in address,undefined thread; do \
	  folder=build/sanitize/$${kind%%,*}; mkdir -p $$folder; cp -r tests pyproject.toml $$folder; \
	  COMPRESS_SANITIZE=$$kind COMPRESS_BUILD_NATIVE=1 $(BIN)/python setup.py -q build \
	    --build-lib $$folder --build-temp $$folder/objects || exit 1; \
	done
	cd build/sanitize/address; ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  $(SANITIZE_RUN) tests/kernels/test_native.py tests/kernels/test_native_fuzz.py tests/kernels/test_wrong_kernels.py
	cd build/sanitize/thread; COMPRESS_THREADS=own TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 \
	  LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" setarch -R \
	  $(SANITIZE_RUN) tests/kernels/test_native.py -k "threads or other_layouts"

# A wheel with the native kernels, for any Python and every Linux whose glibc is as new as its name says; see there.
wheel: $(VENV)/.installed
	PYTHON=$(BIN)/python .ci/wheel build/wheel

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found; give one with PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and pinned, so that a CPU build is taken where one is at hand. Of 19,000 modules a tenth is ever
# imported: Python compiles those when it first meets them, and keeps them, which spares a minute of installing.
PIP := $(BIN)/pip install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) torch==$(TORCH)
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) torch==$(TORCH)
	$(PIP) -e '.[dev]'
	touch $(VENV)/.installed $@
