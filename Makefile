# make verify: set up, run the default verified run, print the report.   make test: set up, run the tests.
PYTHON ?= python3
VENV ?= .venv
PRESET ?= default
BIN := $(VENV)/bin

# Folders that figures are made of: made, in a small setting, if they are missing; set them to draw others.
FIGURE_RUN ?= runs/small-seed0
FIGURE_COMPARISON ?= runs/compare-small-seed0
FIGURE_ABLATION ?= runs/ablation-small-seed0

# A run that is altered in copies to test the audit; made, in a small setting, if it is missing.
AUDIT_RUN ?= runs/audit-seed0

.PHONY: verify test test-gpu audit-test figures notebooks docs mutants bench lint clean

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
	"$(BIN)/python" -m pytest -n auto --maxprocesses=4 --dist loadfile

# What needs a GPU, on a machine that has one; the other tests hide it.
test-gpu: $(VENV)/.ready
	PROTEUS_TEST_GPU=1 "$(BIN)/python" -m pytest tests/empirics/test_gpu.py

# Plants some sixty alterations in copies of a small run, and expects the audit to find each of them.
audit-test: $(VENV)/.ready $(AUDIT_RUN)/manifest.json
	PROTEUS_AUDIT_RUN="$(AUDIT_RUN)" "$(BIN)/python" -m pytest -n auto --maxprocesses=4 tests/empirics/test_audit.py

$(AUDIT_RUN)/manifest.json: | $(VENV)/.ready
	"$(BIN)/proteus-bounds" verify --preset small --set backbone.max_length=16 --out "$(AUDIT_RUN)"

# Every figure as PDF and PNG, and its data as CSV, in build/figures (paper_figures/README.md).
figures: $(VENV)/.ready $(FIGURE_RUN)/report.json $(FIGURE_COMPARISON)/comparison.json $(FIGURE_ABLATION)/ablation.json
	"$(BIN)/python" -m paper_figures --run "$(FIGURE_RUN)" --comparison "$(FIGURE_COMPARISON)" --ablation "$(FIGURE_ABLATION)" -o build/figures

$(FIGURE_RUN)/report.json: | $(VENV)/.ready
	"$(BIN)/proteus-bounds" verify --preset small --out "$(FIGURE_RUN)"

$(FIGURE_COMPARISON)/comparison.json: | $(VENV)/.ready
	"$(BIN)/proteus-bounds" compare --preset small --seeds 1 --out "$(FIGURE_COMPARISON)"

$(FIGURE_ABLATION)/ablation.json: | $(VENV)/.ready
	"$(BIN)/proteus-bounds" ablate --preset small --only dimension --out "$(FIGURE_ABLATION)"

# JupyterLab, on the notebooks; any other Jupyter opens them as well (notebooks/README.md).
notebooks: $(VENV)/.ready
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[notebooks]"
	"$(BIN)/jupyter" lab notebooks

# The site, in docs/_build/html. Everything is read anew, so that no warning of an earlier build is forgotten; warnings are errors.
# LINKS=1 also asks for every page outside that is linked to.
docs: $(VENV)/.ready
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[docs]"
	"$(BIN)/python" -m sphinx -E -W -n --keep-going -q -d docs/_build/doctrees -b html docs docs/_build/html
	$(if $(LINKS),"$(BIN)/python" -m sphinx -W -n --keep-going -q -d docs/_build/doctrees -b linkcheck docs docs/_build/linkcheck)
	@echo "The documentation lies in docs/_build/html/index.html"

# Changes the modules of the bounds one operator, number or argument at a time and expects a test to fail. Every mutant that survives must
# stand in tests/theory/mutants.md with the reason why no test can tell it apart; "mutmut show NAME" shows one.
mutants: $(VENV)/.ready
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[mutants]"
	rm -rf mutants
	OMP_NUM_THREADS=1 "$(BIN)/mutmut" run --max-children 2
	"$(BIN)/mutmut" results > mutants/results.txt
	@grep -av ': timeout' mutants/results.txt | sed -n 's/^ *\(theory[^ ]*\): .*/\1/p' > mutants/survivors.txt
	@status=0; while read -r name; do \
	  grep -aqF "| $$name |" tests/theory/mutants.md || { echo "not in tests/theory/mutants.md: $$name"; status=1; }; \
	done < mutants/survivors.txt; exit $$status

bench: $(VENV)/.ready
	"$(BIN)/python" benchmarks/scoring.py
	"$(BIN)/python" benchmarks/adapters.py
	"$(BIN)/python" benchmarks/bounds.py

lint: $(VENV)/.ready
	"$(BIN)/python" -m pip install --disable-pip-version-check -q -c constraints.txt ruff
	"$(BIN)/python" -m ruff check . && "$(BIN)/python" -m ruff format --check .

clean:
	rm -rf "$(VENV)"
