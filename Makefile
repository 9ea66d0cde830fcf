# make demo   train four variants, ask, draw: one page      make test   the tests
# make setup  .venv with the command valuestream            make lint   ruff and pyright
# make bench  speeds, in one interleaved run                make peers  other tools, and the tests that run them
# make browser  pages and JupyterLab, in a real browser   make docs  the documentation, build/docs/html/index.html
# make clean  remove .venv

PYTHON ?= python3
SIZE ?= standard
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Two threads on matrices of this size are many times slower than one; the work is spread over processes instead.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test lint bench peers browser docs clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "valuestream needs Python 3.11 or newer; set PYTHON=, e.g. make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	$(BIN)/valuestream demo --size $(SIZE)

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.starting
	$(BIN)/python -m tests.benchmarks.models
	$(BIN)/python -m tests.benchmarks.analysis
	$(BIN)/python -m tests.benchmarks.language_models
	$(BIN)/python -m tests.benchmarks.other_makes

peers: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-peers.lock
	$(BIN)/python -m pytest -q -m slow tests/circuits/test_storage.py \
		tests/circuits/test_exporting.py tests/circuits/loading/test_x_transformers.py

browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-browser.lock
	$(BIN)/python -m pytest -q -m slow tests/figures/test_switchboard_in_browser.py \
		tests/figures/test_switchboard_with_kernel.py tests/figures/test_images.py \
		tests/experiments/test_demonstration.py tests/experiments/test_explored_in_browser.py

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-docs.lock
	rm -rf build/docs
	$(BIN)/python .ci/docs/sources.py build/docs/sources
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html -c .ci/docs build/docs/sources build/docs/html

clean:
	rm -rf $(VENV)
