# make demo   the whole method on generated photos, in minutes, on a laptop
# make test   all tests
VENV := .venv
PYTHON := $(VENV)/bin/python
WORKDIR ?= workdirs/demo

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(PYTHON) launch.py --config=configs/demo.py --workdir=$(WORKDIR)

test: $(VENV)/installed-test lint
	$(PYTHON) -m pytest

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/installed: requirements.txt
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV) workdirs
