# make repro            install, run the pipeline on the built-in data, print the answer
# make repro SCENES=8   the same, small: 8 scenes per class
# make repro CPU=0      take torch with CUDA; without it a Linux machine that shows no NVIDIA device takes the small one
# make test             install and run the tests, two files at a time; make test-all runs the slow ones too
# make lint             ruff and mypy
# make lock             write the installed versions to requirements.lock
# make help             this list
PYTHON ?= python3
BIN := .venv/bin
CPU ?= $(shell [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ] && echo 1)
# Stages call `python`: the environment's must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Set by a DVC that runs this Makefile; here it would point the store elsewhere.
unexport DVC_ROOT
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint requirements.lock
WITHOUT_CUDA := torch torchvision --index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 10

.PHONY: repro test test-all lint lock help
repro: .venv/installed
	$(if $(SCENES),dvc exp run -S datasets.logos.scenes=$(SCENES),dvc repro)
	@sed -n '1p;3p' reports/report.md
	@echo "The page: file://$(CURDIR)/reports/report.html"
	@echo "Files in reports/ that git calls changed are normal: another processor computes other last digits."

test: .venv/installed
	pytest -n 2 --dist loadfile -m "not slow"

test-all: .venv/installed
	pytest

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

help:
	@sed -n '/^#/!q;s/^# //p' Makefile

.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coldcut needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@case "$$(uname -s)" in Linux|Darwin) ;; *) echo "coldcut runs on Linux and macOS."; exit 1;; esac
	@echo "Installing packages into .venv: $(if $(filter 1,$(CPU)),about 2 GB,6.8 GB with CUDA). pip says nothing for some minutes."
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(if $(filter 1,$(CPU)),$(PIP) $(WITHOUT_CUDA) || echo "download.pytorch.org does not answer: torch comes from PyPI with CUDA (6.8 GB).")
	@$(PIP) ".[dev]"
	@touch $@

# The versions that the tests passed with; for the machine that made it, so it is used as constraints.
lock: .venv/installed
	$(BIN)/python -m pip freeze --disable-pip-version-check --exclude coldcut | grep -v '^-e\|^pip==\|^setuptools==' > requirements.lock
