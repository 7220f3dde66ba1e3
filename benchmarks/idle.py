"""Memory of an idle client connection: thousands that made one request each and stay."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from benchmarks.load import Load, measure
from benchmarks.peers import Site
from benchmarks.plan import Plan
from benchmarks.stage import Proxy, Stage
from benchmarks.upstream import MIB

TITLE: Final = "Idle connections"
_REQUEST: Final = (
    b"GET /api/items?page=%d HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n"
    b"Cookie: session=%032x\r\n\r\n"
)
_SETTLE: Final = 1.0  # seconds, in which a proxy may tidy up before it is looked at


def run(plan: Plan) -> None:
    """Resident memory per idle connection; what the kernel keeps for a socket does not count.

    Each round starts the proxy anew, and warms it up first, so that the memory of its first requests
    is not taken for that of its connections.
    """
    wanted = 2000 if plan.quick else 10_000
    with plan.stage() as stage:
        count = min(wanted, stage.descriptors - 500)
        site = Site(connections=count + 100)
        for number in range(plan.rounds):
            for peer in plan.order(stage.peers, number):
                proxy = stage.run(peer, site.copy())
                if proxy is None:
                    continue
                try:
                    plan.attempt(
                        proxy,
                        f"{count:,} connections",
                        number,
                        lambda proxy, _, __: _once(stage, proxy, count),
                    )
                finally:
                    stage.end(proxy)
            plan.say(f"  round {number + 1} of {plan.rounds}")


def _once(stage: Stage, proxy: Proxy, count: int) -> dict[str, float | None]:
    measure(stage, proxy, Load(warm=0.2, seconds=0.8))
    time.sleep(_SETTLE)
    before = proxy.child.resident()
    held: list[socket.socket] = []
    try:
        for number in range(count):
            held.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=10))
            held[-1].sendall(_REQUEST % (number, number))
            answer = held[-1].recv(65536)
            while len(answer) < 1024:
                answer += held[-1].recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"connection {number} was answered {answer[:40]!r}")
        time.sleep(_SETTLE)
        after = proxy.child.resident()
    finally:
        for connection in held:
            # A reset: thousands of closed connections would wait in TIME_WAIT otherwise.
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
    return {
        "connection_kib": (after - before) / 1024 / count,
        "idle_mib": before / MIB,
        "load_mib": after / MIB,
    }
