# `make demo` and `make test` are all a fresh machine needs; the rest is for working on foretaste.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check golden bench clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/foretaste demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not golden"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not golden and not slow"

golden: $(STAMP)
	$(BIN)/python -m pytest -m golden -s

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
