# make demo   the whole method on generated photos, in minutes, on a laptop
# make test   all tests
VENV := .venv
PYTHON3 ?= python3
PYTHON := $(VENV)/bin/python
WORKDIR ?= workdirs/demo

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(PYTHON) launch.py --config=configs/demo.py --workdir=$(WORKDIR)

test: $(VENV)/installed-test lint
	$(PYTHON) -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/installed: requirements.txt
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(VENV)/bin/pip || $(PYTHON3) -m venv $(VENV) || { rm -rf $(VENV); echo "python3-venv is missing; install it"; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV)
