# `make` lists the commands. PYTHON names the Python to build the environment from.
PYTHON = python3
PY = .venv/bin/python
ENVIRONMENT = .venv/ready
PORT = 8000

.PHONY: help book test oldest serve notebooks chapter lab lint data bench experiments clean

help:
	@echo "make book        build the book into _build/html and say where to open it"
	@echo "make test        run every test: package, notebooks and the built site (needs Chromium)"
	@echo "make oldest      test the package with the oldest PyTorch that pyproject.toml admits"
	@echo "make serve       build the book and serve it at http://127.0.0.1:8000; or PORT=8001"
	@echo "make notebooks   execute every chapter in place"
	@echo "make chapter C=chapters/part/name.ipynb   execute one chapter in place"
	@echo "make lab         open the chapters in JupyterLab"
	@echo "make lint        check formatting, lint and types"
	@echo "make data        fetch the data packages that the chapters read"
	@echo "make bench       race this package against others; RACES=\"window alibi\" runs some of them"
	@echo "make experiments C=name   run again the recorded experiment of a chapter (long)"
	@echo "make clean       remove what the other commands made"

$(ENVIRONMENT): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("This book needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@echo "Installing the environment into .venv. This takes some minutes, once."
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -r requirements.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(PY) -c 'import matplotlib.font_manager'
	@touch $@

book: $(ENVIRONMENT)
	@$(PY) tools/build_book.py

test: book data
	$(PY) -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --doctest-modules

# An environment of its own: the same packages, but for PyTorch and what that asks for.
oldest:
	$(PYTHON) -m venv .oldest
	grep -v "^torch==" requirements.txt > .oldest/requirements.txt
	.oldest/bin/python -m pip install --quiet -r .oldest/requirements.txt
	.oldest/bin/python -m pip install --quiet $$(sed -n 's/.*"torch>=\([0-9.]*\)".*/torch==\1.*/p' pyproject.toml)
	.oldest/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	.oldest/bin/python -m attn_core.data
	.oldest/bin/python -m pytest -n 2 --dist loadfile tests \
	  --ignore tests/book --ignore tests/site --ignore tests/benchmarks --ignore tests/experiments

serve: book
	@$(PY) tools/serve_book.py "$(PORT)"

notebooks: $(ENVIRONMENT) data
	$(PY) tools/execute_notebooks.py

chapter: $(ENVIRONMENT) data
	@test -n "$(C)" || { echo "Say which: make chapter C=chapters/part/name.ipynb"; exit 1; }
	@$(PY) tools/execute_notebooks.py "$(C)"

lab: $(ENVIRONMENT) data
	$(PY) -m jupyterlab chapters

lint: $(ENVIRONMENT)
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy attn_core tests/client.py

data: $(ENVIRONMENT)
	@$(PY) -m attn_core.data

# The peers lie in a folder of their own, which nothing else sees.
.bench/ready: benchmarks/requirements.txt $(ENVIRONMENT)
	rm -rf .bench
	$(PY) -m pip install --quiet --no-deps --target .bench -r benchmarks/requirements.txt
	@touch $@

bench: .bench/ready
	PYTHONPATH=.bench $(PY) -W ignore -m benchmarks $(RACES)

experiments: $(ENVIRONMENT) data
	@test -n "$(C)" || { echo "Say which: make experiments C=why_attention"; exit 1; }
	@$(PY) -m experiments "$(C)"

clean:
	rm -rf .venv .oldest .bench build dist _build _vendor
