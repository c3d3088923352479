# `make` explains itself. Everything runs inside $(VENV), which `make` creates; nothing is installed outside it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# System pip installs into the environment, so that Debian's python3 without python3-venv is enough.
PIP := $(PYTHON) -m pip --python $(VENV)/bin/python --disable-pip-version-check --quiet
RUNTIMES := openvino,mnn,ncnn
PROJECT := pyproject.toml devices/pyproject.toml constraints.txt
install = $(PIP) install -c constraints.txt $(1) || { echo "The installation did not finish; pip says why above. It needs the network; the same command goes on from here." >&2; exit 1; }

# An environment holds its own path and leans on the Python that made it. Half made, moved, copied or orphaned, it is made anew.
PLACE := $(BIN)/python -c 'import sys; print(sys.prefix, sys.version_info[:2])'
IS_SOUND := $(shell $(PLACE) 2>/dev/null | cmp -s - $(VENV)/made 2>/dev/null && echo yes)

.PHONY: few-shot help demo test check lint types imports repeatability zoo parsing rates clean
ifneq ($(IS_SOUND),yes)
.PHONY: $(VENV)/made
endif

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Laptime needs Python 3.11 or newer, this is {v[0]}.{v[1]}; set PYTHON=python3.12 or so") if v < (3, 11) else None'
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || { echo "pip is missing: apt-get install python3-pip, or set PYTHON" >&2; exit 1; }
	@echo "Creating the environment in $(VENV) ..."
	@$(PYTHON) -m venv --without-pip $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV)
	@$(PLACE) > $@

$(VENV)/installed: $(VENV)/made $(PROJECT)
	@echo "Installing Laptime into $(VENV) (torch is large: this takes a minute or more the first time) ..."
	@$(call install,-e ./devices -e .)
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(call install,-e './devices[$(RUNTIMES)]' -e '.[test]')
	@$(call install,--no-deps pnnx)
	@touch $@

demo: $(VENV)/installed ## Run the whole path on this machine: onboard, predict, measure, search (ONCE=1 leaves at the end; MODEL=file.onnx SHAPE=input=1x3x224x224; PORT=8731)
	@exec $(BIN)/laptime demo $(if $(ONCE),--once) $(if $(MODEL),--model '$(MODEL)') $(if $(SHAPE),--shape '$(SHAPE)') $(if $(PORT),--port $(PORT))

test: $(VENV)/installed-test ## Run all tests (SQLite and PostgreSQL; real models too where LAPTIME_DATA names a folder of them)
	@$(BIN)/python -m pytest $(ARGS)

check: lint types imports test ## Everything that must hold before a change lands

lint: $(VENV)/installed-test ## Check style
	@$(BIN)/ruff check .

types: $(VENV)/installed-test ## Check types (mypy, strict)
	@$(BIN)/mypy

imports: $(VENV)/installed-test ## Check that imports point down
	@$(BIN)/lint-imports

repeatability: $(VENV)/installed-test ## Measure how repeatable a measurement is on this machine (about 20 minutes; resumes)
	@$(BIN)/python -m benchmarks.repeatability

zoo: $(VENV)/installed ## Prediction error over a folder of ONNX models (MODELS=folder)
	@$(if $(MODELS),,$(error name a folder of ONNX files: make zoo MODELS=folder))
	@$(BIN)/laptime-predictor evaluate --models '$(MODELS)'

few-shot: $(VENV)/installed ## The few-shot tables of docs/benchmarks.md (LAPTIME_DATA=folder; counts all networks first, some minutes)
	@$(BIN)/laptime-predictor bench --task help-nb201,help-fbnet,help-ofa,FD,F1,F2,F3,F4,FA,ND --samples 20
	@$(BIN)/laptime-predictor bench --task help-nb201,help-fbnet,help-ofa,FD,F1,F2,F3,F4,FA,ND --samples 20 --methods laptime --selection active
	@$(BIN)/laptime-predictor nas

parsing: $(VENV)/installed ## What reading a graph costs, beside onnx's own loading and inference (MODELS=folder adds its ONNX files)
	@$(BIN)/python -m benchmarks.parsing $(if $(MODELS),--models '$(MODELS)')

rates: $(VENV)/installed ## How many latency queries a second the server answers, beside an endpoint that does nothing
	@$(BIN)/python -m benchmarks.http_rates

clean: ## Remove the environment and caches, not your data in .laptime
	@rm -rf $(VENV) build devices/build *.egg-info devices/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
