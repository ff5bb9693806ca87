# `make demo` runs the main job and `make test` the tests, on any machine with Python 3.11+ and make.
# Each first makes .venv with the pinned packages of constraints.txt, unless that is done already: all but torch and
# torchvision, which come in many builds, by the hashes in requirements.lock.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two of everything suits a small machine: tests run side by side, each with one thread of torch. Each process takes
# whole files as far as it can, which share what they have made.
JOBS ?= 2
PYTEST_ARGS ?= -n $(JOBS) --dist worksteal
# Bytecode is kept, even where the shell says otherwise: each of some hundred processes would compile the same modules.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test test-long recipes coverage fuzz zoo docs dist lint types lock format clean

# One thread: for so small a network a second one gains nothing, and on a busy machine costs ten times as much.
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/atograph compress examples/digits.py --flops 0.3 --epochs 40 --round-to 2 --baseline --force

test: $(VENV)/.installed-for-tests
	$(PYTEST) $(PYTEST_ARGS) -m 'not long'

# Whole models, kills, several processes, trainings to the end: what takes long, and breaks rarely by itself.
test-long: $(VENV)/.installed-for-tests
	$(PYTEST) $(PYTEST_ARGS) -m long

# The pages of docs/recipes, with the packages that only they use; without these, test-long leaves their pages out.
recipes: $(VENV)/.installed-for-recipes
	$(PYTEST) $(PYTEST_ARGS) tests/recipes

# The same tests, and which lines and branches they reach; less than 95 % of passes/ or 90 % of the whole is a failure.
coverage: $(VENV)/.installed-for-tests
	rm -f .coverage .coverage.*
	$(PYTEST) $(PYTEST_ARGS) --cov --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=90
	$(BIN)/coverage report --include='passes/*' --format=total --fail-under=95

# Random networks under random plans; SEED repeats one of these runs.
N ?= 10000
SEED ?= 0
fuzz: $(VENV)/.installed-for-tests
	FUZZ_N=$(N) FUZZ_SEED=$(SEED) $(PYTEST) tests/test_fuzz.py tests/test_fuzz_passes.py

# Hours. For less, or to go on where a run was interrupted: make zoo ZOO_ARGS="--only 'hf:*'", ZOO_ARGS="... --resume".
ZOO_ARGS ?= --onnx --compare torch-pruning --json build/zoo.json --markdown docs/coverage.md
zoo: $(VENV)/.installed-for-zoo
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo $(ZOO_ARGS)

# The site: guides, results, and a reference from the docstrings. A warning is an error, and so is a link to nowhere.
docs: $(VENV)/.installed-for-docs
	@rm -rf build/docs
	PYTHONPATH=docs $(BIN)/python -m website.sources build/docs/source
	PYTHONPATH=docs OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -c docs/website build/docs/source build/docs/html
	PYTHONPATH=docs $(BIN)/python -m website.links build/docs/html
	@echo "It begins with build/docs/html/index.html"

# What is uploaded, and whether an index would take it and show the README.
dist: $(VENV)/.installed-for-docs
	@rm -rf build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist
	@rm -rf atograph.egg-info
	$(BIN)/python -m twine check --strict build/dist/*

lint: types
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# passes/ is atograph.passes once installed; links lay it out that way for the type checker.
types: $(VENV)/.installed
	@rm -rf build/types && mkdir -p build/types/atograph
	@ln -s $(CURDIR)/atograph/* $(CURDIR)/passes build/types/atograph/
	$(BIN)/mypy

# After a constraints.txt was changed: the hashes of every file that the index has of each release. Takes uv on the PATH.
UV ?= uv
HASHES = $(UV) pip compile --no-deps --generate-hashes --no-annotate --python-version 3.11 -q --custom-compile-command 'make lock'
lock:
	grep -v -E '^(#|torch==|torchvision==)' constraints.txt | $(HASHES) -o requirements.lock -
	$(HASHES) -o docs/website/requirements.lock docs/website/constraints.txt
	$(HASHES) -o docs/recipes/requirements.lock docs/recipes/constraints.txt

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*

# PYTHON=/path/to/python makes the environment with that one; otherwise the first that is new enough.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock
	@python=""; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			python="$$candidate"; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make: atograph needs Python 3.11 or newer, and there is none on the PATH." >&2; \
		echo "make: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	$(PIP) --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV) || { \
		echo "make: $$python cannot make a virtual environment (on Debian: apt-get install python3-venv)." >&2; \
		exit 1; \
	}
	@echo "Installing the packages of constraints.txt into $(VENV), which takes a few minutes ..."
	@$(PIP) install -q --require-hashes --no-deps -r requirements.lock
	@$(PIP) install -q -c constraints.txt torch
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

# torchvision goes in without its dependencies: it would ask for a torch of its own, though only its models are used.
$(VENV)/.installed-for-tests: $(VENV)/.installed
	@$(PIP) install -q -c constraints.txt --no-deps torchvision
	@touch $@

# Sphinx, build, twine, and what they need beside the rest.
$(VENV)/.installed-for-docs: $(VENV)/.installed docs/website/requirements.lock
	@$(PIP) install -q --require-hashes --no-deps -r docs/website/requirements.lock
	@touch $@

# What each page of docs/recipes says to install, and what that needs; torch and torchvision are there.
$(VENV)/.installed-for-recipes: $(VENV)/.installed-for-tests docs/recipes/requirements.lock
	@$(PIP) install -q --require-hashes --no-deps -r docs/recipes/requirements.lock
	@touch $@

# Torch-Pruning is only compared with; its one other requirement is numpy.
$(VENV)/.installed-for-zoo: $(VENV)/.installed-for-tests
	@$(PIP) install -q --no-deps torch-pruning==1.6.1
	@touch $@
