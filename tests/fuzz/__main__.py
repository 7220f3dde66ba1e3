"""Runs all targets in turn, each in a process of its own: atheris ends the process it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace

from tests.fuzz.harness import HANGS, SHRINKS, arguments

TARGETS = ("requests", "responses", "chunked")
STARTS = 2.0  # seconds that a target takes to begin and to end
LEAST = 1.0


def main() -> int:
    """Share the time out; the exit status is 1 if any target found something."""
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found = _run_all(options, {**os.environ, "TMPDIR": folder})
    print("findings in " + ", ".join(found) if found else "no findings", flush=True)
    return 1 if found else 0


def _run_all(options: Namespace, environment: dict[str, str]) -> list[str]:
    until = time.monotonic() + (options.seconds or 30.0)
    found: list[str] = []
    for number, target in enumerate(TARGETS):
        share = (until - time.monotonic()) / (len(TARGETS) - number)
        seconds = max(LEAST, share - min(STARTS, share / 2))
        command = [sys.executable, "-m", f"tests.fuzz.fuzz_{target}", f"--seconds={seconds:.1f}"]
        command += [
            f"--seed={options.seed}",
            f"--engine={options.engine}",
            f"--runs={options.runs}",
        ]
        try:
            ended = subprocess.run(
                command, env=environment, timeout=seconds + HANGS + SHRINKS + 30.0, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"{target}: does not end", flush=True)
            found.append(target)
        else:
            if ended.returncode:
                found.append(target)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
