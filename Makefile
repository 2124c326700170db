# make demo and make test are all that a new checkout needs: both make .venv first.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread for each worker: the workers share the cores already.
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test torture test-slow test-paths coverage names outputs check docs build clean

help:  ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

venv: $(READY)  ## make .venv and install pvae into it, with the tested versions

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pvae needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -c constraints.txt -e ".[test,docs]"
	@touch $(READY)

demo: $(READY)  ## compare three objectives on the digits; the report lands in reports/digits
	$(BIN)/pvae compare vae --data digits --objectives elbo,iwae:particles=8,renyi:alpha=0.5:particles=8 --seeds 3 --out reports/digits

test: $(READY)  ## run the test suite, without the slow grids and the pages of the documentation
	@command -v chromium chromium-browser google-chrome >/dev/null || echo "There is no Chromium: the tests of pages in a browser are skipped."
	$(TEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not pages"

torture: $(READY)  ## kill trainings and comparisons and change files, PVAE_TORTURE=130 times as often as the suite
	PVAE_TORTURE=$${PVAE_TORTURE:-130} $(TEST) -n $(JOBS) --dist load -rP tests/torture

test-slow: $(READY)  ## run the slow grids
	$(TEST) -n $(JOBS) --dist loadfile -m slow

test-paths: $(READY)  ## run the tests that look at paths, with their temporary files in this folder
	@mkdir -p build
	$(TEST) -q -n $(JOBS) -m paths --basetemp "$(CURDIR)/build/tmp" $$(grep -rl "pytest.mark.paths" tests --include="test_*.py")

coverage: $(READY)  ## run the suite with branch coverage; fail if under 95 % of the lines of pvae/ run
	$(TEST) -n $(JOBS) --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered --cov-report=xml
	$(BIN)/python tests/support/covered_lines.py coverage.xml 95

names: $(READY)  ## add new public names to tests/repository/public_names.txt
	$(BIN)/python tests/support/public_names.py --add

outputs: $(READY)  ## run the blocks of all pages of the documentation, and write what they print and draw into the pages
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python tests/support/page_outputs.py
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python tests/support/notebooks.py

check: $(READY)  ## format, lint, types, docs with warnings as errors and all that they show, doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy pvae tests/typing
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(TEST) -q tests/repository/test_built_docs.py
	$(TEST) -q -n $(JOBS) --dist load -m pages tests/repository
	$(TEST) -q --doctest-modules pvae

docs: $(READY)  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

build: $(READY)  ## build wheel and sdist into dist/, and check them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -c constraints.txt -e ".[release]"
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(TEST) -q tests/repository/test_packaging.py tests/repository/test_conda_recipe.py

clean:  ## remove what the other targets made, .venv included; runs/ and reports/ stay
	rm -rf $(VENV) .coverage .coverage.* coverage.xml build dist docs/_build docs/reference/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
