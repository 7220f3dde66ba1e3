"""The whole gateway as one Twisted service.

Made from a loaded configuration by `makeService` (twistd's plugin) or `gatewayd run`. Start: log files
are opened, sockets bound, members looked up. Stop: /readyz turns 503, and after drain_delay listeners
close; whoever is in flight has drain_timeout to finish. A reload is planned, then applied: a file that
is wrong changes nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredLock, inlineCallbacks, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.python.usage import Options as _Options

from gatewayd import __version__
from gatewayd.admin.site import AdminService, Lagging, NotReady, Refused
from gatewayd.config.difference import Change, difference, refused
from gatewayd.config.document import ConfigError
from gatewayd.config.loader import Loaded, load
from gatewayd.config.schema import Config
from gatewayd.core.addresses import Address
from gatewayd.core.figures import Figures
from gatewayd.metrics import memberships, of_gateway, recommend, render, traffic
from gatewayd.net.ports import first_environment, inherited_sockets, is_local
from gatewayd.net.reactor import install
from gatewayd.net.systemd import Manager
from gatewayd.process import Process, routed_upstreams
from gatewayd.proxy.explain import explain
from gatewayd.serving import Serving
from gatewayd.status import add_traffic, status_of
from gatewayd.upgrade import Handover, start_successor
from gatewayd.workers.supervisor import Supervisor, cores

EX_CONFIG: Final = 78  # sysexits.h
_ADMIN: Final = "admin"  # its socket's name when it is handed over
_ANNOUNCE: Final = 0.5  # seconds between two words to the service manager
_SAID: Final = 0.1  # seconds in which the answer to `upgrade` goes out
_LOOK: Final = 0.1  # seconds between two looks at the version before
_CONFIRM: Final = 30.0  # seconds that workers have to take a configuration over
_EVERYWHERE: Final = ("0.0.0.0", "::")


class Options(_Options):
    """twistd gatewayd's options."""

    synopsis = "[--config FILE]"
    optParameters = [
        ["config", "c", "/etc/gatewayd/gatewayd.yaml", "The configuration file."],
    ]


def makeService(options: Any) -> Gateway:
    """Twisted's plugin: the gateway of a configuration file.

    Args:
        options: Options; `config` names the file.

    Raises:
        SystemExit: 78 where the configuration is in error, after saying all that is wrong.
    """
    install()  # unless twistd was told another with -r
    from twisted.internet import reactor

    try:
        loaded = load(options["config"])
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EX_CONFIG) from error
    return Gateway(loaded, reactor)


class Gateway(MultiService):
    """All of a gateway; made by makeService or the command line, ended by Twisted."""

    def __init__(
        self,
        loaded: Loaded,
        reactor: Any,
        *,
        begin_logging: bool = False,
        command: Sequence[str] = (),
    ) -> None:
        """Put it together; nothing is opened yet but log files.

        Args:
            loaded: its configuration.
            reactor: Twisted's.
            begin_logging: this process has no other log, so all of Twisted's events go to ours.
            command: as the process was started, for an upgrade; none = it cannot be upgraded.

        Raises:
            OSError: a log file cannot be opened.
        """
        super().__init__()
        self.loaded = loaded
        self.reactor = reactor
        self.started = 0.0
        self.loaded_at = 0.0
        self.reloaded = True  # the last reload worked
        self.draining = False
        self._stopping = False
        self._signalled = False
        self._changing = DeferredLock()  # by a reload or an upgrade
        self._command = command
        self._succeeded = False  # another process has taken over
        self._manager = Manager(os.environ)
        self._announcing = LoopingCall(self._announce)
        self._announcing.clock = reactor
        self._announced = False
        least, most = _workers_of(loaded.config)
        alone = most == 1
        self.process = Process(
            loaded.config.logging,
            reactor,
            via=token_hex(4),
            begin_logging=begin_logging,
            many=not alone,
        )
        self.log = self.process.log
        self.addService(self.process.sweeper)
        self._inherited = inherited_sockets(first_environment(), os.getpid())
        self._handover = Handover()
        self._manager.muted = self._handover.pending
        shared = self.process.shared(
            self._inherited, accepts=1024 if alone else 0, is_own=self._is_own
        )
        self.serving = Serving(loaded.config, shared, says=self._introduction)
        self.addService(self.serving)
        self.supervisor: Supervisor | None = None
        if not alone:
            self.supervisor = Supervisor(
                self.process, self.serving, lambda: self.loaded, least=least, most=most
            )
            if not self._handover.pending:
                self.addService(self.supervisor)
        self.admin: AdminService | None = None
        if self.config.admin.address is not None:
            self.admin = AdminService(
                self.config.admin.address,
                self,
                reactor=reactor,
                token=self.config.admin.token,
                open_paths=self.config.admin.open,
                fd=self._inherited.get(_ADMIN),
            )
            if not self._handover.pending:
                self.addService(self.admin)

    @property
    def config(self) -> Config:
        """What is in effect."""
        return self.loaded.config

    def _introduction(self) -> dict[str, Any]:
        """What our own node in ZooKeeper says."""
        admin = self.config.admin.address
        return {
            "address": [listener.bound for listener in self.serving.listeners.values()],
            "admin": str(admin) if admin is not None else None,
            "version": __version__,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self.started,
        }

    def _is_own(self, address: Address) -> bool:
        """Whether a member would be this gateway: one of its ports on an address of this machine."""
        places = [listener.bound_address for listener in self.serving.listeners.values()]
        if self.config.admin.address is not None:
            places.append(self.config.admin.address)
        return any(
            each.kind == "tcp"
            and each.port == address.port
            and (each.host == address.host or (each.host in _EVERYWHERE and is_local(address.host)))
            for each in places
        )

    # --- Twisted's side

    def privilegedStartService(self) -> None:
        """Twisted: sockets are bound while we may still be root."""
        self.process.start()
        super().privilegedStartService()
        if self._handover.pending:
            for listener in self.serving.listeners.values():
                listener.hold()

    def startService(self) -> None:
        """Twisted: begin."""
        self.started = self.loaded_at = time()
        super().startService()
        self.reactor.callWhenRunning(self._running)

    def _running(self) -> None:
        self._take_signals()
        self._say_warnings()
        for listener in self.serving.listeners.values():
            self.log.info("listener {name} on {at}", name=listener.name, at=listener.bound)
        self.process.settle()
        self._announcing.start(min(_ANNOUNCE, self._manager.watchdog / 3 or _ANNOUNCE))

    def _announce(self) -> None:
        """Tell whoever started us how we fare: the service manager, or the version before us."""
        if self._handover.pending:
            self._take_over()
        waiting = self._handover.pending or (self.supervisor and self.supervisor.missing())
        if not self._announced and not waiting:
            self._announced = True
            self._manager.ready()
        if self.healthy():
            self._manager.alive()
        try:
            self.ready()
            self._manager.status(self._summary())
        except NotReady as reason:
            self._manager.status(str(reason))

    def _summary(self) -> str:
        routed = self.serving.upstreams.values()
        members = sum(len(each.endpoints) for each in routed)
        usable = sum(len(each.balancer.endpoints) for each in routed)
        return (
            f"serves on {', '.join(self.serving.listeners)}; {usable} of {members} endpoints usable"
        )

    def _take_over(self) -> None:
        """Serve instead of the version before us, once we can; workers begin when members are known."""
        supervisor = self.supervisor
        if supervisor is not None and not supervisor.running and not self._missing():
            self.addService(supervisor)
        try:
            self.ready()
        except NotReady as reason:
            if self._handover.too_late:
                self.log.error("not ready in time to take over: {why}; leaving", why=reason)
                self._leave()
            return
        if self.admin is not None:
            self.addService(self.admin)
        for listener in self.serving.listeners.values():
            listener.accept()
        self._handover.close_sockets()
        self._inherited.clear()
        self._manager.muted = False
        self._manager.ready()
        self._announced = True
        self._handover.done(__version__)
        self.log.info("took over from the version before")

    def _say_warnings(self) -> None:
        for warning in self.loaded.warnings:
            self.log.warn("{text}", text=warning.show(self.loaded.file))

    @inlineCallbacks
    def stopService(self) -> Any:
        """Twisted: drain, then end."""
        self._stopping = True
        self._manager.stopping()
        self.drain(True)
        config = self.config
        if self.running and config.drain_delay and not self._succeeded:
            yield _pause(self.reactor, config.drain_delay)
        until = monotonic() + config.drain_timeout
        drained = self.serving.drain()
        limit = self.reactor.callLater(config.drain_timeout, self._abort)
        yield drained
        if limit.active():
            limit.cancel()
        if self.supervisor is not None:
            yield self.supervisor.leave(config.drain_timeout)
        # When we have left, systemd kills what is left of the service: the version before us as well.
        while self._handover.former_drains and monotonic() < until:
            yield _pause(self.reactor, _LOOK)
        self.serving.close()
        if self._announcing.running:
            self._announcing.stop()
        yield super().stopService()
        self.process.close()

    def _abort(self) -> None:
        cut = self.serving.abort()
        if cut:
            self.log.warn("{count} connections that had not finished are cut", count=cut)

    def drain(self, draining: bool) -> None:
        """End keep-alive by `Connection: close` and be unready, or take that back."""
        self.draining = draining
        self.serving.rest(draining)
        if self.supervisor is not None:
            self.supervisor.rest(draining)

    # --- signals

    def _take_signals(self) -> None:
        def on(number: int, act: Callable[[], Any]) -> None:
            signal.signal(number, lambda *_: self.reactor.callFromThread(act))

        on(signal.SIGUSR1, self.reopen_logs)
        on(signal.SIGHUP, lambda: self.reload().addErrback(lambda failure: None))  # it was logged
        for number in (signal.SIGTERM, signal.SIGINT):
            on(number, self._asked_to_stop)

    def _asked_to_stop(self) -> None:
        if self._signalled:
            self.log.warn("a second signal: leaving at once")
            self._handover.forget()
            self._abort()
            if self.supervisor is not None:
                self.supervisor.abort()
            return
        self._signalled = True
        self._leave()

    def _leave(self) -> None:
        if not self._stopping:
            self._stopping = True
            self.reactor.stop()

    def reopen_logs(self) -> None:
        """SIGUSR1: log files were rotated away."""
        self.process.reopen_logs()
        if self.supervisor is not None:
            self.supervisor.reopen_logs()

    # --- another configuration

    def reload(self, *, only_plan: bool = False) -> Deferred[list[Change]]:
        """Read the configuration anew and serve it; one reload at a time.

        Args:
            only_plan: change nothing.

        Returns:
            A Deferred of the changes; it fails with Refused, and then nothing has changed.
        """
        asked: Deferred[list[Change]] = self._changing.run(self._reload, only_plan)
        return asked if only_plan else asked.addErrback(self._not_reloaded).addBoth(self._is_over)

    def _is_over(self, result: Any) -> Any:
        if self._announced:
            self._manager.ready()
        return result

    def upgrade(self) -> Deferred[dict[str, Any]]:
        """Have the installed version take over, then leave.

        Returns:
            A Deferred of its version and pid; fails with Refused, and then nothing has changed.
        """
        return self._changing.run(self._upgrade)

    @inlineCallbacks
    def _upgrade(self) -> Any:
        self._check_going_on()
        if not self._command:
            raise Refused(["only a gateway that `gatewayd run` started can be upgraded"])
        if os.getpid() == 1:
            raise Refused(["this is a container's first process; start a new container instead"])
        sockets = {
            str(listener.address): listener.port.fileno()
            for listener in self.serving.listeners.values()
        }
        if self.admin is not None:
            sockets[_ADMIN] = self.admin.fileno()
        self.log.info("upgrade: starting {command}", command=" ".join(self._command))
        successor = yield start_successor(self._command, sockets, self.reactor)
        self.log.info(
            "version {version}, pid {pid}, serves; finishing what is in flight, and leaving",
            **successor,
        )
        self._succeeded = self._manager.muted = True
        for each in (*self.serving.listeners.values(), self.admin):
            if each is not None:
                each.yield_path()
        if self.admin is not None:
            self.removeService(self.admin)
        self.reactor.callLater(_SAID, self._leave)
        return successor

    @inlineCallbacks
    def _reload(self, only_plan: bool) -> Any:
        try:
            loaded = yield deferToThread(load, self.loaded.file)
        except ConfigError as error:
            raise Refused(str(error).splitlines()) from error
        if wrong := refused(self.config, loaded.config):
            raise Refused([f"{loaded.file}: {each}" for each in wrong])
        changes = difference(self.config, loaded.config)
        if only_plan:
            return changes
        self._check_going_on()
        self._manager.reloading()
        if loaded.config == self.config:
            self.reopen_logs()
            self.set_logging(loaded.config.logging.level, list(loaded.config.logging.debug))
            self._serves(loaded, changes)
            return changes
        try:
            logs = self.process.plan_logs(loaded.config.logging)
            plan = self.serving.plan(loaded.config)
        except (CannotListenError, KeyError, OSError) as error:
            raise Refused([f"{loaded.file}: {why_not_bound(error)}"]) from error
        self.serving.switch(plan)
        self.process.switch_logs(loaded.config.logging, logs)
        if self.admin is not None:
            self.admin.become(loaded.config.admin.token, loaded.config.admin.open)
        self._serves(loaded, changes)
        if self.supervisor is not None:
            confirmed = self.supervisor.configure(plan.opened)
            confirmed.addTimeout(_CONFIRM, self.reactor, onTimeoutCancel=self._lagging)
            failed = yield confirmed
            if failed:
                raise Lagging(f"worker {', '.join(map(str, failed))} failed to take it over")
        return changes

    def _check_going_on(self) -> None:
        if self._succeeded:
            raise Refused(["another version has taken over and serves now; ask it"])
        if self._stopping:
            raise Refused(["the gateway is stopping"])

    def _lagging(self, result: Any, seconds: float) -> Any:
        assert self.supervisor is not None
        lagging = ", ".join(map(str, sorted(self.supervisor.lagging)))
        raise Lagging(f"worker {lagging} has not taken the new configuration over in {seconds:g} s")

    def _serves(self, loaded: Loaded, changes: list[Change]) -> None:
        self.loaded = loaded
        self.loaded_at = time()
        self.reloaded = True
        self._say_warnings()
        for change in changes:
            self.log.info("reload: {change}", change=change)
        self.log.info("reloaded {file}, {count} changes", file=loaded.file, count=len(changes))

    def _not_reloaded(self, failure: Failure) -> Failure:
        self.reloaded = False
        error = failure.value
        if isinstance(error, Lagging):
            self.log.error("reload: {error}", error=error)
            return failure
        if not isinstance(error, Refused):
            self.log.failure("reload failed; the former configuration goes on", failure)
            return Failure(Refused([f"reload failed: {failure.getErrorMessage()}"]))
        for each in error.errors:
            self.log.error("reload refused, nothing has changed: {error}", error=each)
        return failure

    # --- what the admin interface asks

    def ready(self) -> None:
        """Whether traffic may come.

        Raises:
            NotReady: with what is missing.
        """
        if self.draining:
            raise NotReady("draining")
        missing = self._missing()
        if self.supervisor is not None:
            missing += self.supervisor.missing()
        if missing:
            raise NotReady("waiting for " + ", ".join(missing))

    def _missing(self) -> list[str]:
        """Listeners and members that this process waits for."""
        serving = self.serving
        missing = [f"listener {n}" for n, each in serving.listeners.items() if each.port is None]
        wanted = self.config.admin.ready
        routed = routed_upstreams(self.config.routes) or set(serving.upstreams)
        unknown = sorted(name for name in routed if not serving.upstreams[name].known)
        if wanted == "all" or (wanted == "any" and len(unknown) == len(routed)):
            missing += [f"members of upstream {name}" for name in unknown]
        return missing

    def healthy(self) -> bool:
        """Whether somebody serves."""
        return self.supervisor is None or self.supervisor.alive

    def status(self) -> Deferred[dict[str, Any]]:
        """Everything about the gateway now, as JSON."""
        supervisor = self.supervisor
        if supervisor is None:
            return succeed(self._own_status(1))

        def added(workers: list[dict[str, Any]]) -> dict[str, Any]:
            found = self._own_status(supervisor.shown())
            add_traffic(found, workers)
            return found

        return supervisor.status().addCallback(added)

    def _own_status(self, workers: Any) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(time() - self.started, 3),
            "workers": workers,
            "draining": self.draining,
            "config": {
                "file": self.loaded.file,
                "digest": self.loaded.digest,
                "loaded": self.loaded_at,
            },
            **status_of(
                self.serving.listeners.values(),
                self.serving.upstreams.values(),
                self.serving.zookeeper,
                self.process.context.clock(),
            ),
        }

    def figures(self) -> Deferred[Figures]:
        """Figures as of now, for a thread to make metrics of."""
        serving, context = self.serving, self.process.context
        if self.supervisor is not None:
            return self.supervisor.figures().addCallback(self._with_own, "supervisor")
        found = traffic(context.counters, serving.upstreams.values(), context.clock())
        found.gauge("workers", [(("up",), 1.0)])
        return succeed(self._with_own(found, "0"))

    def _with_own(self, found: Figures, name: str) -> Figures:
        """With what this process alone knows."""
        serving = self.serving
        found.add(of_gateway(__version__, self.loaded.digest, self.loaded_at, self.reloaded))
        now = self.process.context.clock()
        found.add(memberships(serving.upstreams.values(), serving.zookeeper, now))
        found.add(self.process.figures(name))
        recommend(
            found,
            {name: len(each.balancer.endpoints) for name, each in serving.upstreams.items()},
            {
                n: each.pool.max_connections_per_endpoint
                for n, each in self.config.upstreams.items()
            },
        )
        return found

    def metrics(self, found: Figures, accept: str) -> tuple[str, bytes]:
        """The metrics' text, of figures; called in a thread.

        Returns:
            (content type, text).
        """
        return render(found, accept)

    def explain(
        self, method: str, url: str, headers: list[str], listener: str, client: str
    ) -> dict[str, Any]:
        """The way that a request would take.

        Raises:
            ValueError: the question makes no sense, and why.
        """
        return explain(self.serving.listeners, method, url, headers, listener, client)

    def shown_config(self) -> Any:
        """The running configuration, secrets masked."""
        return self.loaded.shown()

    def accept(self, upstream: str) -> int:
        """Take a held membership as it is.

        Returns:
            How many held members left by it.

        Raises:
            LookupError: no such upstream takes its members from ZooKeeper.
        """
        zookeeper = self.serving.zookeeper
        found = zookeeper.discoveries.get(upstream) if zookeeper is not None else None
        if found is None:
            raise LookupError(f"no upstream called {upstream!r} takes its members from ZooKeeper")
        return found.accept()

    def fleet(self) -> Deferred[list[dict[str, Any]]]:
        """The gateways that ZooKeeper knows.

        Raises:
            LookupError: this one does not register.
        """
        ensemble, zookeeper = self.config.zookeeper, self.serving.zookeeper
        if zookeeper is None or ensemble is None or ensemble.register is None:
            raise LookupError("zookeeper.register is not configured here")
        return zookeeper.fleet(ensemble.register.path)

    def drain_endpoint(self, upstream: str, endpoint: str, drained: bool) -> None:
        """Take an endpoint out, or put it back.

        Raises:
            LookupError: there is no such upstream or endpoint.
        """
        upstreams = self.serving.upstreams
        if upstream not in upstreams:
            raise LookupError(
                f"no upstream is called {upstream!r}; there are {', '.join(upstreams)}"
            )
        upstreams[upstream].drain(endpoint, drained)

    def set_logging(self, level: str | None, debug: list[str] | None) -> None:
        """Change what is logged, until the next reload."""
        self.process.set_logging(level, debug)
        if self.supervisor is not None:
            self.supervisor.set_logging(level, debug)


def _workers_of(config: Config) -> tuple[int, int]:
    """The least and the greatest number of workers; `auto` is found out here."""
    workers = config.workers
    if isinstance(workers, int):
        return workers or cores(), workers or cores()
    return workers.min or cores(), workers.max or cores()


def why_not_bound(error: BaseException) -> str:
    """Why a socket or a file cannot be had, and what to do, for a person."""
    if isinstance(error, CannotListenError):
        port = error.port.decode() if isinstance(error.port, bytes) else error.port
        where = f"{error.interface}:{port}" if error.interface else str(port)
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        return f"cannot listen on {where}: {reason}"
    if isinstance(error, KeyError):
        return f"no socket called {error.args[0]} was passed by systemd (FileDescriptorName=)"
    filename = getattr(error, "filename", None) or "start"
    return f"{filename}: {getattr(error, 'strerror', None) or error}"


def _pause(reactor: Any, seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done
