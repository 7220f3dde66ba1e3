"""What a run is to do: which peers, how many rounds, how long."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.figures import Figures, shuffled
from benchmarks.peers import Peer
from benchmarks.peers.gatewayd import COMPILED, NAME, NO_LOG, Gatewayd
from benchmarks.peers.golang import GoReverseProxy
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.twistedweb import TwistedWeb
from benchmarks.stage import Proxy, Stage

QUICK_PEERS: Final = (NAME, COMPILED, "nginx", "haproxy", "go")


@dataclass
class Plan:
    """One run; made from the command line, and asked by the parts."""

    quick: bool = False
    rounds: int = 5
    seed: int = 1
    wanted: list[str] = field(default_factory=list)  # names of peers, empty = all
    also: dict[str, str] = field(default_factory=dict)  # name -> command of further gatewayds
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
    figures: Figures = field(default_factory=Figures)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _failed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def peers(self, *names: str) -> list[Peer]:
        """The peers of that name that are wanted; without names, those of every table."""
        known: list[Peer] = [
            Gatewayd(),
            Gatewayd(name=COMPILED, compiled=True),
            *(Gatewayd(name=name, command=command) for name, command in self.also.items()),
            Gatewayd(log=False),
            Gatewayd(name=COMPILED, compiled=True, log=False),
            Nginx(),
            HAProxy(),
            HAProxy(splice=False),
            GoReverseProxy(),
            GoReverseProxy(percent=400),
            TwistedWeb(),
        ]
        special = {NAME + NO_LOG, COMPILED + NO_LOG, "haproxy no splice"}
        chosen = names or tuple(peer.name for peer in known if peer.name not in special)
        chosen += tuple(self.also)
        return [
            peer
            for peer in known
            if peer.name in chosen and (not self.wanted or peer.name in self.wanted)
        ]

    def order(self, things: list[Any], number: int) -> list[Any]:
        """How a round goes through things."""
        return shuffled(things, self.seed, number)

    @contextmanager
    def stage(self, *names: str) -> Iterator[Stage]:
        """A stage with these peers; what is missing there is missing here."""
        with Stage(self.peers(*names)) as stage:
            yield stage
            self.missing |= stage.missing

    def interleave(
        self,
        proxies: list[Proxy],
        cases: list[str],
        measure: Callable[[Proxy, str, int], dict[str, float | None]],
    ) -> None:
        """Every round visits every proxy and case, each time in another order.

        Args:
            measure: given proxy, case and round; returns figures. What it raises is reported, the
                figure left out of that round.
        """
        self.figures.expect(cases)
        work = [(proxy, case) for proxy in proxies for case in cases]
        began = time.monotonic()
        for number in range(self.rounds):
            for proxy, case in self.order(work, number):
                self.attempt(proxy, case, number, measure)
            self.say(f"  round {number + 1} of {self.rounds}, {time.monotonic() - began:.0f} s")

    def attempt(
        self,
        proxy: Proxy,
        case: str,
        number: int,
        measure: Callable[[Proxy, str, int], dict[str, float | None]],
    ) -> None:
        """Measure once; a failure costs this figure and is told at the end.

        What has failed twice is not tried again: most failures take as long as a timeout.
        """
        if self._failed[proxy.name, case] > 1:
            return
        try:
            found = measure(proxy, case, number)
        except (RuntimeError, OSError) as error:
            self._failed[proxy.name, case] += 1
            self.failures.append(f"{proxy.name}, {case}: {error}")
            self.say(f"  ! {self.failures[-1]}")
        else:
            self.figures.add(case, proxy.name, number, **found)

    def check(self, proxy: Proxy, case: str, errors: float) -> None:
        """Errors among the answers are told beside the figures."""
        if errors:
            self.failures.append(f"{proxy.name}, {case}: {errors:.0f} failed requests")
            self.say(f"  ! {self.failures[-1]}")
