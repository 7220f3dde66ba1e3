"""What every process of a gateway has, be it alone, a supervisor or a worker: logs, time and figures."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterable, Mapping
from random import Random
from secrets import token_hex
from time import monotonic, process_time, time
from typing import Any, Final

from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from gatewayd import hugepages
from gatewayd.accesslog import AccessLog
from gatewayd.assembly import Shared
from gatewayd.config import schema
from gatewayd.core.addresses import Address
from gatewayd.core.counters import Counters
from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.errors import BadRewrite, CapacityFault, GatewayError, UpstreamFault
from gatewayd.core.exchange import Exchange
from gatewayd.core.figures import Figures
from gatewayd.core.forwarded import RequestIds, Via
from gatewayd.core.tracing import SUBSYSTEMS, Trace
from gatewayd.logs import AppLog, LineWriter
from gatewayd.metrics import process_figures
from gatewayd.proxy.context import Context
from gatewayd.sweeper import TICK, Sweeper
from gatewayd.upstreams.names import Resolver

# For logs, ZooKeeper, the admin interface, what libraries open, and half of them for pipes (net.pipes).
SPARE_DESCRIPTORS: Final = 256
_GATHER: Final = 60.0  # seconds between two looks for what huge pages could hold
_BUSY_OVER: Final = 0.9  # seconds: every other visit
# The young generation is collected every 50,000 allocations: a request frees what it made by counting.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


class Process:
    """Logs, clock, deadlines and figures of one process; made first, closed last."""

    def __init__(
        self,
        logging: schema.Logging,
        reactor: Any,
        *,
        via: str,
        begin_logging: bool,
        many: bool = False,
    ) -> None:
        """Open the logs.

        Args:
            logging: what is written where.
            reactor: Twisted's.
            via: the daemon's id in Via, one for all of its processes.
            begin_logging: this process has no other log, so all of Twisted's events go to ours.
            many: other processes log to the same places.

        Raises:
            OSError: a log file cannot be opened.
        """
        self._many = many
        self.reactor = reactor
        self.via = via
        self._logging = logging
        self._writer = self._open_app(logging)
        self.app_log = AppLog(self._writer, level=logging.level, form=logging.format)
        ours: Any = self.app_log
        self.log = Logger(namespace="gatewayd", observer=ours)
        # twistd logs Twisted's events itself; what went wrong belongs into ours as well.
        all_or_errors: Any = ours if begin_logging else _errors_only(self.app_log)
        globalLogPublisher.addObserver(all_or_errors)
        self._access_writer = self._open_access(logging.access)
        self.traces = {name: Trace(name, self._tracer(name)) for name in SUBSYSTEMS}
        now = monotonic()
        self.context = Context(
            clock=monotonic,
            wall=time,
            wheel=Wheel(now, tick=TICK),
            counters=Counters(),
            via=Via(f"gatewayd-{via}".encode()),
            ids=RequestIds(token_hex(4).encode()),
        )
        self.context.on_error = self._report
        self._offset = time() - now
        self.busy = 0.0  # share of a CPU that was used of late
        self._measured_at, self._used = now, process_time()
        self._gathers_at = INFINITY  # not before all is there
        self._log_requests()
        self.set_logging(None, list(logging.debug))
        self.sweeper = Sweeper(
            self.context,
            reactor,
            flush=self._twice_a_second,
            failed=lambda error: self.log.failure("a deadline failed", Failure(error)),
        )

    def shared(
        self,
        inherited: dict[str, int],
        *,
        accepts: int = 1024,
        board: Any = None,
        is_own: Callable[[Address], bool] = lambda address: False,
    ) -> Shared:
        """What everything in this process is built with; Args: as in Shared."""
        return Shared(
            reactor=self.reactor,
            context=self.context,
            random=Random(),
            resolver=Resolver(self.reactor.callFromThread),
            inherited=inherited,
            accepts=accepts,
            board=board,
            traces=self.traces,
            is_own=is_own,
            warn=self.warn,
            notice=self.notice,
        )

    def warn(self, message: str) -> None:
        """Tell people what they may have to do something about."""
        self.log.warn("{message}", message=message)

    def notice(self, message: str) -> None:
        """Tell people what has happened."""
        self.log.info("{message}", message=message)

    def start(self) -> None:
        """Begin to write; not before the process is a daemon, since a fork loses threads."""
        for writer in self._writers():
            writer.start()

    def settle(self) -> None:
        """All that lives long is there: the collector need not look at it again."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._gather(monotonic())

    def close(self) -> None:
        """Write what is left, and end."""
        self.context.flush()
        self.notice("stopped")
        for writer in self._writers():
            writer.close()

    # --- logs

    def _open_app(self, logging: schema.Logging) -> LineWriter:
        return LineWriter(logging.to, lambda message: None, many=self._many)

    def _open_access(self, access: schema.AccessLog) -> LineWriter | None:
        if access.to == "none":
            return None
        return LineWriter(
            access.to,
            lambda message: self.reactor.callFromThread(
                self.log.error, "{message}", message=message
            ),
            many=self._many,
        )

    def _log_requests(self) -> None:
        if self._access_writer is None:
            self.context.log = None
            return
        access = self._logging.access
        self.context.log = AccessLog(
            self._access_writer.write, form=access.format, omit=access.omit, offset=self._offset
        )

    def plan_logs(self, logging: schema.Logging) -> tuple[LineWriter | None, LineWriter | None]:
        """Open what another configuration logs to, as far as that is elsewhere.

        Returns:
            Writers of the application's and the access log; None where it stays as it is.

        Raises:
            OSError: a file cannot be opened.
        """
        elsewhere = logging.to != self._logging.to
        writer = self._open_app(logging) if elsewhere else None
        elsewhere = logging.access.to != self._logging.access.to
        return writer, self._open_access(logging.access) if elsewhere else None

    def switch_logs(
        self, logging: schema.Logging, planned: tuple[LineWriter | None, LineWriter | None]
    ) -> None:
        """Log as another configuration says; files that stay are opened anew."""
        self.context.flush()
        writer, access_writer = planned
        former: list[LineWriter] = []
        if writer is not None:
            former.append(self._writer)
            self._writer = self.app_log.writer = writer
        if logging.access.to != self._logging.access.to:
            former += [self._access_writer] if self._access_writer is not None else []
            self._access_writer = access_writer
        self._logging = logging
        self.app_log.form = logging.format
        self._log_requests()
        self.set_logging(logging.level, list(logging.debug))
        self.start()
        for each in former:
            each.close()
        self.reopen_logs()

    def set_logging(self, level: str | None, debug: list[str] | None) -> None:
        """Change what is logged; None = leave it."""
        if level is not None:
            self.app_log.level = level
        if debug is not None:
            for name, trace in self.traces.items():
                trace.on = name in debug

    def _twice_a_second(self) -> None:
        self.flush_logs()
        now, used = monotonic(), process_time()
        if now - self._measured_at >= _BUSY_OVER:
            self.busy = (used - self._used) / (now - self._measured_at)
            self._measured_at, self._used = now, used
        if now >= self._gathers_at:
            self._gather(now)

    def _gather(self, now: float) -> None:
        """What has come since the last time too: connections, a new configuration."""
        self._gathers_at = now + _GATHER
        hugepages.gather()

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

    def figures(self, name: str) -> Figures:
        """What there is of this process by itself; Args: name: its label."""
        self.context.counters.log_lines_dropped = {
            log: writer.dropped
            for log, writer in zip(("app", "access"), self._writers(), strict=False)
        }
        return process_figures(self.context.counters, name, self.busy)

    def _writers(self) -> list[LineWriter]:
        writers = [self._writer]
        return writers if self._access_writer is None else [*writers, self._access_writer]

    def _tracer(self, name: str) -> Callable[[str], None]:
        def write(line: str) -> None:
            self.log.debug("{line}", line=line, log_system=name, traced=True)

        return write

    def _report(self, exchange: Exchange, error: GatewayError) -> None:
        """Log what an operator must know of an exchange's end."""
        if isinstance(error, UpstreamFault | CapacityFault | BadRewrite):
            self.log.warn(
                "{reason}: {detail} (route {route}, upstream {upstream}, {method} {path}, request {id})",
                reason=error.reason,
                detail=error.detail,
                route=exchange.route_name,
                upstream=exchange.upstream_name,
                method=exchange.head.method.decode("latin-1"),
                path=exchange.head.path.decode("latin-1"),
                id=exchange.request_id.decode("latin-1"),
            )


def room_for_clients(wanted: Mapping[str, int]) -> dict[str, int]:
    """Raise RLIMIT_NOFILE to its hard limit, and fit max_connections into it.

    Args:
        wanted: max_connections by listener.

    Returns:
        The same, lowered where two descriptors for each connection would not fit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    share = (hard - SPARE_DESCRIPTORS) // 2
    total = sum(wanted.values())
    if hard == resource.RLIM_INFINITY or total <= share:
        return dict(wanted)
    return {name: max(1, most * share // total) for name, most in wanted.items()}


def lowered(wanted: Mapping[str, int], room: Mapping[str, int]) -> list[str]:
    """What to tell people of limits that do not fit; Args: as of, and from, `room_for_clients`."""
    need = sum(wanted.values()) * 2 + SPARE_DESCRIPTORS
    return [
        f"listener {name}: max_connections {most} lowered to {room[name]}, for there are too few "
        f"descriptors; raise LimitNOFILE to {need}"
        for name, most in wanted.items()
        if room[name] < most
    ]


def routed_upstreams(routes: Iterable[schema.Route]) -> set[str]:
    """Names of the upstreams that routes lead to."""
    named = (route.upstream for route in routes)
    return {name for each in named for name in ([each] if isinstance(each, str) else each) if name}


def _errors_only(log: AppLog) -> Callable[[Any], None]:
    def observe(event: Any) -> None:
        if event.get("log_failure") is not None and event.get("log_namespace") != "gatewayd":
            log(event)

    return observe
