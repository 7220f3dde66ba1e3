"""Latency at a fixed rate below saturation, and of streams: what passing through costs in time."""

from __future__ import annotations

import socket
import time
from statistics import median, quantiles
from typing import Final

from benchmarks.load import last_json
from benchmarks.peers.golang import build
from benchmarks.plan import QUICK_PEERS, Plan
from benchmarks.processes import Child
from benchmarks.stage import Proxy, Stage

TITLE: Final = "Latency"
RATES: Final = (500, 2000, 5000)
DIRECT: Final = "none (direct)"
_EVENTS: Final = 5
_PAUSE_MS: Final = 20


def run(plan: Plan) -> None:
    """Latency and CPU at fixed rates; time to first byte and delay of events of a stream."""
    with plan.stage(*(QUICK_PEERS if plan.quick else ())) as stage:
        lack = build("fixedrate", stage.directory)
        if lack:
            plan.missing["fixed-rate generator"] = lack
        proxies = stage.run_all()
        streams = 5 if plan.quick else 20
        cases = [] if lack else [f"{rate}/s" for rate in ((2000,) if plan.quick else RATES)]

        def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
            if case == "stream":
                return stream(proxy.port, streams)
            rate = int(case[:-2])
            before = proxy.child.cpu_ns()
            found = fixed_rate(stage, proxy.port, rate, plan, number)
            spent = proxy.child.cpu_ns() - before
            plan.check(proxy, case, found.pop("failures"))
            return {**found, "cpu": spent / 1000 / rate / sum(_times(plan))}

        def direct(case: str, number: int) -> None:
            if case == "stream":
                found = stream(stage.upstream.sink_port, streams)
            else:
                found = dict(fixed_rate(stage, stage.upstream.port, int(case[:-2]), plan, number))
                found.pop("failures")
            plan.figures.add(case, DIRECT, number, **found)

        plan.interleave(proxies, [*cases, "stream"], once)
        for number in range(plan.rounds):
            for case in (*cases, "stream"):
                direct(case, number)


def _times(plan: Plan) -> tuple[float, float]:
    """Seconds of warming up, and seconds that count."""
    return (0.3, 1.0) if plan.quick else (1.0, 4.0)


def fixed_rate(stage: Stage, port: int, rate: int, plan: Plan, number: int) -> dict[str, float]:
    """One run of the open-loop generator, peers/fixedrate.go; every proxy meets the same arrivals."""
    warm, seconds = _times(plan)
    child = Child(
        [
            *(str(stage.directory / "fixedrate"), f"-address=127.0.0.1:{port}", f"-rate={rate}"),
            *(f"-duration={warm + seconds}s", f"-warm={warm}s", f"-seed={plan.seed + number}"),
        ],
        cores=stage.load_cores,
        output=stage.directory / "fixedrate.out",
    )
    try:
        child.wait(warm + seconds + 20)
    except TimeoutError:
        child.stop()
    found = last_json(child.output)
    if not found:
        raise RuntimeError(f"no latencies at {rate}/s: {child.said()[-200:]}")
    return {key: found[key] for key in ("p50", "p99", "p999", "late99", "failures")}


def stream(port: int, streams: int) -> dict[str, float | None]:
    """Time to first byte, and from the origin's sending of each further event to its arrival."""
    first: list[float] = []
    delays: list[float] = []
    path = f"/sink/stream?events={_EVENTS}&ms={_PAUSE_MS}"
    request = f"GET {path} HTTP/1.1\r\nHost: www.example.com\r\nAccept: text/event-stream\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(streams):
            asked = time.monotonic_ns()
            connection.sendall(request.encode())
            got = b""
            seen = 0
            while not got.endswith(b"0\r\n\r\n"):
                piece = connection.recv(65536)
                arrived = time.monotonic_ns()
                if not piece:
                    raise RuntimeError("the proxy closed a stream")
                if not got:
                    first.append((arrived - asked) / 1000)
                got += piece
                events = got.split(b"data: ")[1:]
                for event in events[max(seen, 1) :]:  # the first one came with the head
                    if event.count(b"\n") >= 1:
                        delays.append((arrived - int(event.split(b"\n")[0])) / 1000)
                seen = len(events)
    return {
        "ttfb": median(first),
        "event": median(delays),
        "event99": quantiles(delays, n=100, method="inclusive")[98],
    }
