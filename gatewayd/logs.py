"""Log files and the formats of their lines.

Nothing here ever blocks the reactor: lines are handed to a thread that writes them whole, at most
WAITING bytes wait for it, and what comes on top is dropped and counted. A full disk stops no request.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from select import PIPE_BUF
from stat import S_ISREG
from threading import Event, Thread
from time import gmtime, strftime
from typing import Any, Final, NamedTuple

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import implementer

from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import value_of

WAITING: Final = 4 << 20
_TOGETHER: Final = 131_072
_PLACES: Final = 4096
LEVELS: Final = ("debug", "info", "warning", "error")
_ODD: Final = re.compile(rb"[\x00-\x1f\"\\\x7f-\xff]").search
_ODD_BYTE: Final = re.compile(rb"[\x00-\x1f\"\\\x7f-\xff]")
_AGENTS: Final = 1024
_CHATTY: Final = ("twisted.protocols.amp",)  # its every connection is nothing to tell people
_STREAMS: Final = ("-", "stderr")


class _Job(NamedTuple):
    """Something for a writer's thread."""

    lines: bytes = b""
    fd: int = -1  # where the next ones go
    done: Event | None = None


class LineWriter:
    """Writes whole lines to a file or a standard stream from a thread of its own."""

    def __init__(self, target: str, complain: Callable[[str], None], *, many: bool = False) -> None:
        """Open it.

        Args:
            target: `-` for stdout, `stderr`, or a path that is appended to.
            complain: told once, from the thread, when writing begins to fail.
            many: other processes write there as well. A file's appends are whole; of a pipe's or a
                socket's only short ones are (pipe(7), PIPE_BUF).

        Raises:
            OSError: the file cannot be opened.
        """
        self.target = target
        self._complain = complain
        self._fd = _open(target)  # the thread's, once it runs
        self._short = many and target in _STREAMS and not S_ISREG(os.fstat(self._fd).st_mode)
        self._held: list[bytes] = []  # lines that are handed to the thread together
        self._held_bytes = 0
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._refused = 0  # lines, by too many that wait
        self._lost = 0  # lines, by a write that failed
        self._waiting = 0
        self._written = 0
        self._failing = False
        self._torn = False  # the file ends within a line: the disk was full
        self._started = False
        self._closed = False

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._refused + self._lost

    def __repr__(self) -> str:
        return f"<LineWriter {self.target} dropped={self.dropped}>"

    def start(self) -> None:
        """Begin to write; not before the process is a daemon, since a fork loses threads."""
        if not self._started:
            self._started = True
            Thread(target=self._work, name=f"gatewayd-log-{self.target}", daemon=True).start()

    def write(self, lines: bytes, count: int = 1) -> None:
        """Hand over whole lines.

        Args:
            lines: each ended by a newline.
            count: how many they are.
        """
        if self._waiting - self._written > WAITING:
            self._refused += count
            return
        self._waiting += len(lines)
        self._held.append(lines)
        self._held_bytes += len(lines)
        if self._held_bytes >= _TOGETHER:
            self.push()

    def push(self) -> None:
        """Hand what was held to the thread: waking it for every line would cost more than the line."""
        if self._held:
            held, self._held = self._held, []
            self._held_bytes = 0
            self._queue.put(_Job(lines=b"".join(held)))

    def reopen(self) -> None:
        """Open the file anew: it was rotated away. A file that cannot be opened keeps the old one.

        Lines handed over before still go to the old one, whole; the thread changes over after them.
        """
        if self.target in _STREAMS or self._closed:
            return
        try:
            fd = _open(self.target)
        except OSError as error:
            self._complain(f"log {self.target} cannot be opened anew: {error.strerror}; going on")
            return
        self.push()
        self._queue.put(_Job(fd=fd))

    def flush(self, seconds: float) -> None:
        """Wait until all is written that was handed over, at most so long."""
        self.start()
        self.push()
        done = Event()
        self._queue.put(_Job(done=done))
        done.wait(seconds)

    def close(self) -> None:
        """Write what waits, for a second at most, and end."""
        if not self._closed:
            self.flush(1.0)
            self._closed = True
            self._queue.put(None)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                self._change_to(-1)
                return
            if job.lines:
                for lines in _short_pieces(job.lines) if self._short else (job.lines,):
                    self._put(lines)
                self._written += len(job.lines)
            if job.fd >= 0:
                self._change_to(job.fd)
            if job.done is not None:
                job.done.set()

    def _change_to(self, fd: int) -> None:
        if self.target not in _STREAMS:
            os.close(self._fd)
        self._fd = fd
        self._torn = False

    def _put(self, lines: bytes) -> None:
        data = b"\n" + lines if self._torn else lines
        sent = 0
        try:
            while sent < len(data):
                sent += os.write(self._fd, data[sent:] if sent else data)
            self._failing = self._torn = False
        except OSError as error:
            self._lost += min(lines.count(b"\n"), data.count(b"\n", sent))
            self._torn = data[sent - 1 : sent] != b"\n" if sent else self._torn
            if not self._failing:
                self._failing = True
                self._complain(
                    f"log {self.target} cannot be written: {error.strerror}; lines are lost"
                )


def _short_pieces(lines: bytes) -> Iterator[bytes]:
    """Whole lines, as many at a time as are written at once; a longer one by itself."""
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + PIPE_BUF) + 1
        if end <= start:
            end = lines.index(b"\n", start) + 1
        yield lines[start:end]
        start = end


def _open(target: str) -> int:
    if target == "-":
        return sys.stdout.fileno()
    if target == "stderr":
        return sys.stderr.fileno()
    return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def escaped(value: bytes) -> bytes:
    """A value for a quoted field: control bytes, quotes, backslashes and non-ASCII as \\xNN."""
    if _ODD(value) is None:
        return value
    return _ODD_BYTE.sub(lambda match: b"\\x%02x" % match.group()[0], value)


class AccessLog:
    """Formats finished exchanges; `combined` or `json`."""

    def __init__(
        self, writer: LineWriter, *, form: str, omit: Iterable[str], offset: float
    ) -> None:
        """Args:
        writer: gets the lines.
        form: `combined` or `json`.
        omit: query, user_agent, referer, client_ip are left out if named.
        offset: what an exchange's clock lacks to seconds since 1970.
        """
        self._writer = writer
        self._omit = frozenset(omit)
        self._line = self._json if form == "json" else self._combined
        self._offset = offset
        self._second = -1
        self._stamp = b""
        self._agents: dict[bytes, bytes] = {}
        self._places: dict[tuple[str, str, str, str], bytes] = {}
        self._combined_omit = bool(self._omit)

    def __call__(self, batch: list[Exchange]) -> None:
        """Write a line for each."""
        line = self._line
        self._writer.write(b"".join([line(exchange) for exchange in batch]), len(batch))

    def _combined(self, exchange: Exchange) -> bytes:
        head = exchange.head
        second = int(exchange.started + self._offset)
        if second != self._second:
            self._second = second
            self._stamp = strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(second)).encode()
        agent = self._agents.get(head.user_agent)
        if agent is None:
            agent = self._remember(head.user_agent)
        query = head.query
        referer = value_of(head.referer) if head.referer else b"-"
        client = exchange.client_ip
        if self._combined_omit:
            query, referer, agent, client = self._without(query, referer, agent, client)
        if _ODD(query) is not None or _ODD(referer) is not None:
            query, referer = escaped(query), escaped(referer)
        endpoint = exchange.endpoint
        label = endpoint.label if endpoint is not None else "-"
        key = (exchange.origin.listener, exchange.route, exchange.upstream_name, label)
        place = self._places.get(key)
        if place is None:
            place = self._remember_place(key)
        headed = exchange.headed
        return (
            b'%b - - [%b] "%b %b%b HTTP/1.%d" %d %d "%b" "%b" %b reason=%b t_head=%.4f '
            b"t_total=%.4f t_queue=%b t_connect=%b tries=%d bytes_in=%d request_id=%b\n"
        ) % (
            client.encode(),
            self._stamp,
            head.method,
            head.path,
            query,
            head.version - 10,
            exchange.status,
            exchange.bytes_out,
            referer,
            agent,
            place,
            exchange.reason.encode() if exchange.reason else b"-",
            headed - exchange.started if headed else 0.0,
            exchange.ended - exchange.started,
            b"%.4f" % exchange.queued if exchange.queued else b"0.0000",
            b"%.4f" % exchange.dialled if exchange.dialled else b"0.0000",
            exchange.tries,
            exchange.bytes_in,
            exchange.request_id,
        )

    def _remember_place(self, key: tuple[str, str, str, str]) -> bytes:
        """The fields that name where a request went; the same for very many of them."""
        if len(self._places) >= _PLACES:
            self._places.clear()
        place = b"listener=%b route=%b upstream=%b endpoint=%b" % tuple(e.encode() for e in key)
        self._places[key] = place
        return place

    def _remember(self, line: bytes) -> bytes:
        agent = escaped(value_of(line)) if line else b"-"
        if len(self._agents) >= _AGENTS:
            self._agents.clear()
        if len(line) < 512:
            self._agents[line] = agent
        return agent

    def _without(
        self, query: bytes, referer: bytes, agent: bytes, client: str
    ) -> tuple[bytes, bytes, bytes, str]:
        omit = self._omit
        return (
            b"" if "query" in omit else query,
            b"-" if "referer" in omit else referer,
            b"-" if "user_agent" in omit else agent,
            "-" if "client_ip" in omit else client,
        )

    def _json(self, exchange: Exchange) -> bytes:
        head = exchange.head
        endpoint = exchange.endpoint
        moment = datetime.fromtimestamp(exchange.started + self._offset, UTC)
        agent = value_of(head.user_agent) if head.user_agent else b""
        referer = value_of(head.referer) if head.referer else b""
        fields = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": exchange.request_id.decode("latin-1"),
            "listener": exchange.origin.listener,
            "client_ip": exchange.client_ip,
            "peer_ip": exchange.origin.peer,
            "method": head.method.decode("latin-1"),
            "host": head.host,
            "path": head.path.decode("latin-1"),
            "query": head.query.decode("latin-1"),
            "protocol": "HTTP/1.1" if head.version == 11 else "HTTP/1.0",
            "status": exchange.status,
            "reason": exchange.reason,
            "route": exchange.route,
            "upstream": exchange.upstream_name,
            "endpoint": endpoint.label if endpoint is not None else "-",
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "t_head": round(exchange.headed - exchange.started, 6) if exchange.headed else 0.0,
            "t_total": round(exchange.ended - exchange.started, 6),
            "t_queue": round(exchange.queued, 6),
            "t_connect": round(exchange.dialled, 6),
            "tries": exchange.tries,
            "user_agent": agent.decode("utf-8", "backslashreplace"),
            "referer": referer.decode("utf-8", "backslashreplace"),
            "traceparent": (head.get(b"traceparent") or b"").decode("latin-1"),
        }
        for name in self._omit:
            del fields[name]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@implementer(ILogObserver)
class AppLog:
    """The application's log: Twisted's events as lines of text or JSON."""

    def __init__(self, writer: LineWriter, *, level: str, form: str) -> None:
        """Args: level: one of LEVELS, the least that is written. form: `text` or `json`."""
        self.writer = writer
        self.form = form
        self.level = level

    @property
    def level(self) -> str:
        """The least level that is written."""
        return self._level

    @level.setter
    def level(self, level: str) -> None:
        self._level = level
        self._least = LogLevel.lookupByName("warn" if level == "warning" else level)

    def __call__(self, event: Any) -> None:
        """Twisted: write an event, if it is worth it."""
        level = event.get("log_level") or LogLevel.info
        namespace = event.get("log_namespace") or "-"
        if namespace in _CHATTY and level is LogLevel.info:
            level = LogLevel.debug
        if level < self._least and not event.get("traced"):
            return
        name = {"warn": "warning", "critical": "error"}.get(level.name, level.name)
        message = formatEvent(event) or ""
        failure = event.get("log_failure")
        if failure is not None:
            message += "\n" + "".join(
                traceback.format_exception(
                    failure.type, failure.value, failure.getTracebackObject()
                )
            )
        moment = datetime.fromtimestamp(event["log_time"], UTC)
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        system = str(event.get("log_system") or namespace)
        if self.form == "json":
            fields = {"ts": stamp, "level": name, "system": system, "message": message}
            line = json.dumps(fields).encode() + b"\n"
        else:
            safe = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "?", message).rstrip().replace("\n", "\n  ")
            line = f"{stamp} {name} [{system}] {safe}\n".encode("utf-8", "replace")
        self.writer.write(line)
        self.writer.push()  # these are few, and the last ones before a crash matter most
