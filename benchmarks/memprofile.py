"""`python -m benchmarks.memprofile`: which lines of gatewayd hold memory.

The daemon runs with tracemalloc in its process and is looked at three times: started, after a load of
small requests, and while idle client connections are held. Tracing itself slows it down and is not
counted.
"""

from __future__ import annotations

import argparse
import runpy
import signal
import socket
import sys
import tracemalloc
from pathlib import Path
from typing import Any, Final

from benchmarks.load import Load, measure
from benchmarks.machine import CHECKOUT, python
from benchmarks.peers import Site
from benchmarks.peers.gatewayd import Gatewayd
from benchmarks.processes import wait_until
from benchmarks.stage import Proxy, Stage

_REQUEST: Final = (
    b"GET /api/items?page=%d HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n\r\n"
)


def inside(directory: Path, arguments: list[str]) -> None:
    """Run gatewayd in this process; each SIGUSR2 writes one more snapshot."""
    count = 0

    def snapshot(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        unfinished = directory / "unfinished"
        tracemalloc.take_snapshot().dump(str(unfinished))
        unfinished.rename(directory / f"{count}.snapshot")

    tracemalloc.start(1)
    signal.signal(signal.SIGUSR2, snapshot)
    sys.argv = ["gatewayd", *arguments]
    runpy.run_module("gatewayd", run_name="__main__")


def snapshot(proxy: Proxy, directory: Path, number: int) -> tracemalloc.Snapshot:
    """Have the daemon write its next snapshot, and read it."""
    file = directory / f"{number}.snapshot"
    proxy.child.signal(signal.SIGUSR2)
    wait_until(file.exists, 60, "a snapshot")
    hidden = [
        tracemalloc.Filter(False, tracemalloc.__file__),
        tracemalloc.Filter(False, "<frozen importlib._bootstrap>"),
    ]
    return tracemalloc.Snapshot.load(str(file)).filter_traces(hidden)


def growth(new: tracemalloc.Snapshot, old: tracemalloc.Snapshot, most: int, count: int = 1) -> str:
    """Lines whose memory grew most, in bytes for each of so many things."""
    found = sorted(new.compare_to(old, "lineno"), key=lambda one: -one.size_diff)
    total = sum(one.size_diff for one in found)
    lines = [f"{total / count:12,.1f}  in all"]
    for one in found[:most]:
        frame = one.traceback[0]
        where = frame.filename.removeprefix(f"{CHECKOUT}/")
        lines.append(
            f"{one.size_diff / count:12,.1f}  {one.count_diff / count:8.2f} blocks  "
            f"{where}:{frame.lineno}"
        )
    return "\n".join(lines)


def hold(port: int, count: int) -> list[socket.socket]:
    """Connections that made one request each and stay."""
    held = []
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(_REQUEST % number)
        answer = connection.recv(65536)
        while len(answer) < 1024:
            answer += connection.recv(65536)
        held.append(connection)
    return held


def main() -> int:
    """Take the snapshots and print what grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memprofile", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000, help="idle ones to hold")
    parser.add_argument("--most", type=int, default=15, help="lines to show")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.inside is not None:
        inside(options.inside, rest)
        return 0
    with Stage([]) as stage:
        directory = stage.directory
        command = f"{python()} -m benchmarks.memprofile --inside {directory}"
        proxy = stage.run(Gatewayd(command=command), Site(connections=options.connections + 100))
        if proxy is None:
            print(stage.missing)
            return 1
        start = snapshot(proxy, directory, 1)
        measure(stage, proxy, Load(warm=0.5, seconds=2.0))
        loaded = snapshot(proxy, directory, 2)
        held = hold(proxy.port, options.connections)
        holding = snapshot(proxy, directory, 3)
        for connection in held:
            connection.close()
        stage.end(proxy)
    print("Bytes that grew under a load of small requests:\n")
    print(growth(loaded, start, options.most))
    print(f"\nBytes for each of {options.connections:,} idle client connections:\n")
    print(growth(holding, loaded, options.most, options.connections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
