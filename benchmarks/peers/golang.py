"""Go's httputil.ReverseProxy in a small program, peers/reverseproxy.go."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.machine import CHECKOUT, tool
from benchmarks.peers import Peer, Site


def build(name: str, directory: Path) -> str:
    """Compile peers/NAME.go to DIRECTORY/NAME unless that was done.

    Returns:
        What went wrong, or nothing.
    """
    program = directory / name
    if program.exists():
        return ""
    compiler = tool("go")
    if compiler is None:
        return "go is not installed"
    source = CHECKOUT / "benchmarks" / "peers" / f"{name}.go"
    done = subprocess.run(
        [compiler, "build", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip()[:500] if done.returncode else ""


class GoReverseProxy(Peer):
    """The standard library's proxy; it writes no access log, which is to its advantage here."""

    def __init__(self, *, percent: int = 100) -> None:
        """Args: percent: GOGC, by how much the heap may grow between two collections."""
        self.name = "go" if percent == 100 else f"go GOGC={percent}"
        self.environment = {"GOGC": str(percent)}
        self._program = Path()

    def prepare(self, directory: Path) -> str:
        """Compile it."""
        self._program = directory / "reverseproxy"
        return build("reverseproxy", directory)

    def command(self, site: Site) -> list[str]:
        """As Peer."""
        table = site.directory / "endpoints"
        table.write_text("".join(f"{host}:{port}\n" for host, port in site.endpoints))
        return [
            str(self._program),
            f"-listen=127.0.0.1:{site.port}",
            f"-endpoints={table}",
            f"-sink=127.0.0.1:{site.sink_port}",
        ]
