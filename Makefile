# make sweep: set up, then search information alignment's coefficients on the embedded digits.
# make test:  set up, then run the whole test suite.
# make cluster: set up what starts and runs clusters (cluster.yaml).
# make test-cluster: set up, then run a sweep on three hosts that this machine pretends to be (root, sshd, rsync, iproute2).
.PHONY: sweep test test-cluster bench lint setup cluster clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
CLUSTERED := $(VENV)/.clustered

sweep: $(INSTALLED)
	$(BIN)/python -m aln.sweep search_spaces/information.yaml

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-cluster: $(TESTABLE)
	ALN_THREE_HOSTS=1 $(BIN)/python -m pytest tests/cluster

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TESTABLE)
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/sweep_share.py
	$(BIN)/python benchmarks/sweep_overhead.py
	$(BIN)/python benchmarks/sweep_growth.py
	$(BIN)/python benchmarks/suggestion_cost.py
	$(BIN)/python benchmarks/alignment_cost.py
	$(BIN)/python benchmarks/data_loading.py
	$(BIN)/python benchmarks/store_rates.py
	$(BIN)/python benchmarks/scaling.py

setup: $(TESTABLE)

cluster: $(CLUSTERED)

# A stamp is newer than what it was installed from, so an environment is made once and brought up to date after a pull.
# What only tests and checks need comes with them: TensorFlow, which writes the checkpoints that are imported, is large.
# Python compiles what it imports when it first does; to have all of the packages compiled took a third of the time.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("aln needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) .
	touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) '.[dev]'
	touch $@

$(CLUSTERED): $(INSTALLED)
	$(PIP) '.[cluster]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
