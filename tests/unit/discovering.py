"""A ZooKeeper service over the ensemble in memory, and an upstream that takes its members from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address, Networks, parse_host_port
from gatewayd.core.balancers import RoundRobin
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.health import Health, PassiveRules
from gatewayd.core.membership import Rules
from gatewayd.discovery import journal as journals
from gatewayd.discovery.journal import Journal
from gatewayd.discovery.registration import Registration
from gatewayd.discovery.service import Discovery, Source, ZooKeeperService
from gatewayd.testing.zookeeper import MemoryClient, MemoryZooKeeper
from gatewayd.upstreams.members import Members, StaticMember
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import World

PATH = "/services/users"


class AtOnce:
    """Stands for Thread: the journal is written where it is asked for."""

    def __init__(self, target: Any, name: str, daemon: bool) -> None:
        self.start = target

    def join(self, timeout: float) -> None:
        """It is over already."""


class NoResolver:
    """Looks nothing up; a test answers."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def resolve(self, name: str, answered: Any) -> None:
        """As Resolver."""
        self.asked[name] = answered


class Gateway:
    """One gateway's upstream `users` and its service, as the assembly makes them."""

    def __init__(
        self,
        zookeeper: MemoryZooKeeper,
        clock: Clock,
        *,
        journal: Path | None = None,
        static: Iterable[tuple[str, int]] = (),
        form: str = "plain",
        path: str = PATH,
        health: Health | None = None,
        register: str = "",
        seed: int = 1,
    ) -> None:
        self.client = MemoryClient(zookeeper)
        self.clock = clock
        self.said: list[str] = []
        self.world = World()
        self.world.clock = clock
        self.upstream = Upstream(
            "users",
            balancer=RoundRobin,
            pool=self.world.pool,
            counters=UpstreamCounters(),
            random=Random(seed),
            clock=clock.seconds,
            wheel=self.world.wheel,
            later=lambda call: clock.callLater(0, call),
            health=health or Health(passive=PassiveRules()),
        )
        resolver: Any = NoResolver()
        self.members = Members(
            self.upstream,
            [StaticMember(parse_host_port(text), weight) for text, weight in static],
            resolver,
            clock,
            refresh=30.0,
            timeout=2.0,
            warn=self.said.append,
            allowed=Networks(["10.0.0.0/8"]),
        )
        self.registration = (
            Registration(register, "gw-1", lambda: {"pid": 7}, self.client, clock, self.said.append)
            if register
            else None
        )
        self.service = ZooKeeperService(
            self.client,
            clock,
            Random(seed),
            now=clock.seconds,
            session_timeout=10.0,
            connect_timeout=10.0,
            watch_timeout=10.0,
            journal=(
                Journal(
                    str(journal),
                    max_age=3600.0,
                    wall=lambda: 1_700_000_000.0 + clock.seconds(),
                    call_from_thread=lambda call, *arguments: call(*arguments),
                    warn=self.said.append,
                )
                if journal is not None
                else None
            ),
            registration=self.registration,
            warn=self.said.append,
            notice=self.said.append,
        )
        rules = Rules(removal_grace=15.0, max_shrink=0.5, hold_for=3600.0)
        self.service.follow("users", Source(path, form, "", rules), self.members)

    def start(self, *, connected: bool = True) -> Gateway:
        """Start it; the session is there if `connected`."""
        self.members.startService()
        self.service.startService()
        if connected:
            self.client.connect()
            self.clock.advance(0)
        return self

    def stop(self) -> None:
        """End it."""
        self.service.stopService()
        self.members.stopService()

    @property
    def discovery(self) -> Discovery:
        """Of the upstream."""
        return self.service.discoveries["users"]

    def standings(self) -> dict[str, str]:
        """What is thought of each member."""
        return {str(a): k.standing for a, k in self.discovery.membership.members.items()}

    def endpoints(self) -> dict[str, int]:
        """The upstream's endpoints with their weights."""
        return {each.label: each.weight for each in self.upstream.endpoints}

    def picked(self) -> set[str]:
        """Who gets requests now."""
        return {each.label for each in self.upstream.balancer.endpoints}

    def shown(self) -> dict[str, Any]:
        """The membership in /status; JSON as it is."""
        found: dict[str, Any] = json.loads(json.dumps(self.discovery.shown(self.clock.seconds())))
        return found

    def reads(self) -> list[str]:
        """Paths read since the last time."""
        found, self.client.reads = self.client.reads, []
        return found


class DiscoveryTestCase(SynchronousTestCase):
    """An ensemble in memory, a clock, and gateways on both."""

    def setUp(self) -> None:
        self.zookeeper = MemoryZooKeeper()
        self.clock = Clock()
        self.clock.advance(1000)
        self.patch(journals, "Thread", AtOnce)
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.journal = Path(directory.name) / "membership.json"

    def register(self, *numbers: int, path: str = PATH, owner: int = 0) -> None:
        """Members register: 10.0.0.N:80, each as the node's name."""
        self.zookeeper.set(path)
        for number in numbers:
            self.zookeeper.set(f"{path}/{label(number)}", b"", owner)

    def vanish(self, *numbers: int) -> None:
        """Their nodes go."""
        for number in numbers:
            self.zookeeper.delete(f"{PATH}/{label(number)}")

    def gateway(self, **options: Any) -> Gateway:
        """One that is not started, with a journal."""
        made = Gateway(self.zookeeper, self.clock, **{"journal": self.journal, **options})
        self.addCleanup(made.stop)
        return made

    def steady(self, *numbers: int, **options: Any) -> Gateway:
        """One that has known these members for long."""
        self.register(*numbers)
        made = self.gateway(**options).start()
        self.clock.advance(100)
        made.reads()
        made.said.clear()
        return made


def label(number: int) -> str:
    """A member's address."""
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:80"


def labels(*numbers: int, standing: str = "listed") -> dict[str, str]:
    """Standings of members."""
    return {label(number): standing for number in numbers}


def address(number: int) -> Address:
    """A member's address."""
    return parse_host_port(label(number))
