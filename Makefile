# `make run` and `make test` are all that a fresh machine needs; both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SECONDS ?= 600

.PHONY: run test lint unit coverage trial live zookeeper simulated packaging debian-set fuzz \
	build-optimized unit-optimized live-optimized benchmark benchmark-quick profile memprofile load-test chaos man \
	observability deb deb-test docker-build clean

run: $(VENV)/.runs
	$(BIN)/gatewayd demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runs: $(VENV)/bin/python setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(STAMP): $(VENV)/bin/python setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.runs

# Everything that must hold before a change lands, three at a time (most of them wait); slower runs have targets of their own.
test: $(STAMP)
	$(MAKE) --jobs=3 --output-sync=target lint coverage trial live zookeeper simulated packaging observability debian-set

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The same unit tests under both runners: pytest for people, trial because a Twisted project is read by it.
unit: coverage trial

coverage: $(STAMP)
	$(BIN)/coverage run --data-file=build/coverage -m pytest tests/unit
	$(BIN)/coverage report --data-file=build/coverage --fail-under=100

trial: $(STAMP)
	$(BIN)/python -m twisted.trial --temp-directory=build/trial tests.unit

# The daemon from the outside, over real sockets, and the parsers under fire.
live: $(STAMP)
	$(BIN)/python -m pytest --ignore=tests/live/zookeeper tests/live
	$(BIN)/python -m tests.fuzz --seconds 20

# With Debian's ZooKeeper, which is installed or unpacked into build/.
zookeeper: $(STAMP)
	$(BIN)/python -m pytest tests/live/zookeeper

simulated: $(STAMP)
	$(BIN)/python -m pytest -s tests/simulated

packaging: $(STAMP)
	$(BIN)/python -m tests.packaging

# Debian 12's own packages, the other set that must work.
debian-set:
	sh tests/debian_set.sh

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# The same source with its hot rooms compiled by mypyc, and the tests on it; live ones take six minutes.
build-optimized: $(STAMP)
	GATEWAYD_COMPILE=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

unit-optimized: build-optimized
	$(BIN)/python -m tests.optimized tests/unit tests/simulated

live-optimized: build-optimized
	$(BIN)/python -m tests.optimized tests/live

benchmark: build-optimized
	$(BIN)/python -m benchmarks

benchmark-quick: build-optimized
	$(BIN)/python -m benchmarks --quick

# With a flame graph where py-spy can be had.
profile: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check py-spy
	$(BIN)/python -m benchmarks.profile

memprofile: $(STAMP)
	$(BIN)/python -m benchmarks.memprofile

# Several workers under load while everything happens to them that happens in production; a minute.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

# Against a gateway that runs already, such as that of `make run`.
load-test:
	@command -v wrk >/dev/null || command -v ab >/dev/null || { echo "install wrk or apache2-utils"; exit 1; }
	! command -v wrk >/dev/null || wrk -t1 -c64 -d10s --latency http://127.0.0.1:2000/
	! command -v ab >/dev/null || ab -q -k -c 64 -n 20000 http://127.0.0.1:2000/

man: $(STAMP)
	PYTHONPATH=. $(BIN)/python docs/man.py build/man

# Dashboard, rules and metrics belong together; promtool is in Debian's prometheus.
observability: $(STAMP)
	$(BIN)/python -m tests.observability

# A Debian package in dist/, and what becomes of it in a new Debian 12.
deb:
	sh tests/debian_package.sh build

deb-test:
	sh tests/debian_package.sh

docker-build:
	docker build --tag gatewayd:$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' gatewayd/__init__.py) --tag gatewayd .

clean:
	rm -rf build dist *.egg-info $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
