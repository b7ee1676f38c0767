# One environment in .venv, rebuilt when what it installs changes. `make app` and `make test` need nothing before them
# but Python 3.11+ and its venv module.
PYTHON ?= python3
# Your own torch build: `make app TORCH="torch --index-url <the one that PyTorch's selector names>"`,
# or `make app TORCH=` to use the torch that is already in .venv.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8501
# Tests use one thread a process; a file stays in one process, so that what it sets up is made once. Files go out in the
# order that tests/conftest.py puts them in: those with long tests first, so that no process is left alone with them.
PARALLEL ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: app test test-slow test-all lm-eval reliability check format bench demo pack clean audit-dependencies

app: $(STAMP)
	$(BIN)/streamlit run streamlit_app.py --server.port $(PORT)

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

# The slow tests alone. TRACE_KILLS says how many kills of each kind there are: 200 unless it is set.
test-slow: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not gpu"

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu"

# The real lm-evaluation-harness beside TRACE's own scoring, in an environment of its own, because its pins are not those of
# constraints.txt. Fails where it cannot be installed; `make test` skips the comparison.
lm-eval:
	test -x build/lm-eval/bin/python || $(PYTHON) -m venv build/lm-eval
	$(if $(strip $(TORCH)),build/lm-eval/bin/python -m pip install --quiet $(TORCH))
	build/lm-eval/bin/python -m pip install --quiet --editable '.[lm-eval]' pytest pytest-timeout pytest-xdist hypothesis
	TRACE_LM_EVAL=required build/lm-eval/bin/python -m pytest --numprocesses=0 tests/evaluation/test_lm_eval.py

reliability: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not slow" --reliability=docs/reliability.md

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m bench

demo: $(STAMP)
	$(BIN)/trace-moe demo --out artefacts/demo

# Asks PyPI, else OSV, about the versions in constraints.txt; ends with 3 where neither can be asked.
audit-dependencies:
	.ci/audit-dependencies $(PYTHON)

clean:
	rm -rf $(VENV) artefacts build *.egg-info

$(STAMP): requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(strip $(TORCH)),$(BIN)/python -m pip install --quiet $(TORCH))
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@
