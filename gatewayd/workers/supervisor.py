"""The supervisor of several workers: it holds the sockets and knows the members, they serve.

The listening sockets are its own and every worker has a duplicate. So a client that waits to be accepted
is lost with no worker: another one takes it. (SO_REUSEPORT would give each worker a queue of its own,
which dies with it, and which nobody serves while it hangs; docs/operations.md has the figures.)

A worker that dies is replaced, with back-off; one that has not been heard of for HANG seconds is killed
and replaced. What it had counted stays counted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from gatewayd import __version__
from gatewayd.config.loader import Loaded
from gatewayd.core.figures import Figures
from gatewayd.core.limits import Share
from gatewayd.core.scaling import Restarts, Scaler
from gatewayd.metrics import BY_ENDPOINT
from gatewayd.net import link as ends
from gatewayd.process import Process
from gatewayd.serving import Serving
from gatewayd.workers import link as topics
from gatewayd.workers.board import Board, new_board
from gatewayd.workers.link import BOARD_FD, LINK_FD, Configuration, Link, Spent
from gatewayd.workers.membership import Teller

HANG: Final = 5.0  # seconds without a heartbeat, which comes every second
START: Final = 30.0  # seconds until a worker serves
_LOOK: Final = 1.0  # seconds between two looks at the workers
_GATHER: Final = 0.01  # seconds in which changes of members gather
_ANSWER: Final = 2.0  # seconds that a worker may take to say how it fares

STARTING: Final = "starting"
UP: Final = "up"
HUNG: Final = "hung"
LEAVING: Final = "leaving"
STATES: Final = (STARTING, UP, HUNG, LEAVING)
CAUSES: Final = ("exit", "signal", "hung", "start")


class WorkerProcess(ProcessProtocol):
    """One worker as its supervisor sees it; made by it, ended with the process."""

    def __init__(self, number: int, supervisor: Supervisor) -> None:
        """Args: number: its label, from 1."""
        self.number = number
        self.state = STARTING
        self.started = self.heard = monotonic()
        self.configured = False  # it was sent all, and hears what changes after that
        self.served = 0.0  # since when; 0 = not yet
        self.busy = 0.0
        self.late = 0.0
        self.figures: Figures | None = None
        self.status: dict[str, Any] | None = None
        self._supervisor = supervisor
        self.link = Link(
            {
                topics.HELLO: lambda version: supervisor.said_hello(self, version),
                topics.BEAT: self._beat,
                topics.FIGURES: self._take_figures,
                topics.STATUS: self._take_status,
                topics.VERDICTS: lambda verdict: supervisor.heard_verdict(*verdict),
                topics.PROVEN: supervisor.heard_proven,
                topics.TROUBLE: lambda trouble: supervisor.heard_trouble(*trouble),
                topics.SPENT: supervisor.heard_spent,
            },
            lambda: None,  # the process ends with it, or hangs
        )

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.number} pid={self.pid} {self.state}>"

    @property
    def pid(self) -> int | None:
        """Of its process, None when there is none."""
        return self.transport.pid if self.transport is not None else None

    @property
    def connections(self) -> int:
        """Of clients, as it said last."""
        figures = self.figures.gauges if self.figures is not None else {}
        return int(sum(figures.get("client_connections", {}).values()))

    def _beat(self, figures: tuple[float, float]) -> None:
        self.heard = monotonic()
        self.busy, self.late = figures

    def _take_figures(self, figures: Figures) -> None:
        self.figures = figures

    def _take_status(self, status: dict[str, Any]) -> None:
        self.status = status

    def kill(self) -> None:
        """End it at once."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def processEnded(self, reason: Failure) -> None:
        """Twisted: it is no more."""
        if self.link.transport is not None:
            self.link.transport.abortConnection()
        self._supervisor.ended(self, reason)


class Supervisor(Service):
    """Keeps workers running; made by the gateway's service where there is to be more than one."""

    def __init__(
        self,
        process: Process,
        serving: Serving,
        loaded: Callable[[], Loaded],
        *,
        least: int,
        most: int,
    ) -> None:
        """Args:
        process: of the supervisor.
        serving: knows the members, and holds the sockets.
        loaded: the configuration in effect.
        least, most: workers; by load if they differ.
        """
        self.workers: dict[int, WorkerProcess] = {}
        self.restarts = dict.fromkeys(CAUSES, 0)
        self._process = process
        self._serving = serving
        self._loaded = loaded
        self._reactor = process.reactor
        self._scaler = Scaler(least, most)
        self._restarts: dict[int, Restarts] = {}
        self._teller = Teller()
        self._board_fd = new_board()
        self._board = Board(self._board_fd)
        self._gone = Figures()  # what workers counted that are no more
        self._look = LoopingCall(self._look_after)
        self._look.clock = self._reactor
        self._looked = 0.0
        self._telling: Any = None
        self._draining = False
        self.lagging: set[int] = set()  # workers that have not confirmed the last configuration
        self._logging: tuple[str | None, list[str] | None] | None = None  # until the next reload
        self._ending: Deferred[None] | None = None
        self._spent: dict[str, list[tuple[float, str, int]]] = {}  # route: since, key, tokens
        self.follow_upstreams()

    def __repr__(self) -> str:
        return f"<Supervisor {list(self.workers.values())}>"

    # --- Twisted's side

    def startService(self) -> None:
        """Twisted: begin."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._teller.news(self._serving.upstreams)
        for number in range(1, self._scaler.wanted + 1):
            self._spawn(number)
        self._looked = monotonic()
        self._look.start(_LOOK, now=False)

    def stopService(self) -> None:
        """Twisted: end."""
        super().stopService()
        if self._look.running:
            self._look.stop()

    def leave(self, seconds: float) -> Deferred[None]:
        """Let all workers finish and end.

        Args:
            seconds: that they have at most.

        Returns:
            A Deferred that fires when the last one is gone.
        """
        if self._ending is None:
            self._ending = Deferred()
            for worker in self.workers.values():
                self._let_go(worker, seconds)
            self._reactor.callLater(seconds + HANG, self.abort)
            self._ended_all()
        return self._ending

    def abort(self) -> None:
        """End all workers at once."""
        for worker in self.workers.values():
            worker.kill()

    def _ended_all(self) -> None:
        if self._ending is not None and not self.workers and not self._ending.called:
            self._ending.callback(None)

    def _let_go(self, worker: WorkerProcess, seconds: float | None = None) -> None:
        worker.state = LEAVING
        worker.link.tell(topics.LEAVE, seconds)

    # --- processes

    def _spawn(self, number: int) -> None:
        if self._ending is not None or number in self.workers or number > self._scaler.wanted:
            return
        ours, theirs = ends.pair()
        worker = self.workers[number] = WorkerProcess(number, self)
        ends.attach(ours, worker.link, self._reactor)
        os.close(ours)
        try:
            self._reactor.spawnProcess(
                worker,
                sys.executable,
                [sys.executable, "-P", "-m", "gatewayd.workers"],
                env=_environment(),
                childFDs={0: 0, 1: 1, 2: 2, LINK_FD: theirs, BOARD_FD: self._board_fd},
            )
        except OSError as error:
            self._process.warn(f"worker {number} cannot be started: {error.strerror}")
            self._gone_one(worker, "start")
        finally:
            os.close(theirs)

    def said_hello(self, worker: WorkerProcess, version: str) -> None:
        """A worker runs: tell it everything."""
        if version != __version__:
            self._process.warn(
                f"worker {worker.number} is version {version}, this is {__version__}: the package was "
                "changed; `gatewayd upgrade` changes all"
            )
        worker.heard = monotonic()
        for name, listener in self._serving.listeners.items():
            worker.link.send_socket(name, listener.port.fileno())
        self._configure(worker).addCallbacks(
            lambda ignored: self._serves(worker), lambda failure: self._cannot(worker, failure)
        )

    def _configure(self, worker: WorkerProcess) -> Deferred[Any]:
        self._tell_news()  # what is in the snapshot counts as told, so that its end is told as well
        worker.configured = True
        given = Configuration(
            self._loaded(),
            worker.number,
            self._process.via,
            self._teller.everything(self._serving.upstreams),
            self._share_of(worker),
            self._draining,
        )
        answered = worker.link.send(topics.CONFIGURE, given)
        if self._logging is not None:
            worker.link.tell(topics.LOGGING, self._logging)
        return answered

    def _serves(self, worker: WorkerProcess) -> None:
        if worker.state == STARTING:
            worker.state = UP
            worker.served = worker.heard = monotonic()
            self._process.notice(f"worker {worker.number}, pid {worker.pid}, serves")
            self._divide()

    def _cannot(self, worker: WorkerProcess, failure: Failure) -> None:
        self._process.warn(f"worker {worker.number} cannot serve: {failure.getErrorMessage()}")
        worker.kill()

    def ended(self, worker: WorkerProcess, reason: Failure) -> None:
        """A worker's process is no more."""
        status: Any = reason.value
        cause = "signal" if getattr(status, "signal", None) else "exit"
        if worker.state == HUNG:
            cause = "hung" if worker.served else "start"
        self._gone_one(worker, "" if worker.state == LEAVING else cause)

    def _gone_one(self, worker: WorkerProcess, cause: str) -> None:
        number = worker.number
        del self.workers[number]
        self._board.gone(number)
        if worker.figures is not None:
            self._gone.add(worker.figures.lasting())
        lived = monotonic() - worker.served if worker.served else 0.0
        pause = 0.0
        if cause:
            self.restarts[cause] += 1
            pause = self._restarts.setdefault(number, Restarts()).pause(lived)
            self._process.warn(
                f"worker {number} is gone ({cause}); it is replaced"
                + (f" in {pause:g} s" if pause else "")
            )
        else:
            self._process.notice(f"worker {number} has left")
        self._divide()
        if self._ending is None:
            self._reactor.callLater(pause, self._spawn, number)
        self._ended_all()

    def _look_after(self) -> None:
        now = monotonic()
        if now - self._looked > 2 * _LOOK:  # it was us who stood still, so nothing was heard
            for worker in self.workers.values():
                worker.heard = now
        self._looked = now
        for worker in list(self.workers.values()):
            patience = HANG if worker.served else START
            if now - worker.heard > patience and worker.state != HUNG:
                worker.state = HUNG
                self._process.warn(
                    f"worker {worker.number}, pid {worker.pid}, has not been heard of for "
                    f"{patience:g} s: killed"
                )
                worker.kill()
        if self._ending is None:
            self._scale(now)

    def _scale(self, now: float) -> None:
        up = [worker for worker in self.workers.values() if worker.state == UP]
        before = self._scaler.wanted
        wanted = self._scaler.look([each.busy for each in up], [each.late for each in up], now)
        if wanted > before:
            self._process.notice(f"load is high: {wanted} workers")
            self._spawn(wanted)
        elif wanted < before:
            self._process.notice(f"load is low: {wanted} workers")
            for worker in up:
                if worker.number > wanted:
                    self._let_go(worker)

    # --- what all workers are to know

    def follow_upstreams(self) -> None:
        """Hear of all changes of members; again after a reload, for there may be new upstreams."""
        for upstream in self._serving.upstreams.values():
            upstream.on_change(self._changed)

    def _changed(self) -> None:
        if self._telling is None:
            self._telling = self._reactor.callLater(_GATHER, self._tell_news)

    def _tell_news(self) -> None:
        self._telling = None
        news = self._teller.news(self._serving.upstreams)
        if news:
            self._tell(topics.MEMBERS, news)

    def _tell(self, topic: str, value: Any = None) -> None:
        for worker in self.workers.values():
            if worker.configured:
                worker.link.tell(topic, value)

    def _serving_ones(self) -> list[WorkerProcess]:
        return [each for each in self.workers.values() if each.state in (STARTING, UP)]

    def _share_of(self, worker: WorkerProcess) -> Share:
        ones = sorted(each.number for each in self._serving_ones())
        number = ones.index(worker.number) if worker.number in ones else 0
        return Share(number, max(1, len(ones)))

    def _divide(self) -> None:
        for worker in self._serving_ones():
            if worker.configured:
                worker.link.tell(topics.SHARE, self._share_of(worker))

    def rest(self, draining: bool) -> None:
        """Have keep-alive end by `Connection: close`, or take that back."""
        self._draining = draining
        self._tell(topics.REST, draining)

    def set_logging(self, level: str | None, debug: list[str] | None) -> None:
        """Change what is logged."""
        self._logging = (level, debug)
        self._tell(topics.LOGGING, self._logging)

    def reopen_logs(self) -> None:
        """Log files were rotated away."""
        self._tell(topics.REOPEN)

    def configure(self, opened: list[str]) -> Deferred[list[int]]:
        """Have all workers serve the configuration that is in effect now.

        Args:
            opened: names of listeners whose sockets they do not have.

        Returns:
            A Deferred of the numbers of those that failed to; it may never fire.
        """
        self.follow_upstreams()
        self._logging = None
        self.lagging = set()
        asked = []
        for worker in self.workers.values():
            if not worker.configured or worker.state == LEAVING:
                continue  # one that has not said hello gets the newest anyway
            for name in opened:
                worker.link.send_socket(name, self._serving.listeners[name].port.fileno())
            self.lagging.add(worker.number)
            asked.append(
                self._configure(worker).addCallbacks(
                    self._took, self._took_not, (worker,), errbackArgs=(worker,)
                )
            )
        answered: Deferred[Any] = DeferredList(asked, consumeErrors=True)
        return answered.addCallback(lambda ignored: sorted(self.lagging))

    def _took(self, ignored: Any, worker: WorkerProcess) -> None:
        self.lagging.discard(worker.number)

    def _took_not(self, failure: Failure, worker: WorkerProcess) -> None:
        if failure.check(ConnectionClosed) is not None:
            # It died, and is replaced by one that begins with the new configuration.
            self.lagging.discard(worker.number)

    # --- what workers say

    def heard_verdict(self, name: str, label: str, until: float) -> None:
        """A worker takes an endpoint, or an upstream (label ""), out until then: all do."""
        upstream = self._serving.upstreams.get(name)
        if upstream is not None:
            if label:
                upstream.eject(label, until)
            else:
                upstream.open_circuit(until)

    def heard_proven(self, proven: dict[str, list[str]]) -> None:
        """A worker's requests were good: what no check has told is known now."""
        for name, labels in proven.items():
            upstream = self._serving.upstreams.get(name)
            if upstream is not None:
                upstream.prove(set(labels))

    def heard_trouble(self, name: str, label: str) -> None:
        """An endpoint that its source does not list has failed."""
        upstream = self._serving.upstreams.get(name)
        if upstream is not None:
            upstream.fail(label)

    def heard_spent(self, spent: Spent) -> None:
        """Tokens that clients took from a worker's buckets: all workers learn of it."""
        if not self._spent:
            self._reactor.callLater(_GATHER, self._tell_buckets)
        for name, buckets in spent.items():
            taken = self._spent.setdefault(name, [])
            taken += [(since, key, tokens) for key, (tokens, since) in buckets.items()]

    def _tell_buckets(self) -> None:
        spent, self._spent = self._spent, {}
        full_at: dict[str, dict[str, float]] = {}
        for route in self._serving.routes:
            filters = route.filters
            if route.name in spent and filters is not None and filters.rate is not None:
                # Oldest first: an idle moment before the later ones has to count as one.
                full_at[route.name] = {
                    key: filters.rate.limit.spend(key, tokens, since)
                    for since, key, tokens in sorted(spent[route.name])
                }
        if full_at:
            self._tell(topics.BUCKETS, full_at)

    # --- what others ask

    @property
    def alive(self) -> bool:
        """Whether any worker serves."""
        return any(worker.state == UP for worker in self.workers.values())

    def missing(self) -> list[str]:
        """Workers of the least number that do not serve yet."""
        up = sum(worker.state == UP for worker in self.workers.values())
        lacking = self._scaler.least - up
        return [f"{lacking} of {self._scaler.least} workers"] if lacking > 0 else []

    def figures(self) -> Deferred[Figures]:
        """What all workers have counted, with those that are no more."""

        def added(ignored: Any) -> Figures:
            self._forget_endpoints()
            found = Figures()
            found.add(self._gone)
            for worker in self.workers.values():
                if worker.figures is not None:
                    found.add(worker.figures)
            states = dict.fromkeys(STATES, 0)
            for worker in self.workers.values():
                states[worker.state] += 1
            found.gauge("workers", [((state,), float(n)) for state, n in states.items()])
            found.count("worker_restarts", [((c,), float(n)) for c, n in self.restarts.items()])
            return found

        return self._ask(topics.FIGURES).addCallback(added)

    def status(self) -> Deferred[list[dict[str, Any]]]:
        """How each worker that serves fares, as it says."""
        for worker in self.workers.values():
            worker.status = None

        def told(ignored: Any) -> list[dict[str, Any]]:
            return [each.status for each in self.workers.values() if each.status is not None]

        return self._ask(topics.STATUS).addCallback(told)

    def shown(self) -> list[dict[str, Any]]:
        """The workers, for /status."""
        now = monotonic()
        return [
            {
                "number": each.number,
                "pid": each.pid,
                "state": each.state,
                "uptime": round(now - each.started, 3),
                "heard_ago": round(now - each.heard, 3),
                "busy": round(each.busy, 3),
                "connections": each.connections,
            }
            for each in sorted(self.workers.values(), key=lambda each: each.number)
        ]

    def _ask(self, topic: str) -> Deferred[Any]:
        """Have every worker that serves say something; one that does not in time is left out."""
        asked = [each.link.send(topic) for each in self.workers.values() if each.served]
        if not asked:
            return succeed(None)
        answered: Deferred[Any] = DeferredList(asked, consumeErrors=True)
        return answered.addTimeout(_ANSWER, self._reactor).addErrback(lambda failure: None)

    def _forget_endpoints(self) -> None:
        """Series of an endpoint go some time after it, also of workers that are no more."""
        now = self._process.context.clock()
        known = {
            (name, each.label)
            for name, upstream in self._serving.upstreams.items()
            for each in (*upstream.endpoints, *upstream.departed(now))
        }
        for metric in BY_ENDPOINT:
            self._gone.keep(metric, lambda labels: labels[:2] in known)


def cores() -> int:
    """How many processes this machine can run at once: CPU affinity or cgroup quota, the smaller."""
    count = len(os.sched_getaffinity(0))
    try:  # cgroup v2: "max 100000", or a quota and its period in microseconds
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return count


def _environment() -> dict[str, str]:
    """A worker speaks to its supervisor alone, not to systemd."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "GATEWAYD_SOCKETS")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith("LISTEN_")
    }
