#!/bin/sh
# Unit and live tests with Debian 12's own Twisted 22.4, kazoo 2.8, prometheus-client 0.16, ...
set -eu
cd "$(dirname "$0")/.."
PYTHON=/usr/bin/python3
if ! $PYTHON -c 'import twisted, treq, prometheus_client, kazoo, yaml, OpenSSL, pytest, hypothesis, jsonschema' 2>/dev/null; then
    echo "debian-set: Debian's python3-twisted, -treq, -openssl, -prometheus-client, -kazoo, -yaml," \
        "-pytest, -hypothesis and -jsonschema are not installed; NOT RUN" >&2
    [ -z "${CI:-}" ] && exit 0
    exit 1
fi
# Nothing of the virtual environment may help, hence -s and a path of our own.
PYTHONPATH="$PWD" PYTHONNOUSERSITE=1 $PYTHON -m pytest -p no:cacheprovider tests/unit
PYTHONPATH="$PWD" PYTHONNOUSERSITE=1 $PYTHON -m pytest -p no:cacheprovider \
    tests/live/test_balancing.py tests/live/test_expect_upgrade.py tests/live/test_streaming.py
