"""The last known memberships on disk, so that a gateway can start while ZooKeeper is away.

One file, written whole and atomically by a thread; a checksum and a version guard it. A file that is
damaged or foreign is set aside with a message, and never obeyed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final

from gatewayd.core.addresses import Address, parse_host_port
from gatewayd.core.endpoints import MAX_WEIGHT

VERSION: Final = 1
_MAX_BYTES: Final = 64 << 20

Memberships = Mapping[str, tuple[str, Mapping[Address, int]]]
"""By upstream: the path in ZooKeeper, and addresses with weights."""


class Journal:
    """One journal file; made by the service."""

    def __init__(
        self,
        file: str,
        *,
        max_age: float,
        wall: Callable[[], float],
        call_from_thread: Callable[..., Any],
        warn: Callable[[str], None],
    ) -> None:
        """Args:
        file: its path.
        max_age: seconds; an older one is ignored.
        wall: seconds since 1970.
        call_from_thread: the reactor's.
        warn: takes a message for people.
        """
        self.file = Path(file)
        self._max_age = max_age
        self._wall = wall
        self._call = call_from_thread
        self._warn = warn
        self.age = 0.0  # seconds, of what was read
        self._lock = Lock()  # guards the two below
        self._next: tuple[Memberships, float] | None = None
        self._writing = False
        self._writer: Thread | None = None
        self._failing = False

    def __repr__(self) -> str:
        return f"<Journal {self.file}>"

    def read(self) -> dict[str, tuple[str, dict[Address, int]]]:
        """What was last known; nothing where there is no such file, or none to be believed."""
        try:
            with self.file.open("rb") as opened:
                data = opened.read(_MAX_BYTES)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._warn(f"journal {self.file} cannot be read: {error.strerror}; starting without it")
            return {}
        try:
            saved_at, found = _parsed(data)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            self._set_aside(str(error))
            return {}
        self.age = age = max(0.0, self._wall() - saved_at)
        if age > self._max_age:
            self._warn(f"journal {self.file} is {age / 3600:.1f} h old: ignored (journal_max_age)")
            return {}
        return found

    def _set_aside(self, why: str) -> None:
        aside = self.file.with_name(self.file.name + ".damaged")
        with suppress(OSError):
            self.file.replace(aside)
        self._warn(f"journal {self.file} is not to be believed ({why}): set aside as {aside}")

    def write(self, memberships: Memberships, age: float = 0.0) -> None:
        """Write soon, in a thread; of several the newest wins.

        Args:
            memberships: all of them.
            age: seconds since they were known to be true.
        """
        with self._lock:
            self._next = memberships, self._wall() - age
            if self._writing:
                return
            self._writing = True
            self._writer = Thread(target=self._work, name="gatewayd-journal", daemon=True)
        self._writer.start()

    def finish(self, seconds: float) -> None:
        """Wait for what is being written, at most so long: the process ends."""
        if self._writer is not None:
            self._writer.join(seconds)

    def _newest(self) -> tuple[Memberships, float] | None:
        with self._lock:
            newest, self._next = self._next, None
            self._writing = newest is not None
            return newest

    def _work(self) -> None:
        while (newest := self._newest()) is not None:
            try:
                self._put(_text(*newest))
                self._failing = False
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    self._call(
                        self._warn,
                        f"journal {self.file} cannot be written: {error.strerror}; "
                        "a start while ZooKeeper is away would have no members",
                    )

    def _put(self, data: bytes) -> None:
        fresh = self.file.with_name(self.file.name + ".new")
        with fresh.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(self.file)


def _text(memberships: Memberships, now: float) -> bytes:
    body = {
        "saved_at": now,
        "upstreams": {
            name: {
                "path": path,
                "members": [[str(address), weight] for address, weight in members.items()],
            }
            for name, (path, members) in memberships.items()
        },
    }
    text = json.dumps(body, separators=(",", ":"))
    whole = {
        "gatewayd-membership": VERSION,
        "sha256": sha256(text.encode()).hexdigest(),
        "body": text,
    }
    return json.dumps(whole).encode() + b"\n"


def _parsed(data: bytes) -> tuple[float, dict[str, tuple[str, dict[Address, int]]]]:
    whole: Any = json.loads(data)
    if not isinstance(whole, dict) or "gatewayd-membership" not in whole:
        raise ValueError("it is no journal of gatewayd's")
    if whole["gatewayd-membership"] != VERSION:
        raise ValueError(f"its version is {whole['gatewayd-membership']}, not {VERSION}")
    text = whole["body"]
    if sha256(text.encode()).hexdigest() != whole["sha256"]:
        raise ValueError("its checksum is wrong")
    body = json.loads(text)
    found: dict[str, tuple[str, dict[Address, int]]] = {}
    for name, entry in body["upstreams"].items():
        members = {parse_host_port(address): int(weight) for address, weight in entry["members"]}
        if not all(0 <= weight <= MAX_WEIGHT for weight in members.values()):
            raise ValueError("a weight is out of range")
        found[name] = (entry["path"], members)
    return float(body["saved_at"]), found
