# `make lessons` runs the lessons, `make test` proves them, `make test-busy` runs them while every core is busy,
# `make lab` opens a copy of them in course/, where answers stay, `make site` builds the pages,
# `make bench` measures the package against PyTorch; each sets up .venv first.
# For authors: `make build` runs the notebooks in place and writes the package and the README from them.

VENV ?= .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready

.PHONY: lessons test test-busy lab site build bench

lessons: $(READY)
	$(BIN)/python -m minitorch_train lessons run

test: $(READY)
	$(BIN)/python -m pytest tests -n auto --dist loadfile

test-busy: $(READY)
	$(BIN)/python -m pytest tests -m busy

lab: course/00_start_here.ipynb
	$(BIN)/python -m jupyterlab $<

# Copied once: what stands there afterwards is the learner's.
course/00_start_here.ipynb: | $(READY)
	$(BIN)/python -m minitorch_train lessons copy course

site: $(READY)
	$(BIN)/python nbs/site/make_site.py

bench: $(READY)
	$(BIN)/python benchmarks/results.py

build: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/python -m nbconvert --to notebook --execute --inplace nbs/*.ipynb nbs/*/*.ipynb
	$(BIN)/python -m nbconvert --to notebook --coalesce-streams --inplace nbs/*.ipynb nbs/*/*.ipynb
	$(BIN)/python nbs/tools/make_start.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python nbs/tools/make_readme.py

$(READY): settings.ini setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[lessons,dev]" -c constraints.txt
	@echo ready > $(READY)
