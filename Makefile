# make demo    the whole method on generated photos, in minutes, on a laptop
# make quick   fast tests, to use while working
# make test    style and all tests, as CI runs them
# make docs    writes docs/configuration.md from the declared fields
# make audit   looks the pinned packages up in the list of known vulnerabilities
# make gpu-compile    compiles the programs for an H100 that is not here: before a release
VENV := .venv
PYTHON3 ?= python3
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check
WORKDIR ?= workdirs/demo

.PHONY: demo quick test lint docs audit gpu-compile clean

demo: $(VENV)/installed
	$(PYTHON) launch.py train --config=demo --workdir=$(WORKDIR)

quick: $(VENV)/installed-test
	$(PYTHON) -m pytest -n 2 --dist worksteal -m "not slow"

test: $(VENV)/installed-test lint
	$(PYTHON) -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(VENV)/installed
	$(PYTHON) -m auxseg_jax.config.reference > docs/configuration.md

# A folder of its own, because the tool brings other versions of what the pins name.
audit: $(VENV)/installed
	$(PYTHON3) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --requirement requirements.txt --disable-pip --no-deps

# The plugin has a folder of its own: where it is installed, JAX looks for a GPU at every start.
gpu-compile: $(VENV)/installed-test
	$(PIP) --no-deps --upgrade --target $(VENV)/cuda $$($(PYTHON) -c \
		'import jax; print(*[f"jax-cuda13-{part}=={jax.__version__}" for part in ("plugin", "pjrt")])')
	PYTHONPATH=$(VENV)/cuda $(PYTHON) -m pytest tests/gpu_test.py tests/precision_test.py

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(VENV)/bin/pip || $(PYTHON3) -m venv $(VENV) || { rm -rf $(VENV); echo "python3-venv is missing; install it"; exit 1; }
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(PIP) -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV)
