"""Tests on the compiled wheel in dist/, in an environment of its own.

Run as `python -m tests.optimized SUITE…` after `make build-optimized`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# It lowers a bound to see it held; a compiled module's constants cannot be changed from outside.
_PATCHES_A_CONSTANT = "tests/unit/test_limits.py::Clients::test_the_memo_is_bounded"
HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    """Unpack the wheel beside a copy of the tests, so that nothing is imported from the checkout."""
    wheels = sorted(
        (HERE / "dist").glob("gatewayd-*-cp*.whl"), key=lambda path: path.stat().st_mtime
    )
    if not wheels:
        raise SystemExit("no compiled wheel in dist/: run `make build-optimized` first")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.unpack_archive(wheels[-1], place, "zip")
        for name in ("tests", "docs", "etc", "debian"):
            shutil.copytree(HERE / name, place / name)
        shutil.copy(HERE / "pyproject.toml", place)
        environment = {**os.environ, "PYTHONPATH": folder}  # of daemons, which run elsewhere
        asked = [sys.executable, "-c", "import gatewayd.proxy.forward as f; print(f.__file__)"]
        used = subprocess.run(asked, cwd=place, capture_output=True, text=True, check=True).stdout
        if not used.strip().endswith(".so") or folder not in used:
            raise SystemExit(f"not the compiled one: {used}")
        for suite in sys.argv[1:]:
            run = [sys.executable, "-m", "pytest", "-q", suite, f"--deselect={_PATCHES_A_CONSTANT}"]
            run.append("--ignore=tests/live/zookeeper")
            subprocess.run(run, cwd=place, env=environment, check=True)


if __name__ == "__main__":
    main()
