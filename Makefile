# make demo, make test: from a fresh clone with Python 3.11 or newer, nothing else.
VENV   ?= .venv
PYTHON ?= python3
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready

.PHONY: demo test test-slow check format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a whole federation on this machine, with its report"
	@echo "make test       every quick test"
	@echo "make test-slow  the long ones"
	@echo "make check      format, lint, types, then make test"
	@echo "make format     put the code into the house format"

$(READY): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/tacit-sim demo

# Two files at a time: tests of whole federations mostly wait.
test: $(READY)
	@$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs
