# make notebooks   run every notebook       make test   all tests, no network needed after install
# make lab         open JupyterLab          make lint   formatting, lint, types        make clean   remove what these made
# make book        the web book, build/book make browser   the book and JupyterLab, tried in Chromium
#
# PYTHON chooses the interpreter of the environment (3.11 or newer): make test PYTHON=python3.13

# Dozens of kernels start, and each imports torch: what Python has compiled is kept, also where the environment says not to.
export PYTHONDONTWRITEBYTECODE =

PYTHON ?= python3
BOOT := .venv-boot
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: notebooks test lab lint clean lock sync install book browser writeup
.DELETE_ON_ERROR:

notebooks: $(STAMP)
	$(BIN)/tnlib run

# Lessons and solutions are compared output by output; one that times is compared on its tagged cells only (lax). Experiments and
# benchmarks print little: papermill runs each with two sets of parameters, in `tests`, and looks at what it records.
LAX := notebooks/00_start_here.ipynb
STRICT := $(filter-out $(LAX), $(sort $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)))
NBVAL := --nbval-current-env --nbval-sanitize-with tests/nbval-sanitize.cfg --nbval-cell-timeout 600

# Two processes, each with one thread; `loadscope` keeps the cells of a notebook together.
PAIRS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: $(STAMP)
	$(PAIRS) --dist worksteal --durations 40 tests
	$(BIN)/python -m pytest --nbval-lax $(NBVAL) $(LAX)
	$(PAIRS) --dist loadscope --nbval $(NBVAL) $(STRICT)

# A learner's copies, in learn/, opened on the map. Jupyter asks root (in a container, say) for its consent. Options:
# make lab LAB_ARGS="--no-browser --port 8890"
lab: $(STAMP)
	$(BIN)/tnlib learn
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" \
		--ServerApp.jpserver_extensions="{'jupyterlab_jupytext': False}" --LabApp.app_settings_dir="$(CURDIR)/learn/.lab" \
		--LabApp.default_url=/lab/tree/learn/README.md $(LAB_ARGS)

# Pages of the stored outputs: build/book/index.html, read from a disk or a server. Nothing is executed.
book: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python book/build.py

# Two pages on the scheme of lesson 14, made anew from the records: build/writeup/emis.html, to be read or printed.
writeup: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python book/write_up.py

# What a reader does, in a real browser: Debian's package chromium, or the one that CHROMIUM names.
browser: book
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser/walk_pages.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

# uv comes by pip into a folder of its own, which needs neither venv nor rights to the system's packages.
$(STAMP): requirements.lock requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": call make with PYTHON=python3.12, say")'
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --upgrade --target $(BOOT) --require-hashes -r requirements-uv.lock
	$(BOOT)/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv
	$(BOOT)/bin/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BOOT)/bin/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# For maintainers: pin the newest versions that pyproject.toml allows; write the notebooks from their sources.
lock: $(STAMP)
	$(BOOT)/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url pyproject.toml --extra dev -o requirements.lock

sync: $(STAMP)
	$(BIN)/tnlib sync

clean:
	rm -rf .venv $(BOOT) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
