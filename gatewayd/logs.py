"""Log files, and the application's log.

Nothing here ever blocks the reactor: lines are handed to a thread that writes them whole, at most
WAITING bytes wait for it, and what comes on top is dropped and counted. A full disk stops no request.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from select import PIPE_BUF
from stat import S_ISREG
from threading import Event, Thread
from typing import Any, Final, NamedTuple

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import implementer

WAITING: Final = 4 << 20
_TOGETHER: Final = 131_072
LEVELS: Final = ("debug", "info", "warning", "error")
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
