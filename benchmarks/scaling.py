"""What happens to the cost of a request as headers vary and as everything grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from benchmarks.load import Load, measure
from benchmarks.peers import Site
from benchmarks.peers.gatewayd import COMPILED, NAME
from benchmarks.plan import QUICK_PEERS, Plan
from benchmarks.stage import Proxy, Stage

TITLE: Final = "Scaling"
HEADERS: Final = {
    "same": "same",
    "varied": "varied",
    "answers": "answers vary",
    "many": "30 headers",
}
GROWTH: Final = (10, 100, 10_000)
CONNECTIONS: Final = (64, 1000, 10_000)
PEERS: Final = QUICK_PEERS
_ROUTED: Final = (NAME, COMPILED, "nginx", "haproxy")  # Go's standard proxy has no routes


def run(plan: Plan) -> None:
    """CPU per request with other headers, more routes, more endpoints and more connections."""
    for part in (headers, hosts, prefixes, endpoints, connections):
        plan.say(f" {part.__name__}")
        part(plan)


def headers(plan: Plan) -> None:
    """As request and response heads vary."""
    with plan.stage(*PEERS) as stage:

        def load(case: str) -> Load:
            mode = next(key for key, name in HEADERS.items() if case == f"headers: {name}")
            return Load(mode=mode)

        _interleave(plan, stage, stage.run_all(), [f"headers: {n}" for n in HEADERS.values()], load)


def hosts(plan: Plan) -> None:
    """As routes by host grow; requests go to all of them in turn."""
    _grow(plan, "hosts", _ROUTED, lambda n: Site(hosts=n), lambda n: Load(mode="hosts", number=n))


def prefixes(plan: Plan) -> None:
    """As routes by path prefix grow; requests go to all of them in turn."""
    _grow(
        plan, "prefixes", _ROUTED, lambda n: Site(prefixes=n), lambda n: Load("prefixes", number=n)
    )


def endpoints(plan: Plan) -> None:
    """As endpoints grow, with a kept connection to each of them."""
    with plan.stage(*PEERS) as stage:
        most = min(GROWTH[-1], stage.descriptors - 500)
    counts = (3, *GROWTH[:-1], most)
    _grow(
        plan,
        "endpoints",
        PEERS,
        lambda n: Site(idle=max(512, n + 100)),
        lambda n: Load(least=3 * n if n > 1000 else 0),
        counts,
    )


def connections(plan: Plan) -> None:
    """As client connections grow, all of them busy: each has an upstream connection too.

    One proxy runs at a time: the upstream has not descriptors enough for the kept connections of all.
    """
    with plan.stage(*PEERS) as stage:
        most = min(CONNECTIONS[-1], (stage.descriptors - 200) // 2)
        cases = {f"connections: {count:,}": count for count in (*CONNECTIONS[:-1], most)}
        plan.figures.expect(cases)
        for number in range(plan.rounds):
            for peer in plan.order(stage.peers, number):
                proxy = stage.run(peer, Site(idle=most, connections=most + 50))
                if proxy is None:
                    continue
                for case, count in cases.items():
                    load = Load(connections=count, warm=1.0 if count < 5000 else 6.0)
                    plan.attempt(proxy, case, number, _measured(plan, stage, load))
                stage.end(proxy)
            plan.say(f"  round {number + 1} of {plan.rounds}")


def _grow(
    plan: Plan,
    what: str,
    peers: tuple[str, ...],
    site: Callable[[int], Site],
    load: Callable[[int], Load],
    counts: tuple[int, ...] = GROWTH,
) -> None:
    """All sizes of one peer run at once, so that a round's ratio is of neighbours in time."""
    for name in peers:
        with plan.stage(name) as stage:
            sizes: dict[str, tuple[Proxy, int]] = {}
            for count in counts:
                wanted = site(count)
                if what == "endpoints":
                    wanted.endpoints = stage.upstream.endpoints(count)
                proxy = stage.run(stage.peers[0], wanted) if stage.peers else None
                if proxy is not None:
                    sizes[f"{what}: {count:,}"] = (proxy, count)
            plan.figures.expect(sizes)
            for number in range(plan.rounds):
                for case in plan.order(list(sizes), number):
                    proxy, count = sizes[case]
                    plan.attempt(proxy, case, number, _measured(plan, stage, load(count)))
            plan.say(f"  {what}, {name}")


def _interleave(
    plan: Plan, stage: Stage, proxies: list[Proxy], cases: list[str], load: Callable[[str], Load]
) -> None:
    def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
        return _measured(plan, stage, load(case))(proxy, case, number)

    plan.interleave(proxies, cases, once)


def _measured(
    plan: Plan, stage: Stage, load: Load
) -> Callable[[Proxy, str, int], dict[str, float | None]]:
    def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
        if plan.quick:
            window = measure(stage, proxy, replace(load, warm=load.warm * 0.7, seconds=1.0))
        else:
            window = measure(stage, proxy, load)
        plan.check(proxy, case, window.errors)
        return {"cpu": window.cpu_us, "rate": window.rate}

    return once
