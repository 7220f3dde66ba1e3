"""logs: whole lines that nobody can forge, written by a thread that holds nobody up."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gatewayd import logs
from gatewayd.accesslog import AccessLog, escaped
from gatewayd.core.addresses import parse_host_port
from gatewayd.core.counters import ExchangeCounters
from gatewayd.core.endpoints import Endpoint, Member
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.messages import Host, RequestHead
from gatewayd.core.routes import Match, Route
from gatewayd.logs import WAITING, AppLog, LineWriter

quick = settings(deadline=None, database=None, max_examples=150)

# The contract's fields of a JSON line, in order.
FIELDS = [
    "ts",
    "request_id",
    "listener",
    "client_ip",
    "peer_ip",
    "method",
    "host",
    "path",
    "query",
    "protocol",
    "status",
    "reason",
    "route",
    "upstream",
    "endpoint",
    "bytes_in",
    "bytes_out",
    "t_head",
    "t_total",
    "t_queue",
    "t_connect",
    "tries",
    "user_agent",
    "referer",
    "traceparent",
]


class Lines:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[tuple[bytes, int]] = []
        self.pushed = 0  # of them

    def write(self, lines: bytes, count: int = 1) -> None:
        """As LineWriter."""
        self.batches.append((lines, count))

    def push(self) -> None:
        """As LineWriter."""
        self.pushed = len(self.batches)

    @property
    def text(self) -> str:
        """All of it."""
        return b"".join(lines for lines, _ in self.batches).decode()


def served(**changes: Any) -> Exchange:
    """A finished exchange that an upstream has answered."""
    head = RequestHead([b"Host: api.example", b"traceparent: 00-0af7-b7ad-01"])
    head.method = b"GET"
    head.path = b"/v1/users"
    head.query = b"?page=2"
    head.asked = Host("api.example")
    head.user_agent = b"User-Agent: curl/8.0"
    head.referer = b"Referer:  http://a.example/ "
    origin = Origin(listener="web", peer="10.0.0.7", scheme="http", port=80, trusted=True)
    exchange = Exchange(head, None, origin, 100.25)
    exchange.client_ip = "192.0.2.1"
    exchange.request_id = b"ab12cd34-1"
    exchange.route = Route("api", Match())
    exchange.upstream_name = "users"
    exchange.endpoint = Endpoint(Member(parse_host_port("127.0.0.1:2003")))
    exchange.status = 200
    exchange.bytes_in = 11
    exchange.bytes_out = 1234
    exchange.headed = 100.2755
    exchange.ended = 100.3004
    exchange.queued = 0.001
    exchange.dialled = 0.0025
    exchange.tries = 2
    for name, value in changes.items():
        setattr(head if hasattr(RequestHead, name) else exchange, name, value)
    return counted(exchange)


def counted(exchange: Exchange) -> Exchange:
    """As a way has ended it."""
    exchange.place = ExchangeCounters(
        exchange.origin.listener, exchange.route_name, exchange.upstream_name
    ).place
    return exchange


def refused() -> Exchange:
    """One that the gateway has answered, of a client that said little."""
    origin = Origin(listener="web", peer="unix", scheme="http", port=0, trusted=False)
    exchange = Exchange(RequestHead([]), None, origin, 100.0)
    exchange.head.version = 10
    exchange.client_ip = "unix"
    exchange.request_id = b"ab12cd34-2"
    exchange.status = 404
    exchange.reason = "no_route"
    exchange.ended = 100.0001
    return counted(exchange)


COMBINED = (
    '192.0.2.1 - - [14/Nov/2023:22:15:00 +0000] "GET /v1/users?page=2 HTTP/1.1" 200 1234 '
    '"http://a.example/" "curl/8.0" listener=web route=api upstream=users endpoint=127.0.0.1:2003 '
    "reason=- t_head=0.0255 t_total=0.0504 t_queue=0.0010 t_connect=0.0025 tries=2 bytes_in=11 "
    "request_id=ab12cd34-1\n"
)
COMBINED_REFUSED = (
    'unix - - [14/Nov/2023:22:15:00 +0000] "GET / HTTP/1.0" 404 0 "-" "-" listener=web route=- '
    "upstream=- endpoint=- reason=no_route t_head=0.0000 t_total=0.0001 t_queue=0.0000 "
    "t_connect=0.0000 tries=0 bytes_in=0 request_id=ab12cd34-2\n"
)
JSON = {
    "ts": "2023-11-14T22:15:00.250Z",
    "request_id": "ab12cd34-1",
    "listener": "web",
    "client_ip": "192.0.2.1",
    "peer_ip": "10.0.0.7",
    "method": "GET",
    "host": "api.example",
    "path": "/v1/users",
    "query": "?page=2",
    "protocol": "HTTP/1.1",
    "status": 200,
    "reason": "",
    "route": "api",
    "upstream": "users",
    "endpoint": "127.0.0.1:2003",
    "bytes_in": 11,
    "bytes_out": 1234,
    "t_head": 0.0255,
    "t_total": 0.0504,
    "t_queue": 0.001,
    "t_connect": 0.0025,
    "tries": 2,
    "user_agent": "curl/8.0",
    "referer": "http://a.example/",
    "traceparent": "00-0af7-b7ad-01",
}


class Access(SynchronousTestCase):
    """A line for every request."""

    maxDiff = None

    def make(self, form: str, *omit: str) -> AccessLog:
        """A log; `self.lines` gets them. Its clock was 100 at 2023-11-14 22:15:00 UTC."""
        self.lines: Any = Lines()
        return AccessLog(self.lines.write, form=form, omit=omit, offset=1_700_000_000.0)

    def line(self, form: str, exchange: Exchange, *omit: str) -> str:
        """One of them."""
        self.make(form, *omit)([exchange])
        text: str = self.lines.text
        self.assertEqual(1, text.count("\n"))
        return text

    def test_combined(self) -> None:
        """The usual line, the rest behind it as key=value."""
        self.assertEqual(COMBINED, self.line("combined", served()))
        self.assertEqual(COMBINED_REFUSED, self.line("combined", refused()))

    def test_json(self) -> None:
        """The contract's fields in its order."""
        line = self.line("json", served())
        self.assertEqual(JSON, json.loads(line))
        self.assertEqual(FIELDS, list(json.loads(line)))
        self.assertNotIn(" ", line.replace('"HTTP/1.1"', ""))
        found = json.loads(self.line("json", refused()))
        self.assertEqual(
            ("-", "-", "no_route", 0.0, "HTTP/1.0", "", ""),
            tuple(
                found[name]
                for name in (
                    "upstream",
                    "endpoint",
                    "reason",
                    "t_head",
                    "protocol",
                    "user_agent",
                    "referer",
                )
            ),
        )

    def test_a_batch_is_one_write(self) -> None:
        """Of whole lines, with their number."""
        log = self.make("combined")
        log([served(), refused(), served()])
        self.assertEqual(
            [((COMBINED + COMBINED_REFUSED + COMBINED).encode(), 3)], self.lines.batches
        )

    def test_time_goes_on(self) -> None:
        """The stamp is of the request's own second, whatever came before."""
        log = self.make("combined")
        log([served(started=started) for started in (100.9, 101.0, 99.0, 161.0)])
        self.assertEqual(
            ["22:15:00", "22:15:01", "22:14:59", "22:16:01"],
            [line.split("2023:")[1][:8] for line in self.lines.text.splitlines()],
        )

    def test_omit(self) -> None:
        """What is named is left out: `-` or nothing in a line, no key in JSON."""
        names = ("query", "user_agent", "referer", "client_ip")
        line = self.line("combined", served(), *names)
        expected = COMBINED.replace("192.0.2.1 ", "- ").replace("?page=2", "")
        expected = expected.replace("http://a.example/", "-").replace("curl/8.0", "-")
        self.assertEqual(expected, line)
        for name in names:
            found = json.loads(self.line("json", served(), name))
            self.assertEqual({key: value for key, value in JSON.items() if key != name}, found)
        self.assertEqual(COMBINED.replace("?page=2", ""), self.line("combined", served(), "query"))

    def test_escaping(self) -> None:
        """Controls, quotes, backslashes and what is no ASCII; so a line stays one line."""
        odd = b'a"b\\c\x00\x1b[0m\x7f\xc3\xa4\xff\t'
        shown = r"a\x22b\x5cc\x00\x1b[0m\x7f\xc3\xa4\xff"
        exchange = served(
            user_agent=b"User-Agent: " + odd, referer=b"Referer: " + odd, query=b"?" + odd + b"z"
        )
        line = self.line("combined", exchange)
        self.assertIn(f'"GET /v1/users?{shown}\\x09z HTTP/1.1"', line)
        self.assertIn(f'"{shown}" "{shown}" listener=web', line)
        found = json.loads(self.line("json", exchange))
        self.assertEqual('a"b\\c\0\x1b[0m\x7fä\\xff', found["user_agent"])
        self.assertEqual(b"?" + odd + b"z", found["query"].encode("latin-1"))

    def test_nobody_forges_a_line(self) -> None:
        """Not even with a line break, should a parser ever let one through."""
        forged = b'x\n127.0.0.1 - - [now] "GET / HTTP/1.1" 200'
        for name, prefix in (("user_agent", b"User-Agent: "), ("referer", b"Referer: ")):
            for form in ("combined", "json"):
                self.line(form, served(**{name: prefix + forged}))
        self.line("json", served(query=b"?" + forged))

    def test_each_byte_escaped(self) -> None:
        """Alone too."""
        plain = set(range(0x20, 0x7F)) - set(b'"\\')
        self.assertEqual(
            {n: bytes([n]) if n in plain else b"\\x%02x" % n for n in range(256)},
            {n: escaped(bytes([n])) for n in range(256)},
        )

    @quick
    @given(st.binary())
    def test_escaped_is_printable_ascii(self, value: bytes) -> None:
        """And stands for what it was."""
        shown = escaped(value)
        self.assertTrue(shown.decode("ascii").isprintable() or not shown)
        self.assertNotIn(b'"', shown)
        self.assertEqual(value, shown.decode("unicode-escape").encode("latin-1"))

    def test_agents_are_remembered(self) -> None:
        """A bounded number of short ones; the line is the same."""
        log = self.make("combined")
        agents = [b"User-Agent: %d" % (number % 5_000) for number in range(10_000)]
        agents += [b"User-Agent: " + b"x" * 600] * 2
        log([served(user_agent=agent) for agent in agents])
        found = [line.split('" "')[1].split('"')[0] for line in self.lines.text.splitlines()]
        self.assertEqual([agent[12:].decode() for agent in agents], found)
        self.assertLessEqual(len(log._said), 4096)
        self.assertLess(max(map(len, log._said)), 512)


class WriterTestCase(SynchronousTestCase):
    """Makes writers that end with their test."""

    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.file = self.directory / "access.log"
        self.complaints: list[str] = []

    def make(self, target: str | Path = "", *, start: bool = True) -> LineWriter:
        """A writer, to the file."""
        writer = LineWriter(str(target or self.file), self.complaints.append)
        self.addCleanup(writer.close)
        if start:
            writer.start()
        return writer

    def fail_writes(self, writer: LineWriter, fail: Callable[[bytes], int]) -> None:
        """Let another function write to this writer's file."""
        real, fd = os.write, writer._fd

        def write(to: int, data: bytes) -> int:
            return fail(data) if to == fd else real(to, data)

        self.patch(os, "write", write)


class Writing(WriterTestCase):
    """What comes to the file, and when."""

    def test_appended(self) -> None:
        """In order, behind what is there."""
        self.file.write_bytes(b"old\n")
        writer = self.make()
        for number in range(1000):
            writer.write(b"%d\n" % number)
        writer.flush(10)
        self.assertEqual("old\n" + "".join(f"{n}\n" for n in range(1000)), self.file.read_text())
        self.assertEqual(0, writer.dropped)
        self.assertEqual(f"<LineWriter {self.file} dropped=0>", repr(writer))

    def test_not_for_everybody_to_read(self) -> None:
        """A new file is its owner's and group's."""
        mask = os.umask(0)
        self.addCleanup(os.umask, mask)
        self.make()
        self.assertEqual(0o640, self.file.stat().st_mode & 0o777)

    def test_before_the_start(self) -> None:
        """Lines wait for the thread: a daemon forks first."""
        writer = self.make(start=False)

        def threads() -> int:
            return sum(each.name.endswith(str(self.file)) for each in threading.enumerate())

        writer.write(b"a\n")
        self.assertEqual((0, ""), (threads(), self.file.read_text()))
        writer.start()
        writer.start()
        writer.flush(10)
        self.assertEqual((1, "a\n"), (threads(), self.file.read_text()))

    def test_a_file_that_cannot_be_opened(self) -> None:
        """Is an error at the start."""
        self.assertRaises(FileNotFoundError, self.make, self.directory / "no" / "such")

    def test_closed(self) -> None:
        """All that waited is written, the thread and the descriptor are gone; again is no harm."""
        writer = self.make(start=False)
        fd = writer._fd
        writer.write(b"a\n" * 1000)
        before = set(threading.enumerate())
        writer.close()
        self.assertEqual("a\n" * 1000, self.file.read_text())
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        self.assertEqual(errno.EBADF, self.assertRaises(OSError, os.fstat, fd).errno)
        writer.close()
        writer.reopen()

    def test_a_kernel_that_takes_little_at_a_time(self) -> None:
        """The rest follows."""
        writer = self.make(start=False)
        fd = writer._fd
        real = os.write
        self.fail_writes(writer, lambda data: real(fd, data[:3]))
        writer.write(b"0123456789\nabc\n")
        writer.flush(10)
        self.assertEqual("0123456789\nabc\n", self.file.read_text())

    def test_streams(self) -> None:
        """stdout and stderr by their names; they are never reopened nor closed."""
        for name, target in (("stdout", "-"), ("stderr", "stderr")):
            with (self.directory / name).open("w") as stream:
                self.patch(sys, name, stream)
                writer = self.make(target)
                writer.write(b"a\n")
                writer.reopen()
                writer.write(b"b\n")
                writer.close()
                os.fstat(stream.fileno())
            self.assertEqual("a\nb\n", (self.directory / name).read_text())


class Trouble(WriterTestCase):
    """A disk that does not take it."""

    def test_too_much_waits(self) -> None:
        """About 4 MiB; what comes on top is dropped, by the line, until there is room."""
        writer = self.make(start=False)
        batch = b"x" * 1023 + b"\n"
        for _ in range(WAITING // 1024 + 1):
            writer.write(batch)
        self.assertEqual(0, writer.dropped)
        writer.write(batch * 3, 3)
        writer.write(batch)
        self.assertEqual(4, writer.dropped)
        writer.start()
        writer.flush(30)
        writer.write(b"last\n")
        writer.flush(30)
        self.assertEqual(WAITING + 1024 + 5, self.file.stat().st_size)
        self.assertTrue(self.file.read_bytes().endswith(b"x\nlast\n"))
        self.assertEqual(4, writer.dropped)

    def test_a_full_disk(self) -> None:
        """It is said once; lines are lost and counted; whoever logs notices nothing."""
        writer = self.make("/dev/full")
        for _ in range(5):
            writer.write(b"a\nb\n", 2)
            writer.flush(10)
        self.assertEqual(
            ["log /dev/full cannot be written: No space left on device; lines are lost"],
            self.complaints,
        )
        self.assertEqual(10, writer.dropped)
        self.assertEqual("<LineWriter /dev/full dropped=10>", repr(writer))

    def test_a_disk_that_fills_within_a_line(self) -> None:
        """The next line begins a line of its own; the torn one counts as lost."""
        writer = self.make()
        fd, real, room = writer._fd, os.write, [6]

        def write(data: bytes) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sent = real(fd, data[: room[0]])
            room[0] -= sent
            return sent

        self.fail_writes(writer, write)
        writer.write(b"one\ntwo\nthree\n", 3)
        writer.flush(10)
        self.assertEqual(("one\ntw", 2), (self.file.read_text(), writer.dropped))
        writer.write(b"four\n")
        writer.flush(10)
        self.assertEqual(("one\ntw", 3), (self.file.read_text(), writer.dropped))
        room[0] = 100
        writer.write(b"five\nsix\n")
        writer.flush(10)
        self.assertEqual(("one\ntw\nfive\nsix\n", 3), (self.file.read_text(), writer.dropped))

    def test_a_disk_that_is_full_again(self) -> None:
        """It is said again; between the two all is written."""
        writer = self.make()
        fd, real, full = writer._fd, os.write, [True]

        def write(data: bytes) -> int:
            if full[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data)

        self.fail_writes(writer, write)
        for full[0] in (True, True, False, True):
            writer.write(b"a\n")
            writer.flush(10)
        self.assertEqual((2, 3), (len(self.complaints), writer.dropped))
        self.assertEqual("a\n", self.file.read_text())


class Rotation(WriterTestCase):
    """SIGUSR1 after a rename."""

    def test_no_line_is_lost(self) -> None:
        """Nor split, nor twice, nor out of order, over both files; the reactor waits for nothing."""
        writer = self.make()
        old = self.directory / "access.log.1"
        for number in range(4000):
            writer.write(b"%d\n" % number)
            if number == 2000:
                self.file.rename(old)
                writer.reopen()
        writer.flush(10)
        first, second = old.read_text(), self.file.read_text()
        self.assertEqual("".join(f"{n}\n" for n in range(4000)), first + second)
        self.assertTrue(first.endswith("\n") and second.startswith("2001\n"))

    def test_the_old_file_is_let_go(self) -> None:
        """Its descriptor closes, so that its space can be freed."""
        writer = self.make()
        fd = writer._fd
        self.file.unlink()
        writer.reopen()
        writer.flush(10)
        self.assertNotEqual(fd, writer._fd)
        self.assertRaises(OSError, os.fstat, fd)
        writer.write(b"new\n")
        writer.flush(10)
        self.assertEqual("new\n", self.file.read_text())

    def test_a_file_that_cannot_be_opened_anew(self) -> None:
        """The old one is kept, and it is said."""
        writer = self.make()
        moved = self.directory.with_name(self.directory.name + "-moved")
        self.directory.rename(moved)
        self.addCleanup(moved.rename, self.directory)
        writer.reopen()
        writer.write(b"a\n")
        writer.flush(10)
        self.assertEqual("a\n", (moved / "access.log").read_text())
        self.assertEqual(
            [f"log {self.file} cannot be opened anew: No such file or directory; going on"],
            self.complaints,
        )

    def test_before_the_start(self) -> None:
        """As later."""
        writer = self.make(start=False)
        writer.write(b"a\n")
        self.file.rename(self.directory / "old")
        writer.reopen()
        writer.write(b"b\n")
        writer.flush(10)
        self.assertEqual("a\n", (self.directory / "old").read_text())
        self.assertEqual("b\n", self.file.read_text())


class Application(SynchronousTestCase):
    """The application's log."""

    maxDiff = None

    def make(self, form: str = "text", level: str = "info") -> Logger:
        """A logger whose events are at one moment."""
        self.lines: Any = Lines()
        self.log: Any = AppLog(self.lines, level=level, form=form)

        def observe(event: dict[str, Any]) -> None:
            self.log({**event, "log_time": 1_700_000_000.125})

        return Logger(namespace="gatewayd", observer=observe)  # type: ignore[arg-type]

    def test_text(self) -> None:
        """Moment, level, system, message."""
        log = self.make()
        log.info("listener {name} on {at}", name="web", at="127.0.0.1:2000")
        log.warn("odd", log_system="pool")
        log.error("bad")
        log.critical("worse")
        stamp = "2023-11-14T22:13:20.125Z"
        self.assertEqual(
            [
                f"{stamp} info [gatewayd] listener web on 127.0.0.1:2000",
                f"{stamp} warning [pool] odd",
                f"{stamp} error [gatewayd] bad",
                f"{stamp} error [gatewayd] worse",
            ],
            self.lines.text.splitlines(),
        )

    def test_json(self) -> None:
        """An object a line."""
        self.make("json").warn("two\nlines {x}", x="ä")
        self.assertEqual(
            [
                {
                    "ts": "2023-11-14T22:13:20.125Z",
                    "level": "warning",
                    "system": "gatewayd",
                    "message": "two\nlines ä",
                }
            ],
            [json.loads(line) for line in self.lines.text.splitlines()],
        )

    def test_nobody_forges_a_line(self) -> None:
        """Further lines are indented; controls are marked."""
        self.make().warn("a\n2023 error [x] forged\r\x1b[2J\x00\x7f\tz\n")
        _, message = self.lines.text.split("[gatewayd] ")
        self.assertEqual("a\n  2023 error [x] forged??[2J??\tz\n", message)

    def test_at_once(self) -> None:
        """These are few, and the last ones before a crash matter most."""
        self.make().info("a")
        self.assertEqual((1, 1), (len(self.lines.batches), self.lines.pushed))

    def test_levels(self) -> None:
        """The least that is written; it may be changed."""
        log = self.make(level="warning")

        def found() -> list[str]:
            self.lines.batches.clear()
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error):
                log.emit(level, level.name)
            log.critical("critical")
            return [line.split(" ")[3] for line in self.lines.text.splitlines()]

        self.assertEqual("warning", self.log.level)
        self.assertEqual(["warn", "error", "critical"], found())
        for level, expected in (("debug", 5), ("info", 4), ("warning", 3), ("error", 2)):
            self.log.level = level
            self.assertEqual((level, expected), (self.log.level, len(found())))

    def test_debug_of_a_subsystem(self) -> None:
        """It is written whatever the level is."""
        log = self.make(level="error")
        log.debug("{line}", line="picks", log_system="balancers", traced=True)
        log.debug("{line}", line="not asked for", log_system="balancers")
        self.assertEqual(["debug [balancers] picks"], [self.lines.text.strip().partition(" ")[2]])

    def test_failures(self) -> None:
        """With their traceback, indented."""
        log = self.make()
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            log.failure("a deadline failed", failure=Failure())
        lines = self.lines.text.splitlines()
        self.assertTrue(lines[0].endswith("error [gatewayd] a deadline failed"), lines[0])
        self.assertEqual("  Traceback (most recent call last):", lines[1])
        self.assertEqual("  ZeroDivisionError: by zero", lines[-1])
        self.assertTrue(all(line.startswith("  ") for line in lines[1:]))

    def test_an_event_that_cannot_be_formatted(self) -> None:
        """A line all the same."""
        self.make().info("{missing.attribute}")
        self.assertIn("info [gatewayd] ", self.lines.text)

    def test_an_event_of_another_time(self) -> None:
        """Twisted's old log has no level and no format of its own."""
        self.make()
        self.log({"log_time": 0.0, "log_format": "{log_legacy}", "log_legacy": "old"})
        self.assertEqual("1970-01-01T00:00:00.000Z info [-] old\n", self.lines.text)

    def test_levels_are_the_configurations(self) -> None:
        """All four."""
        self.assertEqual(("debug", "info", "warning", "error"), logs.LEVELS)
