# make repro            install, run the pipeline on the built-in data, print the answer
# make repro SCENES=8   the same, small: 8 scenes a class
# make repro CPU=1      take torch without CUDA from pytorch.org (a fifth of the download)
# make test             install and run the tests; make test-all runs the slow ones too
# make lint             ruff and mypy
PYTHON ?= python3
BIN := .venv/bin
# Stages call `python`: the environment's must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Set by a DVC that runs this Makefile; here it would point the store elsewhere.
unexport DVC_ROOT
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint requirements.lock

.PHONY: repro test test-all lint lock
repro: .venv/installed
	$(if $(SCENES),dvc exp run -S datasets.logos.scenes=$(SCENES),dvc repro)
	@[ reports/report.html -nt reports/metrics.json ] || dvc repro -q -f -s report
	@sed -n '1p;3p' reports/report.md
	@echo "The page: file://$(CURDIR)/reports/report.html"

test: .venv/installed
	pytest -m "not slow"

test-all: .venv/installed
	pytest

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coldcut needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@case "$$(uname -s)" in Linux|Darwin) ;; *) echo "coldcut runs on Linux and macOS."; exit 1;; esac
	test -d .venv || $(PYTHON) -m venv .venv
	$(if $(CPU),$(PIP) torch torchvision --index-url https://download.pytorch.org/whl/cpu)
	$(PIP) ".[dev]"
	touch $@

# The versions that the tests passed with; for the machine that made it, so it is used as constraints.
lock: .venv/installed
	$(BIN)/python -m pip freeze --disable-pip-version-check --exclude coldcut | grep -v '^-e\|^pip==\|^setuptools==' > requirements.lock
