"""Large bodies down and up: CPU per GiB and throughput."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from benchmarks.load import last_json
from benchmarks.machine import CHECKOUT
from benchmarks.plan import QUICK_PEERS, Plan
from benchmarks.processes import Child
from benchmarks.stage import Proxy, Stage
from benchmarks.upstream import FILES, GIB, MIB

TITLE: Final = "Bodies"


@dataclass(frozen=True)
class Body:
    """One kind of transfer."""

    kind: str  # as benchmarks.transfers names it
    name: str  # of the file
    connections: int = 4
    total: int = GIB

    @property
    def size(self) -> int:
        """Of one body in bytes."""
        return FILES[self.name]

    @property
    def path(self) -> str:
        """Where to ask for it."""
        if self.kind == "down":
            return f"/files/{self.name}"
        if self.kind == "chunked":
            return f"/chunked/{self.name}"
        return f"/sink/tunnel/{self.size}" if self.kind == "tunnel" else "/sink/upload"


CASES: Final = {
    "64 KiB down": Body("down", "64k", total=256 * MIB),
    "1 MiB down": Body("down", "1m"),
    "10 MiB down": Body("down", "10m"),
    "1 GiB down": Body("down", "1g", connections=1),
    "1 MiB down, chunked": Body("chunked", "1m"),
    "1 GiB down, chunked": Body("chunked", "1g", connections=1),
    "64 KiB up": Body("up", "64k", total=256 * MIB),
    "1 MiB up": Body("up", "1m"),
    "10 MiB up": Body("up", "10m"),
    "1 GiB up": Body("up", "1g", connections=1),
    "10 MiB up, chunked": Body("up-chunked", "10m"),
    "1 GiB tunnel": Body("tunnel", "1g", connections=1),
}
_QUICK: Final = ("10 MiB down", "10 MiB up")
_QUICK_TOTAL: Final = 160 * MIB


def run(plan: Plan) -> None:
    """CPU-ms per GiB and MB/s of every peer for every kind of body."""
    names = QUICK_PEERS if plan.quick else tuple(peer.name for peer in plan.peers())
    with plan.stage(*names, *(() if plan.quick else ("haproxy no splice",))) as stage:

        def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
            body = CASES[case]
            if body.kind == "tunnel" and not proxy.peer.tunnels:
                return {}
            total = min(body.total, _QUICK_TOTAL) if plan.quick else body.total
            return transfer(stage, proxy, body, total)

        plan.interleave(stage.run_all(), list(_QUICK if plan.quick else CASES), once)


def transfer(stage: Stage, proxy: Proxy, body: Body, total: int) -> dict[str, float | None]:
    """Move so many bytes through a proxy.

    Raises:
        RuntimeError: not all of them came through.
    """
    connections = min(body.connections, max(1, total // body.size))
    count = max(1, total // body.size // connections)
    spent = proxy.child.cpu_ns()
    child = Child(
        [
            *(sys.executable, "-m", "benchmarks.transfers", "--port", str(proxy.port)),
            *("--kind", body.kind, "--path", body.path, "--size", str(body.size)),
            *("--connections", str(connections), "--count", str(count)),
        ],
        cores=stage.load_cores,
        output=stage.directory / "transfers.out",
        cwd=CHECKOUT,
    )
    try:
        child.wait(90)
    except TimeoutError:
        child.stop()
    spent = proxy.child.cpu_ns() - spent
    found = last_json(child.output)
    if not found or found["failures"]:
        raise RuntimeError(f"bodies were lost: {child.said()[-300:]}")
    return {
        "cpu_gib": spent / 1e6 / (found["bytes"] / GIB),
        "mbs": found["bytes"] / 1e6 / found["seconds"],
    }
