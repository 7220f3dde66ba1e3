"""The whole gateway as one Twisted service.

Made from a loaded configuration by `makeService` (twistd's plugin) or `gatewayd run`. Start: log files
are opened, sockets bound, members looked up. Stop: /readyz turns 503, and after drain_delay listeners
close; whoever is in flight has drain_timeout to finish.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from random import Random
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import Options as _Options

from gatewayd import __version__
from gatewayd.admin.site import AdminService, NotReady
from gatewayd.assembly import (
    Shared,
    build_checker,
    build_listener,
    build_members,
    build_routes,
    build_upstream,
    build_zookeeper,
)
from gatewayd.config.document import ConfigError
from gatewayd.config.loader import Loaded, load
from gatewayd.config.schema import Config
from gatewayd.core.addresses import Address
from gatewayd.core.counters import Counters
from gatewayd.core.deadlines import Wheel
from gatewayd.core.errors import BadRewrite, CapacityFault, GatewayError, UpstreamFault
from gatewayd.core.exchange import Exchange
from gatewayd.core.forwarded import RequestIds, Via
from gatewayd.core.routes import Route
from gatewayd.core.tracing import SUBSYSTEMS, Trace
from gatewayd.logs import AccessLog, AppLog, LineWriter
from gatewayd.metrics import Snapshot, render
from gatewayd.net.ports import inherited_sockets, is_local
from gatewayd.net.reactor import install
from gatewayd.proxy.context import Context
from gatewayd.proxy.explain import explain
from gatewayd.proxy.listener import Listener
from gatewayd.status import status_of
from gatewayd.sweeper import TICK, Sweeper
from gatewayd.upstreams.members import Members
from gatewayd.upstreams.names import Resolver
from gatewayd.upstreams.upstream import Upstream

EX_CONFIG: Final = 78  # sysexits.h
_SPARE_DESCRIPTORS: Final = 256
_EVERYWHERE: Final = ("0.0.0.0", "::")
# The young generation is collected every 50,000 allocations: a request frees what it made by counting.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


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

    def __init__(self, loaded: Loaded, reactor: Any, *, begin_logging: bool = False) -> None:
        """Put it together; nothing is opened yet but log files.

        Args:
            loaded: its configuration.
            reactor: Twisted's.
            begin_logging: this process has no other log, so all of Twisted's events go to ours.

        Raises:
            OSError: a log file cannot be opened.
        """
        super().__init__()
        self.loaded = loaded
        self.config: Config = loaded.config
        self.reactor = reactor
        self.started = 0.0
        self.draining = False
        self._stopping = False
        logging = self.config.logging
        self._open_logs(begin_logging)
        self.traces = {name: Trace(name, self._tracer(name)) for name in SUBSYSTEMS}
        self.set_debug(logging.debug)
        now = monotonic()
        ids = token_hex(4).encode()
        self.context = Context(
            clock=monotonic,
            wall=time,
            wheel=Wheel(now, tick=TICK),
            counters=Counters(),
            via=Via(b"gatewayd-" + ids),
            ids=RequestIds(ids),
        )
        self.context.on_error = self._report
        if self._access_writer is not None:
            access = logging.access
            self.context.log = AccessLog(
                self._access_writer,
                form=access.format,
                omit=access.omit,
                offset=time() - now,
            )
        self.shared = Shared(
            reactor=reactor,
            context=self.context,
            random=Random(),
            resolver=Resolver(reactor.callFromThread),
            inherited=inherited_sockets(os.environ, os.getpid()),
            traces=self.traces,
            is_own=self._is_own,
            warn=lambda message: self.log.warn("{message}", message=message),
            notice=lambda message: self.log.info("{message}", message=message),
        )
        self.upstreams: dict[str, Upstream] = {}
        self.listeners: dict[str, Listener] = {}
        self.routes: list[Route] = []
        self.admin: AdminService | None = None
        self._build()

    # --- putting together

    def _open_logs(self, begin_logging: bool) -> None:
        logging = self.config.logging
        self._app_writer = LineWriter(logging.to, lambda message: None)
        self.app_log = AppLog(self._app_writer, level=logging.level, form=logging.format)
        ours: Any = self.app_log
        self.log = Logger(namespace="gatewayd", observer=ours)
        # twistd logs Twisted's events itself; what went wrong belongs into ours as well.
        all_or_errors: Any = ours if begin_logging else _errors_only(self.app_log)
        globalLogPublisher.addObserver(all_or_errors)
        access = logging.access
        self._access_writer: LineWriter | None = None
        if access.to != "none":
            self._access_writer = LineWriter(
                access.to,
                lambda message: self.reactor.callFromThread(
                    self.log.error, "{message}", message=message
                ),
            )

    def _tracer(self, name: str) -> Callable[[str], None]:
        def write(line: str) -> None:
            self.log.debug("{line}", line=line, log_system=name, traced=True)

        return write

    def _build(self) -> None:
        config = self.config
        self.addService(
            Sweeper(
                self.context,
                self.reactor,
                flush=self.flush_logs,
                failed=lambda error: self.log.failure("a deadline failed", Failure(error)),
            )
        )
        members: dict[str, Members] = {}
        for name, upstream_config in config.upstreams.items():
            upstream = build_upstream(name, upstream_config, self.shared)
            self.upstreams[name] = upstream
            members[name] = build_members(upstream, upstream_config, self.shared)
            self.addService(members[name])
            checker = build_checker(upstream, upstream_config, self.shared)
            if checker is not None:
                self.addService(checker)
        self.zookeeper = build_zookeeper(config, members, self.shared, self._introduction)
        if self.zookeeper is not None:
            self.addService(self.zookeeper)
        self.routes = build_routes(config, self.upstreams, self.shared)
        for_listeners = [route.listeners for route in config.routes] or [()]
        for name, listener_config in config.listeners.items():
            listener = build_listener(
                name,
                listener_config,
                list(zip(self.routes, for_listeners, strict=True)),
                self.shared,
            )
            self.listeners[name] = listener
            self.addService(listener)
        if config.admin.address is not None:
            self.admin = AdminService(
                config.admin.address,
                self,
                reactor=self.reactor,
                token=config.admin.token,
                open_paths=config.admin.open,
            )
            self.addService(self.admin)

    def _introduction(self) -> dict[str, Any]:
        """What our own node in ZooKeeper says."""
        admin = self.config.admin.address
        return {
            "address": [listener.bound for listener in self.listeners.values()],
            "admin": str(admin) if admin is not None else None,
            "version": __version__,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self.started,
        }

    def _is_own(self, address: Address) -> bool:
        """Whether a member would be this gateway: one of its ports on an address of this machine."""
        places = [listener.bound_address for listener in self.listeners.values()]
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
        for writer in self._writers():
            writer.start()
        self._fit_descriptors()
        super().privilegedStartService()

    def startService(self) -> None:
        """Twisted: begin."""
        self.started = time()
        super().startService()
        self.reactor.callWhenRunning(self._running)

    def _running(self) -> None:
        self._take_signals()
        for warning in self.loaded.warnings:
            self.log.warn("{text}", text=warning.show(self.loaded.file))
        for listener in self.listeners.values():
            self.log.info("listener {name} on {at}", name=listener.name, at=listener.bound)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Twisted: drain, then end."""
        self._stopping = True
        self.drain(True)
        config = self.config
        if self.running and config.drain_delay:
            yield _pause(self.reactor, config.drain_delay)
        drained = DeferredList([listener.drain() for listener in self.listeners.values()])
        limit = self.reactor.callLater(config.drain_timeout, self._abort)
        yield drained
        if limit.active():
            limit.cancel()
        for upstream in self.upstreams.values():
            upstream.close()
        yield super().stopService()
        self.context.flush()
        self.log.info("stopped")
        for writer in self._writers():
            writer.close()

    def _abort(self) -> None:
        open_ones = sum(listener.counters.open for listener in self.listeners.values())
        self.log.warn("drain_timeout is over; {count} connections are cut", count=open_ones)
        for listener in self.listeners.values():
            listener.abort()

    def drain(self, draining: bool) -> None:
        """End keep-alive by `Connection: close` and be unready, or take that back."""
        self.draining = draining
        for listener in self.listeners.values():
            listener.rest(draining)

    # --- signals

    def _take_signals(self) -> None:
        def on(number: int, act: Callable[[], None]) -> None:
            signal.signal(number, lambda *_: self.reactor.callFromThread(act))

        on(signal.SIGUSR1, self.reopen_logs)
        on(signal.SIGHUP, lambda: self.log.warn("SIGHUP: reload is not yet supported"))
        for number in (signal.SIGTERM, signal.SIGINT):
            on(number, self._asked_to_stop)

    def _asked_to_stop(self) -> None:
        if self._stopping:
            self.log.warn("a second signal: leaving at once")
            self._abort()
            return
        self._stopping = True
        self.reactor.stop()

    def flush_logs(self) -> None:
        """Have written what was logged."""
        self.context.flush()
        for writer in self._writers():
            writer.push()

    def reopen_logs(self) -> None:
        """SIGUSR1: log files were rotated away."""
        self.context.flush()
        for writer in self._writers():
            writer.reopen()

    def _writers(self) -> list[LineWriter]:
        writers = [self._app_writer]
        return writers if self._access_writer is None else [*writers, self._access_writer]

    # --- limits of the system

    def _fit_descriptors(self) -> None:
        """Raise RLIMIT_NOFILE; where it is still too low, lower max_connections and say so."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard == resource.RLIM_INFINITY:
            return
        share = (hard - _SPARE_DESCRIPTORS) // 2
        wanted = sum(listener.limits.max_connections for listener in self.listeners.values())
        if wanted <= share:
            return
        for listener in self.listeners.values():
            limits = listener.limits
            lowered = max(1, limits.max_connections * share // wanted)
            self.log.warn(
                "listener {name}: max_connections {was} lowered to {now}, for there are only {hard} "
                "descriptors; raise LimitNOFILE to {need}",
                name=listener.name,
                was=limits.max_connections,
                now=lowered,
                hard=hard,
                need=wanted * 2 + _SPARE_DESCRIPTORS,
            )
            limits.max_connections = lowered

    # --- what the admin interface asks

    def ready(self) -> None:
        """Whether traffic may come.

        Raises:
            NotReady: with what is missing.
        """
        if self.draining:
            raise NotReady("draining")
        missing = [f"listener {each.name}" for each in self.listeners.values() if each.port is None]
        wanted = self.config.admin.ready
        named = {each for route in self.config.routes for each in _names(route.upstream)}
        routed = named or set(self.upstreams)
        unknown = sorted(name for name in routed if not self.upstreams[name].known)
        if wanted == "all" or (wanted == "any" and len(unknown) == len(routed)):
            missing += [f"members of upstream {name}" for name in unknown]
        if missing:
            raise NotReady("waiting for " + ", ".join(missing))

    def status(self) -> dict[str, Any]:
        """Everything about the gateway now, as JSON."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(time() - self.started, 3),
            "workers": 1,
            "draining": self.draining,
            "config": {
                "file": self.loaded.file,
                "digest": self.loaded.digest,
                "loaded": self.started,
            },
            **status_of(
                self.listeners.values(),
                self.upstreams.values(),
                self.zookeeper,
                self.context.clock(),
            ),
        }

    def snapshot(self) -> Snapshot:
        """Figures as of now, for a thread to make metrics of."""
        self.context.counters.log_lines_dropped = {
            name: writer.dropped
            for name, writer in zip(("app", "access"), self._writers(), strict=False)
        }
        return Snapshot(
            self.context.counters,
            self.upstreams.values(),
            self.zookeeper,
            digest=self.loaded.digest,
            loaded=self.started,
            now=self.context.clock(),
        )

    def metrics(self, snapshot: Any, accept: str) -> tuple[str, bytes]:
        """The metrics' text, of a snapshot; called in a thread.

        Returns:
            (content type, text).
        """
        return render(snapshot, accept)

    def explain(
        self, method: str, url: str, headers: list[str], listener: str, client: str
    ) -> dict[str, Any]:
        """The way that a request would take.

        Raises:
            ValueError: the question makes no sense, and why.
        """
        return explain(self.listeners, method, url, headers, listener, client)

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
        found = self.zookeeper.discoveries.get(upstream) if self.zookeeper is not None else None
        if found is None:
            raise LookupError(f"no upstream called {upstream!r} takes its members from ZooKeeper")
        return found.accept()

    def fleet(self) -> Deferred[list[dict[str, Any]]]:
        """The gateways that ZooKeeper knows.

        Raises:
            LookupError: this one does not register.
        """
        ensemble = self.config.zookeeper
        if self.zookeeper is None or ensemble is None or ensemble.register is None:
            raise LookupError("zookeeper.register is not configured here")
        return self.zookeeper.fleet(ensemble.register.path)

    def drain_endpoint(self, upstream: str, endpoint: str, drained: bool) -> None:
        """Take an endpoint out, or put it back.

        Raises:
            LookupError: there is no such upstream or endpoint.
        """
        if upstream not in self.upstreams:
            raise LookupError(
                f"no upstream is called {upstream!r}; there are {', '.join(self.upstreams)}"
            )
        self.upstreams[upstream].drain(endpoint, drained)

    def set_logging(self, level: str | None, debug: list[str] | None) -> None:
        """Change what is logged, until the next reload."""
        if level is not None:
            self.app_log.level = level
        if debug is not None:
            self.set_debug(debug)

    def set_debug(self, names: Any) -> None:
        """Switch debug output by subsystem."""
        for name, trace in self.traces.items():
            trace.on = name in names

    # --- the way's side

    def _report(self, exchange: Exchange, error: GatewayError) -> None:
        """Log what an operator must know of an exchange's end."""
        if isinstance(error, UpstreamFault | CapacityFault | BadRewrite):
            self.log.warn(
                "{reason}: {detail} (route {route}, upstream {upstream}, {method} {path}, request {id})",
                reason=error.reason,
                detail=error.detail,
                route=exchange.route,
                upstream=exchange.upstream_name,
                method=exchange.head.method.decode("latin-1"),
                path=exchange.head.path.decode("latin-1"),
                id=exchange.request_id.decode("latin-1"),
            )


def _names(upstream: str | dict[str, int]) -> list[str]:
    """Of a route: none where it redirects or answers itself."""
    if isinstance(upstream, str):
        return [upstream] if upstream else []
    return list(upstream)


def _pause(reactor: Any, seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


def _errors_only(log: AppLog) -> Callable[[Any], None]:
    def observe(event: Any) -> None:
        if event.get("log_failure") is not None and event.get("log_namespace") != "gatewayd":
            log(event)

    return observe
