"""Whether an installed gatewayd shows its plugin: from a wheel, and editable, seen from elsewhere.

Run as `python -m tests.packaging`; makes its environments in a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def packages_in_tree() -> list[str]:
    """Every package that the tree holds."""
    inner = sorted(path.parent for path in (HERE / "gatewayd").rglob("__init__.py"))
    names = [".".join(path.relative_to(HERE).parts) for path in inner]
    return [*names, "twisted.plugins"]


def packages_in_setup() -> list[str]:
    """Every package that setup.py lists."""
    shown = subprocess.run(
        [sys.executable, "-c", _PRINT_PACKAGES],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.split()


_PRINT_PACKAGES = """
import setuptools
setuptools.setup = lambda **given: print(*given["packages"])
exec(open("setup.py").read().replace("__file__", repr("setup.py")))
"""


def shows_plugin(python: Path, elsewhere: Path) -> None:
    """`twistd --help` and `gatewayd --version` know us.

    Raises:
        SystemExit: they don't.
    """
    helped = subprocess.run(
        [python.parent / "twistd", "--help"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=True,
    )
    if "gatewayd" not in helped.stdout:
        raise SystemExit("twistd --help does not name gatewayd:\n" + helped.stdout)
    subprocess.run([python.parent / "gatewayd", "--version"], cwd=elsewhere, check=True)
    subprocess.run(
        [python, "-c", "import gatewayd.demo as d; assert d.CONFIG.exists(), d.CONFIG"],
        cwd=elsewhere,
        check=True,
    )


def main() -> None:
    """Check both ways of installing."""
    if packages_in_tree() != sorted(packages_in_setup(), key=lambda n: (n == "twisted.plugins", n)):
        raise SystemExit(f"setup.py lists {packages_in_setup()}, the tree has {packages_in_tree()}")
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder)
        quiet = ["--quiet", "--disable-pip-version-check"]
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", *quiet, "-w", folder, HERE]
        subprocess.run(build, check=True)
        wheel = next(elsewhere.glob("*.whl"))
        for kind, what in (("wheel", [wheel]), ("editable", ["--editable", HERE])):
            environment = elsewhere / kind
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            python = environment / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", *quiet, *what], check=True)
            shows_plugin(python, elsewhere)
            print(f"packaging: {kind} shows the plugin")


if __name__ == "__main__":
    main()
