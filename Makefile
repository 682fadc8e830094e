# `make demo` and `make test` are all a fresh machine needs; the rest is for working on foretaste.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
BROWSER := .venv/.browser
PEERS := .venv/.peers

.PHONY: demo serve test check fuzz golden bench clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

# The page is tested in Debian's Chromium; where there is another, name it in CHROMIUM.
$(BROWSER): $(STAMP)
	@command -v $${CHROMIUM:-chromium} >/dev/null || (apt-get update -q && \
		apt-get install -y -q --no-install-recommends chromium) >.venv/browser.log 2>&1 || \
		(tail -5 .venv/browser.log; echo 'Install Chromium, or name one: make test CHROMIUM=...'; false)
	touch $@

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[bench]'
	touch $@

demo: $(STAMP)
	$(BIN)/foretaste demo

# What `make demo` trained, with the page; it goes on until Ctrl-C.
serve: $(STAMP)
	test -d demo-bundle || $(MAKE) demo
	$(BIN)/foretaste serve demo-bundle

test: $(BROWSER)
	$(BIN)/python -m pytest -m "not golden and not fuzz" -n 2

check: $(BROWSER)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -m "not golden and not fuzz and not slow" -n 2

# 20,000 broken files of every kind and layout, some minutes.
fuzz: $(STAMP)
	$(BIN)/python -m pytest -m fuzz -n 2

golden: $(STAMP)
	$(BIN)/python -m pytest -m golden -s

bench: $(PEERS)
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
