# Two commands for everybody: `make demo` and `make test`. Each makes the environment if it is missing.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test lint typecheck docs docs-draft docs-links install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/python examples/demo.py --out out/demo

# A process a core, four at most, as each takes about 1 GB. Each has its share of the files in order,
# so that most fixtures of files are made once; one that is done takes tests from another.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# Type checkers cannot follow setuptools' mapping of the four folders; a tree of links can.
typecheck: install
	mkdir -p .typing/wellposed
	cd .typing/wellposed && for part in ../../src/wellposed/* \
		../../solvers ../../operators ../../priors ../../datasets; do ln -sfn $$part .; done
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy examples/gallery/*.py

# The site, in out/docs. Warnings are errors, and links between pages are checked. The examples of the
# gallery run, unless they have not changed; `make docs-draft` leaves them out.
SPHINX = OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going

docs: install-docs
	$(SPHINX) docs out/docs
	$(BIN)/python docs/check_links.py out/docs

docs-draft: install-docs
	$(SPHINX) -D plot_gallery=0 docs out/docs
	$(BIN)/python docs/check_links.py out/docs

# Links to other sites; needs a network.
docs-links: install-docs
	$(BIN)/python -m sphinx -b linkcheck -D plot_gallery=0 docs out/docs-links

.PHONY: install-docs
install-docs: install
	$(BIN)/python -c "import sphinx_gallery" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --editable ".[docs]"
