"""A worker: serves clients, and is told by its supervisor who the members are.

It leaves when it is told to, and when its supervisor is gone: it closes its listeners at once, finishes
what it has within drain_timeout, and ends. So a killed supervisor leaves nobody behind.
"""

from __future__ import annotations

import os
import signal
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from gatewayd import __version__
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.limits import Share
from gatewayd.metrics import traffic
from gatewayd.net.link import attach
from gatewayd.process import Process
from gatewayd.proxy.filters import RateRule
from gatewayd.serving import Serving
from gatewayd.status import traffic_of
from gatewayd.upstreams.upstream import Upstream
from gatewayd.workers import link as topics
from gatewayd.workers.board import Board
from gatewayd.workers.link import Configuration, Link, Spent
from gatewayd.workers.membership import Follower, News

_BEAT: Final = 1.0  # seconds
_FIGURES_COST: Final = 100  # figures are sent so rarely that they cost a hundredth of the time
_SYNC: Final = 0.05  # seconds in which tokens gather before the other workers hear of them
_SPARE: Final = 5.0  # seconds that an end takes at most, after drain_timeout


class Worker:
    """One worker process; made by `python -m gatewayd.workers`."""

    def __init__(self, fd: int, board_fd: int, reactor: Any) -> None:
        """Take up the link to the supervisor.

        Args:
            fd: this process's end of it.
            board_fd: of the board.
            reactor: Twisted's.
        """
        self._reactor = reactor
        self._board_fd = board_fd
        self._process: Process | None = None
        self._serving: Serving | None = None
        self._followers: dict[Upstream, Follower] = {}
        self._name = ""
        self._leaving = False
        self._drain_timeout = 0.0
        self._beat = LoopingCall(self._say_alive)
        self._beat.clock = reactor
        self._late = 0.0
        self._due = 0.0
        self._figures_due = 0.0
        self._spent: Spent = {}
        self._inherited: dict[str, int] = {}
        self._syncing: Any = None
        self.link = Link(
            {
                topics.CONFIGURE: self._configure,
                topics.MEMBERS: self._follow,
                topics.SHARE: self._take_share,
                topics.REST: self._rest,
                topics.LEAVE: self._leave,
                topics.LOGGING: self._set_logging,
                topics.REOPEN: self._reopen,
                topics.FIGURES: lambda ignored: self._send_figures(),
                topics.STATUS: lambda ignored: self._send_status(),
                topics.BUCKETS: self._learn,
            },
            self._lost,
        )
        attach(fd, self.link, reactor)
        os.close(fd)
        self.link.tell(topics.HELLO, __version__)

    def take_signals(self) -> None:
        """The supervisor rules: Ctrl-C goes to all, but it alone acts on it."""

        def on(number: int, act: Any) -> None:
            signal.signal(number, lambda *_: self._reactor.callFromThread(act))

        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        on(signal.SIGUSR1, lambda: self._reopen(None))
        on(signal.SIGTERM, lambda: self._leave(None))

    # --- what the supervisor says

    def _configure(self, given: Configuration) -> None:
        config = given.loaded.config
        self._drain_timeout = config.drain_timeout
        if self._serving is None:
            self._begin(given)
            return
        process, serving = self._process, self._serving
        assert process is not None
        self._inherited.update(self.link.sockets)
        logs = process.plan_logs(config.logging)
        serving.switch(serving.plan(config))
        process.switch_logs(config.logging, logs)
        self._take_over(given)

    def _begin(self, given: Configuration) -> None:
        config = given.loaded.config
        self._name = str(given.number)
        process = self._process = Process(
            config.logging, self._reactor, via=given.via, begin_logging=True, many=True
        )
        self._inherited = dict(self.link.sockets)
        serving = self._serving = Serving(
            config,
            process.shared(self._inherited, accepts=1, board=Board(self._board_fd, given.number)),
            decides=False,
        )
        self._take_over(given)  # members first: the first client finds them
        process.start()
        process.sweeper.startService()
        serving.privilegedStartService()
        serving.startService()
        self._close_sockets()
        self._beat.start(_BEAT)
        process.settle()

    def _take_over(self, given: Configuration) -> None:
        assert self._serving is not None
        upstreams = self._serving.upstreams
        for upstream in set(self._followers) - set(upstreams.values()):
            del self._followers[upstream]
        for upstream in upstreams.values():
            if upstream not in self._followers:
                self._followers[upstream] = Follower(upstream)
                self._report_of(upstream)
        self._follow(given.members)
        self._take_share(given.share)
        self._rest(given.draining)
        for route in self._serving.routes:
            filters = route.filters
            if filters is not None and filters.rate is not None and filters.rate.is_shared:
                self._share_tokens(route.name, filters.rate)
        if self._serving.running:
            self._close_sockets()

    def _report_of(self, upstream: Upstream) -> None:
        def verdict(label: str, until: float) -> None:
            self.link.tell(topics.VERDICTS, (upstream.name, label, until))

        def trouble(endpoint: Endpoint) -> None:
            self.link.tell(topics.TROUBLE, (upstream.name, endpoint.label))

        upstream.on_verdict(verdict)
        upstream.on_trouble(trouble)

    def _close_sockets(self) -> None:
        """What came over the link is duplicated by now; one left open would listen for nobody."""
        for fd in self.link.sockets.values():
            os.close(fd)
        self.link.sockets.clear()
        self._inherited.clear()

    def _follow(self, news: dict[str, News]) -> None:
        if self._serving is None:
            return
        for name, each in news.items():
            upstream = self._serving.upstreams.get(name)
            if upstream is not None:
                self._followers[upstream].take(each)

    def _take_share(self, share: Share) -> None:
        if self._serving is not None:
            self._serving.take_share(share)

    def _rest(self, draining: bool) -> None:
        if self._serving is not None:
            self._serving.rest(draining)

    def _set_logging(self, wanted: tuple[str | None, list[str] | None]) -> None:
        if self._process is not None:
            self._process.set_logging(*wanted)

    def _reopen(self, ignored: None) -> None:
        if self._process is not None:
            self._process.reopen_logs()

    # --- figures

    def _say_alive(self) -> None:
        process, now = self._process, monotonic()
        assert process is not None
        late = max(0.0, now - self._due - _BEAT) if self._due else 0.0
        self._due = now
        self.link.tell(topics.BEAT, (process.busy, late))
        if now >= self._figures_due:
            self._send_figures()
            self._figures_due = now + _FIGURES_COST * (monotonic() - now)

    def _send_figures(self) -> Deferred[Any] | None:
        process, serving = self._process, self._serving
        if process is None or serving is None:
            return None
        context = process.context
        found = traffic(context.counters, serving.upstreams.values(), context.clock())
        found.add(process.figures(self._name))
        self._say_proven()
        return self.link.send(topics.FIGURES, found).addErrback(_ignore)

    def _send_status(self) -> Deferred[Any] | None:
        if self._serving is None:
            return None
        found = traffic_of(self._serving.listeners.values(), self._serving.upstreams.values())
        self._say_proven()
        return self.link.send(topics.STATUS, found).addErrback(_ignore)

    def _say_proven(self) -> None:
        """Tell who has served well, before figures and status: they count states as they are known."""
        found = {upstream.name: each.proven() for upstream, each in self._followers.items()}
        if any(found.values()):
            self.link.tell(topics.PROVEN, found)

    # --- rate limits by client, shared with the other workers

    def _share_tokens(self, route: str, rate: RateRule) -> None:
        def spent(key: str, now: float) -> None:
            buckets = self._spent.setdefault(route, {})
            tokens, since = buckets.get(key, (0, now))
            buckets[key] = (tokens + 1, since)
            if self._syncing is None:
                self._syncing = self._reactor.callLater(_SYNC, self._sync)

        rate.limit.on_spent(spent)

    def _sync(self) -> None:
        self._syncing = None
        spent, self._spent = self._spent, {}
        self.link.tell(topics.SPENT, spent)

    def _learn(self, buckets: dict[str, dict[str, float]]) -> None:
        """Others have spent as well: until then their buckets are not full."""
        if self._serving is None:
            return
        for route in self._serving.routes:
            filters = route.filters
            if filters is not None and filters.rate is not None and route.name in buckets:
                ours = self._spent.get(route.name, {})
                for key, full_at in buckets[route.name].items():
                    filters.rate.limit.learn(key, full_at, ours.get(key, (0, 0.0))[0])

    # --- the end

    def _lost(self) -> None:
        if not self._leaving and self._process is not None:
            self._process.warn("the supervisor is gone; finishing what is in flight, and leaving")
        self._leave(None)

    def _leave(self, seconds: float | None) -> None:
        """Finish, and end; Args: seconds: at most, None = drain_timeout."""
        limit = self._drain_timeout if seconds is None else seconds
        serving = self._serving
        if self._leaving or serving is None:
            if serving is not None:
                serving.abort()
            if self._reactor.running:
                self._reactor.callLater(0, self._end)
            return
        self._leaving = True
        self._reactor.callLater(limit, serving.abort)
        self._reactor.callLater(limit + _SPARE, os._exit, 1)  # whatever hangs then
        serving.drain().addCallback(lambda ignored: self._end())

    def _end(self) -> None:
        if self._beat.running:
            self._beat.stop()
        sent = self._send_figures() if self.link.transport is not None else None
        if sent is not None:
            sent.addBoth(lambda ignored: self._stop())
        else:
            self._stop()

    def _stop(self) -> None:
        if self._reactor.running:
            if self._serving is not None:
                self._serving.close()
            if self._process is not None:
                self._process.close()
            self._reactor.stop()


def _ignore(failure: Failure) -> None:
    """The supervisor is gone, and that is noticed elsewhere."""
