"""How connections spread over workers: one listening socket that all share, or SO_REUSEPORT for each.

    python -m benchmarks.spread [--workers 2] [--rounds 10]

Workers are plain processes that accept as the gateway does, one batch at a time, and do some work for each
connection. Printed is the share of the busiest worker, which is 1/workers at best, and what happens to
connections when a worker is stopped: they are accepted by another, or wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import statistics
import time
from typing import Any

AT_ONCE = (8, 32, 100, 400)
WORK = 0.0002  # seconds for each accepted connection


def listener(port: int, *, reuse: bool) -> socket.socket:
    """A listening socket on a loopback port."""
    found = socket.socket()
    if reuse:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    found.listen(1024)
    found.setblocking(False)
    return found


def work(sock: socket.socket, counts: Any, number: int) -> None:
    """Accept and count, until killed."""
    poll = select.epoll()
    poll.register(sock, select.EPOLLIN)
    held = []
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            held.append(sock.accept()[0])
            counts[number] += 1
            until = time.perf_counter() + WORK
            while time.perf_counter() < until:
                pass


def measure(
    workers: int, connections: int, *, reuse: bool, stop: bool = False
) -> tuple[float, int]:
    """Open so many connections.

    Returns:
        The busiest worker's share, and how many connections nobody has accepted.
    """
    first = listener(0, reuse=reuse)
    port = first.getsockname()[1]
    sockets = [first] + [listener(port, reuse=True) if reuse else first for _ in range(workers - 1)]
    counts = multiprocessing.Array("i", workers)
    children = [
        multiprocessing.Process(target=work, args=(sock, counts, number), daemon=True)
        for number, sock in enumerate(sockets)
    ]
    for child in children:
        child.start()
    time.sleep(0.1)
    if stop and children[0].pid is not None:
        os.kill(children[0].pid, signal.SIGSTOP)
    clients = []
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        clients.append(client)
    time.sleep(0.1 + connections * WORK)
    accepted = list(counts)
    for child in children:
        child.kill()
        child.join()
    for each in (*clients, *sockets):
        each.close()
    return max(accepted) / max(1, sum(accepted)), connections - sum(accepted)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(
        "| connections | shared socket, busiest | SO_REUSEPORT, busiest | lost to a stopped worker |"
    )
    print("| ---: | ---: | ---: | ---: |")
    for connections in AT_ONCE:
        busiest = []
        for reuse in (False, True):
            shares = [
                measure(options.workers, connections, reuse=reuse)[0] for _ in range(options.rounds)
            ]
            busiest.append(
                f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
            )
        waiting = [
            measure(options.workers, connections, reuse=reuse, stop=True)[1]
            for reuse in (False, True)
        ]
        print(f"| {connections} | {busiest[0]} | {busiest[1]} | {waiting[0]} and {waiting[1]} |")


if __name__ == "__main__":
    main()
