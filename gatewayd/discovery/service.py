"""Memberships from ZooKeeper: one session for all upstreams, and what is made of its answers.

The daemon starts and serves without ZooKeeper: what the journal knows is there at once, static members beside
it. Every answer goes through core.membership, which decides what to believe; nothing here ever removes a
member because ZooKeeper is away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed

from gatewayd.core import membership as rules_of
from gatewayd.core.addresses import Address
from gatewayd.core.membership import Membership, Rules
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.discovery import client as states
from gatewayd.discovery.client import Client, Node
from gatewayd.discovery.journal import Journal
from gatewayd.discovery.registration import Registration
from gatewayd.discovery.session import CONNECTED, DOWN, GONE, LATE, UP, Session
from gatewayd.discovery.watcher import Watcher
from gatewayd.upstreams.members import Discovered, Members

_LAST_WRITE: Final = 1.0  # seconds that a stop waits for the journal
_JITTER: Final = 0.5  # seconds over which a fleet's re-reads spread
_REWRITE: Final = 600.0  # seconds after which the journal is written though nothing has changed
_EVENTS: Final = {states.CONNECTED: UP, states.SUSPENDED: DOWN, states.LOST: GONE}


class Source:
    """Where an upstream's members are registered."""

    def __init__(self, path: str, form: str, endpoint: str, rules: Rules) -> None:
        """Args: as in the configuration; rules: how much is believed at once."""
        self.path = path
        self.form = form
        self.endpoint = endpoint
        self.rules = rules

    @property
    def place(self) -> tuple[str, str, str]:
        """All but the rules: another place is another membership."""
        return self.path, self.form, self.endpoint


class Discovery:
    """One upstream's membership; made by the service."""

    def __init__(
        self, name: str, source: Source, members: Members, service: ZooKeeperService
    ) -> None:
        """Args: members: of the upstream, told what is believed."""
        self.name = name
        self.source = source
        self.membership = Membership()
        self.origin = ""  # "journal" or "zookeeper", once there is something
        self.watcher: Watcher | None = None
        self._members = members
        self._service = service
        self._timer: Any = None
        self._names: Mapping[Address, int] = {}  # the newest list
        self._told: list[Discovered] = []
        members.doubts = self.doubted

    def __repr__(self) -> str:
        return f"<Discovery {self.name} {self.source.path} members={len(self.membership.members)}>"

    def take_over(self, former: Discovery) -> None:
        """Go on with what another session's discovery knows of the same path."""
        self.membership = former.membership
        self.origin = former.origin
        self._names = former._names
        self._told = former._told
        self._set_alarm(self._service.now())

    def restore(self, known: Mapping[Address, int], age: float) -> None:
        """Begin with what the journal knows, some seconds old."""
        self.origin = "journal"
        self._take(rules_of.restored(known, self._service.now(), age))

    def found(self, names: dict[Address, int]) -> None:
        """ZooKeeper has answered with the whole list."""
        service = self._service
        now = service.now()
        if not names and not self.membership.members:
            self.membership = self.membership._replace(read_at=now)
            return  # a path where nobody has registered yet is no membership
        held = self.membership.held
        self.origin = "zookeeper"
        self._names = names
        self._take(self._listed(now))
        if self.membership.held > held:
            service.warn(
                f"upstream {self.name}: {self.membership.held} of {len(self.membership.accepted)} "
                f"members are gone from {self.source.path} at once; they are held until health "
                f"checks confirm it, or `gatewayd accept {self.name}` does"
            )

    def _listed(self, now: float) -> Membership:
        rules = self.source.rules
        return rules_of.listed(
            self.membership,
            self._names,
            rules,
            now,
            steady=self._service.session.steady(rules.removal_grace, now),
            serves=self._members.is_serving,
        )

    def doubted(self, name: Address, last_usable: bool) -> None:
        """A member that ZooKeeper no longer lists has failed."""
        after = rules_of.doubted(self.membership, name, last_usable=last_usable)
        if after is not self.membership:
            self._service.notice(f"upstream {self.name}: {name} is gone, its failure confirms it")
            self._take(after)

    def accept(self) -> int:
        """Take the list as it is.

        Returns:
            How many held members left by it.
        """
        held = self.membership.held
        self._take(rules_of.accepted(self.membership))
        return held

    def _time_passed(self) -> None:
        service = self._service
        now = service.now()
        connected = service.session.state == CONNECTED
        after = rules_of.passed(
            self.membership, now, away=not connected, usable=self._members.is_usable
        )
        if after.held and after.fresh and connected and self.origin == "zookeeper":
            # Who is new may serve by now: then less is lost than it seemed.
            self.membership = after
            after = self._listed(now)._replace(read_at=after.read_at)
        self._take(after)

    def _take(self, after: Membership) -> None:
        self.membership = after
        now = self._service.now()
        told = [
            Discovered(
                address,
                known.weight,
                rules_of.LAST_RESORT if rules_of.is_last_resort(known, now) else known.standing,
            )
            for address, known in after.members.items()
        ]
        if told != self._told:
            self._told = told
            self._members.set_discovered(told)
            if self.origin != "journal":
                self._service.remember()
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        due = rules_of.next_change(self.membership, now)
        if due == float("inf"):
            return
        seconds = max(0.05, due - now)
        if self._timer is not None and self._timer.active():
            # An earlier alarm stands: lists that come often must not put it off for ever.
            if self._timer.getTime() <= self._service.clock.seconds() + seconds:
                return
            self._timer.cancel()
        self._timer = self._service.clock.callLater(seconds, self._time_passed)

    def start_over(self, jitter: float) -> None:
        """Read everything anew, within so many seconds."""
        if self.watcher is not None:
            self.watcher.start_over(jitter)

    def stop(self) -> None:
        """Change nothing any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self.watcher is not None:
            self.watcher.stop()

    def end(self) -> None:
        """Name no members any more."""
        self.stop()
        self._members.doubts = None
        self._members.set_discovered(())

    def shown(self, now: float) -> dict[str, Any]:
        """For /status: where this knowledge comes from, how old it is, and what is held."""
        membership = self.membership
        stale_for = self.stale_for(now)
        held = membership.held
        release = (
            f"a failed check or two failed connects of each, `gatewayd accept {self.name}`, or "
            "hold_for"
        )
        return {
            "path": self.source.path,
            "format": self.source.form,
            "origin": self.origin or None,
            "state": (
                ("stale" if membership.members else "unknown") if stale_for is not None else "live"
            ),
            "stale_for": round(stale_for, 3) if stale_for is not None else None,
            "read_ago": round(now - membership.read_at, 3) if membership.read_at else None,
            "path_missing": bool(self.watcher is not None and self.watcher.missing),
            "unreadable": self.watcher.unreadable if self.watcher is not None else 0,
            "held": held,
            "released_by": release if held else None,
        }

    def stale_for(self, now: float) -> float | None:
        """Seconds since this could last be trusted to be the newest; None = it can be now."""
        session = self._service.session
        if session.state != CONNECTED and session.connected_at and self.origin != "journal":
            return now - session.away_since
        failing = self.watcher is None or self.watcher.failing
        if session.state == CONNECTED and self.origin == "zookeeper" and not failing:
            return None
        return now - (self.membership.read_at or session.since)


class ZooKeeperService(Service):
    """The session, and the upstreams that live on it; made by the gateway's service."""

    def __init__(
        self,
        client: Client,
        clock: Any,
        random: Random,
        *,
        now: Callable[[], float],
        session_timeout: float,
        connect_timeout: float,
        watch_timeout: float,
        journal: Journal | None,
        registration: Registration | None,
        warn: Callable[[str], None],
        notice: Callable[[str], None],
        trace: Trace = SILENT,
    ) -> None:
        """Args:
        client: of the ensemble.
        clock, now: Twisted's IReactorTime, and the gateway's monotonic clock.
        random: for jitter.
        session_timeout, connect_timeout, watch_timeout: seconds.
        journal: None = none is kept.
        registration: of the gateway itself, or None.
        warn, notice: take messages for people.
        trace: debug output.
        """
        self.client = client
        self.clock = clock
        self.now = now
        self.session = Session(now())
        self.events: dict[str, int] = {}
        self.discoveries: dict[str, Discovery] = {}
        self.warn = warn
        self.notice = notice
        self._random = random
        self._session_timeout = session_timeout
        self._connect_timeout = connect_timeout
        self._watch_timeout = watch_timeout
        self._journal = journal
        self._registration = registration
        self._trace = trace
        self._late: Any = None
        self._rewrite: Any = None
        self._session_id = 0

    def __repr__(self) -> str:
        return f"<ZooKeeperService {self.session!r} upstreams={len(self.discoveries)}>"

    def follow(self, name: str, source: Source, members: Members) -> None:
        """Let an upstream take its members from ZooKeeper; what it has stays until the first answer."""
        former = self.discoveries.get(name)
        if former is not None and former.source.place == source.place:
            former.source = source
            return
        if former is not None:
            former.stop()
        self.discoveries[name] = discovery = Discovery(name, source, members, self)
        if self.running:
            self._watch(discovery)
            if self.session.state == CONNECTED:
                discovery.start_over(0.0)

    def unfollow(self, name: str) -> None:
        """An upstream takes its members from ZooKeeper no more."""
        self.discoveries.pop(name).end()

    def take_over(self, former: ZooKeeperService) -> None:
        """Begin with what a service knows that this one replaces; before it starts."""
        for name, discovery in self.discoveries.items():
            known = former.discoveries.get(name)
            if known is not None and known.source.place == discovery.source.place:
                discovery.take_over(known)

    # --- Twisted's side

    def startService(self) -> None:
        """Twisted: the journal first, then the session."""
        super().startService()
        known = self._journal.read() if self._journal is not None else {}
        for name, discovery in self.discoveries.items():
            self._watch(discovery)
            path, members = known.get(name, ("", {}))
            if path == discovery.source.path and members and not discovery.origin:
                self.notice(
                    f"upstream {name}: {len(members)} members from the journal, to begin with"
                )
                assert self._journal is not None
                discovery.restore(members, self._journal.age)
        self.client.start(self._told)
        if self._journal is not None:
            self._rewrite = self.clock.callLater(_REWRITE, self._keep_young)
        self._late = self.clock.callLater(self._connect_timeout, self._not_connected)

    def _watch(self, discovery: Discovery) -> None:
        source = discovery.source
        discovery.watcher = Watcher(
            source.path,
            source.form,
            source.endpoint,
            self.client,
            self.clock,
            self._random,
            watch_timeout=self._watch_timeout,
            found=discovery.found,
            count=self.count,
            warn=self.warn,
            trace=self._trace,
        )

    def _keep_young(self) -> None:
        """A membership that has not changed for a day is as good as ever: the journal says so."""
        self._rewrite = self.clock.callLater(_REWRITE, self._keep_young)
        if self.session.state == CONNECTED and any(
            each.origin == "zookeeper" for each in self.discoveries.values()
        ):
            self.remember()

    def _not_connected(self) -> None:
        self.count("connect_timeout")
        self.warn(
            "ZooKeeper did not answer within zookeeper.connect_timeout; serving without it, and trying on"
        )

    def stopService(self) -> Deferred[None]:
        """Twisted: our own node goes with the session."""
        super().stopService()
        for discovery in self.discoveries.values():
            discovery.stop()
        for timer in (self._late, self._rewrite):
            if timer is not None and timer.active():
                timer.cancel()
        if self._registration is not None:
            self._registration.stop()
        if self._journal is not None:
            self._journal.finish(_LAST_WRITE)
        return self.client.stop()

    # --- the session

    def _told(self, state: str) -> None:
        if not self.running:
            return
        self.count(state)
        now = self.now()
        changed = self.session.advance(_EVENTS[state], now)
        if changed:
            say = self.notice if self.session.state == CONNECTED else self.warn
            say(f"ZooKeeper session is {self.session.state}; memberships stay as they are known")
        if self._late is not None and self._late.active():
            self._late.cancel()
        if state == states.CONNECTED:
            self._connected()
        elif state == states.SUSPENDED:
            self._late = self.clock.callLater(self._session_timeout, self._suspended_too_long)

    def _connected(self) -> None:
        first = not self._session_id
        self._session_id = self.client.session
        for discovery in self.discoveries.values():
            discovery.start_over(0.0 if first else _JITTER)
        if self._registration is not None:
            self._registration.renew()

    def _suspended_too_long(self) -> None:
        self.count("late")
        if self.session.advance(LATE, self.now()):
            self.warn("ZooKeeper has been away for longer than session_timeout")

    def count(self, event: str) -> None:
        """Count an event by its type."""
        self.events[event] = self.events.get(event, 0) + 1

    # --- what others ask

    def remember(self) -> None:
        """Have the journal written, as of when the newest of it was known to be true."""
        if self._journal is None:
            return
        now = self.now()
        ages = [each.stale_for(now) or 0.0 for each in self.discoveries.values() if each.origin]
        self._journal.write(
            {
                name: (
                    each.source.path,
                    {address: known.weight for address, known in each.membership.members.items()},
                )
                for name, each in self.discoveries.items()
            },
            min(ages, default=0.0),
        )

    def fleet(self, path: str) -> Deferred[list[dict[str, Any]]]:
        """The gateways that are registered below a path; fails with ZooKeeperError."""

        def read(names: list[str]) -> Deferred[list[Any]]:
            nodes = [self.client.get(f"{path}/{name}").addErrback(_none) for name in sorted(names)]
            return gatherResults(nodes)

        def parse(nodes: list[Node | None]) -> list[dict[str, Any]]:
            found = []
            for node in nodes:
                try:
                    found.append(json.loads(node.data) if node is not None else None)
                except ValueError:
                    continue
            return [each for each in found if isinstance(each, dict)]

        asked = maybeDeferred(self.client.get_children, path)
        asked.addTimeout(self._watch_timeout, self.clock)
        answer: Deferred[Any] = asked.addCallback(read)
        return answer.addCallback(parse)

    def shown(self) -> dict[str, Any]:
        """For /status."""
        now = self.now()
        session = self.session
        return {
            "state": session.state,
            "since": round(now - session.since, 3),
            "session": f"{self.client.session:#x}" if self.client.session else None,
            "events": dict(self.events),
            "registered": self._registration.node if self._registration is not None else None,
        }


def _none(failure: Any) -> Deferred[None]:
    return succeed(None)
