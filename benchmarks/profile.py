"""`python -m benchmarks.profile`: where gatewayd's time goes under the load of the small requests.

With py-spy beside the interpreter or on PATH: the functions that cost most, and a flame graph. Without
it: cProfile, which slows small functions more than large ones and draws no graph. Give several
`--mode`s to see what varied headers cost.
"""

from __future__ import annotations

import argparse
import pstats
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from benchmarks.load import Load, Window, look, start
from benchmarks.machine import CHECKOUT, tool
from benchmarks.peers import Peer
from benchmarks.peers.gatewayd import Gatewayd
from benchmarks.stage import Proxy, Stage

_OUTPUT: Final = CHECKOUT / "build" / "benchmarks"
_FRAME: Final = re.compile(r"(.+) \((.+?)(?::(\d+))?\)$")


def py_spy() -> str | None:
    """The sampling profiler, where there is one."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else tool("py-spy")


def sample(stage: Stage, proxy: Proxy, load: Load, output: Path) -> tuple[Window, list[str]]:
    """Profile with py-spy; returns what was spent meanwhile, and the collapsed stacks."""
    program = py_spy() or "py-spy"
    stacks = output.with_suffix(".txt")
    run = start(stage, proxy.port, load)
    try:
        time.sleep(load.warm)
        window = look(stage, proxy, run, load.seconds)  # without the profiler
        for form, file in (("raw", stacks), ("flamegraph", output)):
            done = subprocess.run(
                [
                    *(program, "record", "--pid", str(proxy.child.pid), "--rate", "400"),
                    *("--duration", str(max(1, round(load.seconds))), "--format", form),
                    *("--output", str(file), "--nonblocking"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"py-spy: {done.stderr.strip()[-300:]}")
    finally:
        run.stop()
    return window, stacks.read_text().splitlines()


def functions(stacks: list[str]) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function: of its own, with what it called, and in all; waiting does not count."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, text = line.rpartition(" ")
        frames = [_named(frame) for frame in stack.split(";")]
        if "_work" in frames[-1] or "wait (threading.py" in frames[-1]:
            continue  # the log's writer, waiting for lines
        count = int(text)
        total += count
        own[frames[-1]] += count
        whole.update(dict.fromkeys(set(frames), count))
    return own, whole, total


def _named(frame: str) -> str:
    found = _FRAME.match(frame)
    if found is None:
        return frame
    return f"{found.group(1)} ({found.group(2).removeprefix(f'{CHECKOUT}/')})"


def table(own: Counter[str], whole: Counter[str], total: int, cpu_us: float, most: int) -> str:
    """The dearest functions, in shares and in microseconds of a request."""
    lines = [f"{'own':>6} {'own µs':>7} {'whole µs':>8}  function"]
    for name, count in own.most_common(most):
        share = count / total
        inside = whole[name] / total
        lines.append(f"{share:6.1%} {share * cpu_us:7.2f} {min(inside, 1.0) * cpu_us:8.2f}  {name}")
    return "\n".join(lines)


def trace(stage: Stage, load: Load, output: Path, most: int) -> str:
    """Profile with cProfile: the daemon runs under it from start to end."""
    stats = output.with_suffix(".pstats")
    peer = Gatewayd(prefix=("-m", "cProfile", "-o", str(stats)))
    proxy = _started(stage, peer)
    run = start(stage, proxy.port, load)
    try:
        time.sleep(load.warm)
        look(stage, proxy, run, load.seconds)
    finally:
        run.stop()
    stage.end(proxy)
    if not stats.exists():
        raise RuntimeError("cProfile wrote nothing: gatewayd did not end cleanly")
    text = stage.directory / "pstats.out"
    with text.open("w") as stream:
        pstats.Stats(str(stats), stream=stream).strip_dirs().sort_stats("tottime").print_stats(most)
    return text.read_text()


def _started(stage: Stage, peer: Peer) -> Proxy:
    lack = peer.prepare(stage.directory)
    proxy = None if lack else stage.run(peer)
    if proxy is None:
        raise RuntimeError(lack or stage.missing[peer.name])
    return proxy


def main() -> int:
    """Profile and print; files go to build/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--mode", default="varied", help="of the load: same, varied, answers, many")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--most", type=int, default=40, help="functions to show")
    parser.add_argument("--cprofile", action="store_true", help="even where py-spy is to be had")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = Load(mode=options.mode, connections=options.connections, seconds=options.seconds)
    _OUTPUT.mkdir(parents=True, exist_ok=True)
    output = _OUTPUT / f"profile-{options.mode}.svg"
    with Stage([]) as stage:
        if options.cprofile or py_spy() is None:
            print(trace(stage, load, output, options.most))
            return 0
        window, stacks = sample(stage, _started(stage, Gatewayd()), load, output)
    own, whole, total = functions(stacks)
    print(
        f"{window.cpu_us:.1f} CPU-µs per request, {window.rate:,.0f} requests/s without the "
        f"profiler; {total} samples; flame graph: {output.relative_to(CHECKOUT)}\n"
    )
    print(table(own, whole, total, window.cpu_us, options.most))
    return 0


if __name__ == "__main__":
    sys.exit(main())
