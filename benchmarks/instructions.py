"""`python -m benchmarks.instructions`: instructions of the hot functions, counted by valgrind.

Times differ from run to run, counts hardly do: they tell what a change of a few lines costs. Each run
appends a line to benchmarks/history.csv, so that commits can be compared; counts are comparable only
within one Python build. As `--inside` it is the program that valgrind runs: a call of getppid()
between two pieces of work makes callgrind write down what came before.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.machine import CHECKOUT, build, commit, now, python, tool

HISTORY: Final = CHECKOUT / "benchmarks" / "history.csv"
_TURNS: Final = 400
_WARM: Final = 100
_ABOUT: Final = ("date", "commit", "build", "python", "tool")
_TOTAL: Final = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)

_REQUEST: Final = (
    b"GET /api/items?page=%d&size=50 HTTP/1.1\r\nHost: www.example.com\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n"
    b"Cache-Control: no-cache\r\nReferer: https://www.example.com/start\r\n"
    b"Cookie: session=%032x; theme=dark; consent=1\r\nX-Trace-Id: %032x\r\n\r\n"
)
_RESPONSE: Final = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 20:00:%02d GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n"
    b'Cache-Control: private, max-age=0\r\nVary: Accept-Encoding\r\nETag: "%032x"\r\n\r\n'
)

Work = Callable[[int], Any]


def works() -> dict[str, Work]:
    """The hot functions, each given the number of its turn."""
    from gatewayd.core.addresses import Address
    from gatewayd.core.balancers import RoundRobin
    from gatewayd.core.endpoints import Member, reconcile
    from gatewayd.core.pooling import FAST, Ledger
    from gatewayd.http1.requests import PathRules, read_request
    from gatewayd.http1.responses import read_response
    from gatewayd.http1.serialising import request_bytes, response_bytes

    rules = PathRules()
    # Prepared, so that only reading is counted; the varied ones are all different.
    requests = [_REQUEST % (n, n * 7919, n * 104729) for n in range(_TURNS + _WARM)]
    responses = [_RESPONSE % (n % 60, n * 7919) for n in range(_TURNS + _WARM)]
    head = read_request(requests[0], rules, 256)
    answer = read_response(responses[0], b"GET")
    assert head is not None and answer is not None
    added = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nVia: 1.1 gatewayd\r\n"
    members = [Member(Address("tcp", f"10.0.0.{n}", 8080)) for n in range(3)]
    endpoints = reconcile((), members).members
    pick = RoundRobin(endpoints, random=Random(1)).next
    assert pick is not None
    ledger = Ledger(max_idle=512, max_idle_per_endpoint=64, max_open=0)
    for _ in range(2):
        ledger.opening(endpoints[0], FAST)
        ledger.keep(endpoints[0], FAST, object())

    def pool(turn: int) -> None:
        connection = ledger.take(endpoints[0], FAST)
        assert connection is not None
        ledger.keep(endpoints[0], FAST, connection)

    return {
        "empty": lambda turn: None,
        "request, same": lambda turn: read_request(requests[0], rules, 256),
        "request, varied": lambda turn: read_request(requests[turn], rules, 256),
        "response, same": lambda turn: read_response(responses[0], b"GET"),
        "response, varied": lambda turn: read_response(responses[turn], b"GET"),
        "serialise request": lambda turn: request_bytes(b"GET", head.path, head.lines, added),
        "serialise response": lambda turn: response_bytes(200, b"OK", answer.lines, added),
        "pick": lambda turn: pick(),
        "pool take and keep": pool,
    }


def inside() -> None:
    """What valgrind runs: each work after a mark of its own."""
    import gc

    todo = works()
    gc.disable()  # a collection would fall into whichever work is going on
    for work in todo.values():
        for turn in range(_TURNS, _TURNS + _WARM):
            work(turn)
    for work in todo.values():
        os.getppid()
        for turn in range(_TURNS):
            work(turn)
    os.getppid()


def count() -> dict[str, int]:
    """Instructions per call of each work, the loop around it taken off.

    Raises:
        RuntimeError: valgrind is missing, or gatewayd did not run under it.
    """
    program = tool("valgrind")
    if program is None:
        raise RuntimeError("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="gatewayd-instructions-") as directory:
        output = Path(directory) / "counts"
        done = subprocess.run(
            [
                *(program, "--tool=callgrind", "--dump-before=getppid"),
                *(f"--callgrind-out-file={output}", python(), "-m", __spec__.name, "--inside"),
            ],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-1000:])
        names = list(works())
        # The first dump is all that came before the first mark.
        dumps = [output.with_name(f"{output.name}.{n + 2}") for n in range(len(names))]
        totals = dict(zip(names, map(_total, dumps), strict=True))
    empty = totals.pop("empty")
    return {name: (total - empty) // _TURNS for name, total in totals.items()}


def _total(dump: Path) -> int:
    found = _TOTAL.search(dump.read_text())
    if found is None:
        raise RuntimeError(f"{dump.name} has no total")
    return int(found.group(1))


def append(counts: dict[str, int], history: Path = HISTORY) -> dict[str, str]:
    """Add a line to the history.

    Returns:
        The line before it that can be compared with it, or an empty one.
    """
    about = {
        "date": now(),
        "commit": commit(),
        "build": build(),
        "python": platform.python_version(),
        "tool": "callgrind",
    }
    rows: list[dict[str, str]] = []
    if history.exists():
        with history.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    same = ("build", "python", "tool")
    before = [row for row in rows if all(row[key] == about[key] for key in same)]
    rows.append({**about, **{name: str(value) for name, value in counts.items()}})
    fields = list(dict.fromkeys([*_ABOUT, *(name for row in rows for name in row)]))
    with history.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return before[-1] if before else {}


def main() -> int:
    """Count, compare with the last line of the history, and append to it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to the history")
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    counts = count()
    before = {} if options.dry else append(counts, options.history)
    print(f"{'':22} {'instructions':>12}  against {before.get('commit', 'nothing')}")
    for name, value in counts.items():
        old = int(before.get(name) or 0)
        change = f"{value / old - 1:+8.1%}" if old else ""
        print(f"{name:22} {value:12,} {change}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
