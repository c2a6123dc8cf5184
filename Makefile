# make demo        install, then the whole chain on handwritten digits (no download, about a minute)
# make test        install, then the tests
# make test-fast   the same without those that take more than about five seconds each
# make lint        install, then ruff: its rules and its format, and mypy
# make format      install, then put every file into ruff's format
PYTHON ?= python3
BIN = .venv/bin
# One process of tests per core, each with one thread: small networks gain nothing from more.
PARALLEL = -n auto --dist worksteal

.PHONY: demo test test-fast lint format clean

demo: .venv/installed
	$(BIN)/python main.py

test: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A stamp newer than the requirements says that nothing is to be installed.
.venv/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-onnx.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
