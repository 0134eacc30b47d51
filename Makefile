# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= logical
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread for each process: tensors are small, and tests run beside each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo docs results test unit lint types format wheel release-check floor clean

demo: $(STAMP)  ## a real comparison on embedded data with wrong labels, and a page to look at
	$(BIN)/data-agent compare --task digits --label-noise 0.4 --trusted-rows 100 --methods full,full-short,random,data-agent --seeds 5 --output runs/demo

test: lint types wheel  ## everything CI checks
	$(PYTEST)

unit: $(STAMP)  ## the quick tests
	$(PYTEST) -m "not slow and not distributed"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the documentation site, site/index.html
	$(BIN)/python docs/build.py

results: $(STAMP)  ## docs/results, from the runs in benchmarks/results
	$(BIN)/python docs/results.py

wheel: $(STAMP)  ## build the wheel, install it elsewhere, use it from another directory
	PYTHON=$(PYTHON) bash tests/check_wheel.sh

release-check:  ## is this ready for an index? versions, what is inside, a build from the sources
	$(PYTHON) tests/check_release.py

floor:  ## test the integrations on the oldest supported versions of their frameworks
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --upgrade pip
	.venv-floor/bin/python -m pip install --quiet -c constraints.txt -c floor.txt -e '.[dev]'
	.venv-floor/bin/python -m pytest tests/integrations

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-floor dist build site .cache .pytest_cache .ruff_cache
