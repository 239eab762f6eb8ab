# make verify: set up, run the default verified run, print the report.   make test: set up, run the tests.
PYTHON ?= python3
VENV ?= .venv
PRESET ?= default
BIN := $(VENV)/bin

# Folders that figures are made of: made, in a small setting, if they are missing; set them to draw others.
FIGURE_RUN ?= runs/small-seed0
FIGURE_COMPARISON ?= runs/compare-small-seed0
FIGURE_ABLATION ?= runs/ablation-small-seed0

# Packages that `make lock` may move: UPGRADE=numpy, UPGRADE="numpy scipy", or UPGRADE=all. Extras that `make extras-test` tries: all.
UPGRADE ?=
EXTRAS ?=
# Mutants that `make mutants` tries, by a pattern of their names: MUTANTS="theory.bound*"; all.
MUTANTS ?=
# A run that is altered in copies to test the audit; made, in a small setting, if it is missing. Remove one of an older commit: page and bits
# are compared with those of the same commit only.
AUDIT_RUN ?= runs/audit-seed0

.PHONY: verify test kill-test audit-test fuzz stress test-gpu test-docs figures notebooks docs mutants types coverage bench lint lock sbom licences extras-test clean

# Everything is pinned with hashes in supply/ (docs/how-to/dependencies.md), but PyTorch, whose builds differ, which brings its own.
PIP := "$(BIN)/python" -m pip install --disable-pip-version-check -q
LOCKED := $(PIP) --require-hashes --no-deps

# The stamp is newer than what it was made from, so set-up happens once and again only when the pins change.
$(VENV)/.ready: pyproject.toml supply/run.txt supply/materials.txt supply/torch.txt
	$(PYTHON) -m venv "$(VENV)"
	$(LOCKED) -r supply/run.txt -r supply/materials.txt
	$(PIP) -r supply/torch.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch "$@"

verify: $(VENV)/.ready
	"$(BIN)/proteus-bounds" verify --preset $(PRESET) --fresh

# In the order of their names: ordered by the number of their tests, as the plugin would, files of few long tests come last and alone.
test: $(VENV)/.ready
	"$(BIN)/python" -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

# Runs killed at 200 random moments, killed at every write, and with the disk full at every write, against undisturbed ones.
kill-test: $(VENV)/.ready
	"$(BIN)/python" tests/reliability/kill_runs.py --kills 200 --writes 1000

# A hundred thousand generated and damaged inputs for every reader (docs/reliability.md): two to three hours. READERS=... for some.
fuzz: $(VENV)/.ready
	"$(BIN)/python" tests/fuzz/full.py $(READERS)

# Theory at the edges of its range against mpmath, large sizes and many threads included: some ten minutes and 2 GiB (docs/reliability.md).
stress: $(VENV)/.ready
	PROTEUS_STRESS=1 "$(BIN)/python" -m pytest tests/theory/test_stress.py

# What needs a GPU, on a machine that has one; the other tests hide it.
test-gpu: $(VENV)/.ready
	PROTEUS_TEST_GPU=1 "$(BIN)/python" -m pytest tests/empirics/test_gpu.py

# Plants seventy alterations in copies of a small run, and expects the audit to find each of them.
audit-test: $(VENV)/.ready $(AUDIT_RUN)/manifest.json
	OMP_NUM_THREADS=1 PROTEUS_AUDIT_RUN="$(AUDIT_RUN)" "$(BIN)/python" -m pytest -n auto --maxprocesses=4 tests/empirics/test_audit.py

# On one thread, as the tests audit it: made again on another number, a run may have other last bits, and --repeat says no more.
$(AUDIT_RUN)/manifest.json: | $(VENV)/.ready
	OMP_NUM_THREADS=1 "$(BIN)/proteus-bounds" verify --preset small --set backbone.max_length=16 --out "$(AUDIT_RUN)"

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
	$(LOCKED) -r supply/notebooks.txt
	"$(BIN)/jupyter" lab notebooks

# The site, in docs/_build/html. Everything is read anew, so that no warning of an earlier build is forgotten; warnings are errors.
# LINKS=1 also asks for every page outside that is linked to.
docs: $(VENV)/.ready
	$(LOCKED) -r supply/docs.txt
	"$(BIN)/python" -m sphinx -E -W -n --keep-going -q -d docs/_build/doctrees -b html docs docs/_build/html
	$(if $(LINKS),"$(BIN)/python" -m sphinx -W -n --keep-going -q -d docs/_build/doctrees -b linkcheck docs docs/_build/linkcheck)
	@echo "The documentation lies in docs/_build/html/index.html"

# That the site builds and its reference tells every option, setting and field; the other tests do without the packages for that.
test-docs: $(VENV)/.ready
	$(LOCKED) -r supply/docs.txt
	"$(BIN)/python" -m pytest tests/docs/test_site.py

# Changes the modules of the bounds one operator, number or argument at a time and expects a test to fail. Every mutant that survives must
# stand in tests/theory/mutants.md with the reason why no test can tell it apart; "mutmut show NAME" shows one.
mutants: $(VENV)/.tools
	rm -rf mutants
	OMP_NUM_THREADS=1 "$(BIN)/mutmut" run --max-children 2 $(if $(MUTANTS),"$(MUTANTS)")
	"$(BIN)/mutmut" results > mutants/results.txt
	@grep -avE ': (timeout|not checked)' mutants/results.txt | sed -n 's/^ *\(theory[^ ]*\): .*/\1/p' > mutants/survivors.txt
	@status=0; while read -r name; do \
	  grep -aqF "| $$name |" tests/theory/mutants.md || { echo "not in tests/theory/mutants.md: $$name"; status=1; }; \
	done < mutants/survivors.txt; exit $$status

# The annotations of theory, strictly (pyproject.toml, tool.mypy).
types: $(VENV)/.tools
	"$(BIN)/mypy" theory

# Lines and branches of theory that its own tests run, in build/coverage; fails if fewer than 95% of the branches are (which the figure of
# pyproject.toml, tool.coverage, counts together with the lines).
coverage: $(VENV)/.tools
	"$(BIN)/python" -m coverage erase
	"$(BIN)/python" -m coverage run -m pytest tests/theory
	"$(BIN)/python" -m coverage html
	"$(BIN)/python" -m coverage report
	"$(BIN)/python" -m coverage json -q -o build/coverage/coverage.json
	@"$(BIN)/python" -c "import json; t = json.load(open('build/coverage/coverage.json'))['totals']; \
	  share = 100 * t['covered_branches'] / t['num_branches']; print(f\"branches: {t['covered_branches']} of {t['num_branches']}, {share:.2f}%\"); \
	  raise SystemExit(share < 95 and 'branches of theory: below 95%')"

bench: $(VENV)/.ready
	"$(BIN)/python" benchmarks/scoring.py
	"$(BIN)/python" benchmarks/adapters.py
	"$(BIN)/python" benchmarks/bounds.py --clusters 500
	"$(BIN)/python" benchmarks/index.py
	"$(BIN)/python" benchmarks/separation.py
	"$(BIN)/python" benchmarks/pairs.py
	"$(BIN)/python" benchmarks/cascade.py
	"$(BIN)/python" benchmarks/serving.py
	"$(BIN)/python" benchmarks/cost_model.py --quick
	"$(BIN)/python" benchmarks/durability.py
	"$(BIN)/python" benchmarks/sweep.py --cells 12 --repeats 1

lint: $(VENV)/.tools
	"$(BIN)/python" -m ruff check . && "$(BIN)/python" -m ruff format --check .

$(VENV)/.tools: $(VENV)/.ready supply/tools.txt
	$(LOCKED) -r supply/tools.txt
	touch "$@"

# Pins and hashes anew, from pyproject.toml and supply/materials.in; pins that still fit stay (docs/how-to/dependencies.md).
lock: $(VENV)/.tools
	"$(BIN)/python" supply/lock.py $(if $(UPGRADE),--upgrade $(filter-out all,$(UPGRADE)))

# What is installed in the environment, as CycloneDX.
sbom: $(VENV)/.tools
	mkdir -p build
	"$(BIN)/cyclonedx-py" environment "$(BIN)/python" --pyproject pyproject.toml --output-reproducible -o build/sbom.json

# The list of licences in docs/reference, of everything that the locks hold.
licences: $(VENV)/.tools
	$(LOCKED) -r supply/docs.txt -r supply/notebooks.txt
	"$(BIN)/python" supply/licences.py

# Each extra installed alone in a fresh environment, and used. EXTRAS="command figures" tries some.
extras-test: $(VENV)/.ready
	"$(BIN)/python" supply/extras.py $(EXTRAS)

clean:
	rm -rf "$(VENV)"
