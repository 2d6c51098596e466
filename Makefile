# make install   everything this machine can use but the extra robustness, into .venv
# make run       the pipeline on the embedded digits
# make test      the test suite, except the tests marked slow
# make docs      what the documents say of plugins, from the plugins
# make locks     versions and hashes of everything that any extra brings, and the SBOM, with the newest versions
# make audit     advisories for these versions
# make release   wheel and source archive in dist/, each with the SBOM
# make check     style, types, import directions, sizes and names, generated documents, contents of the wheel
.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-gpu check docs format bench locks audit release clean

PYTHON ?= python3
CONFIG ?= pipeline.yaml
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# TensorRT for RTX compiles engines without a GPU; its wheels exist for Linux and Windows on x86-64.
COMMA := ,
EXTRAS := train,serve,hub,openvino,litert,ncnn-build,transformers,timm,video,signing,dev$(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' '-')),$(COMMA)tensorrt-rtx)
EXTRAS := $(EXTRAS)$(if $(shell command -v nvidia-smi),$(COMMA)tensorrt)

help:
	@sed -n 's/^# make /make /p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("edgedistill needs Python 3.11 or newer, this is %d.%d: make install PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $(STAMP)

run: install
	$(BIN)/edgedistill run $(CONFIG)

# One thread per worker, because more threads than free cores wait for one another.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -P -m pytest -q -m slow

test-gpu: install
	$(BIN)/python -P -m pytest -q -m gpu

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -P tests/project/house.py
	$(BIN)/python -P docs/write.py --check
	rm -rf build/wheel && $(BIN)/python -P -m hatchling build -t wheel -d build/wheel
	$(BIN)/check-wheel-contents build/wheel

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -P docs/write.py

# mmdet_eager.py is started by detectors.py, with another interpreter.
bench: install
	$(BIN)/python -m pip install --quiet --requirement benchmarks/serving/requirements.txt
	@for script in $(filter-out %/mmdet_eager.py,$(wildcard benchmarks/*.py)) benchmarks/serving/run.py benchmarks/serving/workers.py benchmarks/serving/attacks.py benchmarks/evidence/run.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

locks: install
	$(BIN)/python -m pip install --quiet --editable ".[release]"
	$(BIN)/python -P locks/write.py --upgrade

audit: install
	$(BIN)/python -m pip install --quiet --editable ".[release]"
	$(BIN)/python -P locks/audit.py

release: install
	rm -rf dist && $(BIN)/python -P -m hatchling build -d dist

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
