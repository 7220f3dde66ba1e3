"""discovery.journal: the last membership survives on disk, and nothing else is ever obeyed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address, parse_host_port
from gatewayd.discovery import journal
from gatewayd.discovery.journal import Journal, Memberships

KNOWN: Memberships = {
    "users": (
        "/services/users",
        {parse_host_port("10.0.0.1:80"): 1, parse_host_port("[fd00::1]:81"): 256},
    ),
    "empty": ("/services/empty", {}),
    "naïve ☃": ("/ü", {parse_host_port("app-1.example:80"): 0}),
}


class Threads:
    """Stands for Thread: work waits until the test runs it."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def __call__(self, target: Callable[[], None], name: str, daemon: bool) -> Threads:
        """As Thread; nothing starts yet."""
        assert daemon, "a hanging disk must not keep the process alive"
        self.work.append(target)
        return self

    def start(self) -> None:
        """As Thread's."""

    def run(self) -> None:
        """Run what waits."""
        while self.work:
            self.work.pop(0)()


class JournalTestCase(SynchronousTestCase):
    """A journal in a folder of its own, on a clock."""

    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = Path(directory.name) / "membership.json"
        self.wall = 1_700_000_000.0
        self.warnings: list[str] = []
        self.threads = Threads()
        self.patch(journal, "Thread", self.threads)
        self.journal = self.make()

    def make(self, file: Path | None = None) -> Journal:
        """A journal as after a start."""
        return Journal(
            str(file or self.file),
            max_age=3600.0,
            wall=lambda: self.wall,
            call_from_thread=lambda call, *arguments: call(*arguments),
            warn=self.warnings.append,
        )

    def write(self, memberships: Memberships = KNOWN) -> None:
        """Write and wait for it."""
        self.journal.write(memberships)
        self.threads.run()

    def signed(self, inside: Any, **changes: Any) -> bytes:
        """A journal's bytes with a right checksum."""
        text = inside if isinstance(inside, str) else json.dumps(inside)
        whole = {"gatewayd-membership": 1, "sha256": sha256(text.encode()).hexdigest()}
        return json.dumps({**whole, "body": text, **changes}).encode()

    def body(self, members: Any, **changes: Any) -> dict[str, Any]:
        """A journal's inside."""
        upstreams = {"u": {"path": "/p", "members": members}}
        return {"saved_at": self.wall, "upstreams": upstreams, **changes}


class Writing(JournalTestCase):
    """In a thread, whole, the newest."""

    def test_there_and_back(self) -> None:
        """What is written is read by the next start, and how old it is."""
        self.write()
        self.wall += 60
        after = self.make()
        self.assertEqual(KNOWN, after.read())
        self.assertEqual((60.0, []), (after.age, self.warnings))
        self.assertEqual(f"<Journal {self.file}>", repr(after))

    def test_knowledge_that_is_old(self) -> None:
        """Written now, it is as old as it was."""
        self.journal.write(KNOWN, 3590.0)
        self.threads.run()
        after = self.make()
        self.assertEqual((KNOWN, 3590.0), (after.read(), after.age))
        self.wall += 11.0
        self.assertEqual({}, after.read())

    def test_nothing_yet(self) -> None:
        """A first start finds no file, which is no trouble."""
        self.assertEqual(({}, []), (self.journal.read(), self.warnings))

    def test_newest_wins(self) -> None:
        """A hundred changes while one is written are one more write."""
        puts = []
        put = self.journal._put

        def slowly(data: bytes) -> None:
            if not puts:
                for weight in range(100):
                    address = parse_host_port("10.0.0.1:80")
                    self.journal.write({"u": ("/p", {address: weight})})
            puts.append(data)
            put(data)

        self.patch(self.journal, "_put", slowly)
        self.write()
        self.assertEqual(2, len(puts))
        self.assertEqual({"u": ("/p", {parse_host_port("10.0.0.1:80"): 99})}, self.make().read())
        self.write()
        self.assertEqual(KNOWN, self.make().read())

    def test_atomic(self) -> None:
        """Whoever reads meanwhile, or after a crash in the middle, has the old one whole."""
        self.write()
        replace = Path.replace
        seen = []

        def crash(path: Path, target: Path) -> Path:
            seen.append(self.make().read())
            if len(seen) == 1:
                raise OSError(28, "No space left on device")
            return replace(path, target)

        self.patch(Path, "replace", crash)
        fewer: Memberships = {"users": KNOWN["users"]}
        self.write(fewer)
        self.assertEqual(KNOWN, self.make().read())
        self.write(fewer)
        self.assertEqual([KNOWN, KNOWN], seen)
        self.assertEqual(fewer, self.make().read())
        self.assertEqual([self.file.name], [each.name for each in self.file.parent.iterdir()])

    def test_cannot_be_written(self) -> None:
        """It is said once, and once again after it could be; serving goes on."""
        self.journal = self.make(self.file.parent / "none" / "membership.json")
        self.write()
        self.write()
        said = (
            f"journal {self.journal.file} cannot be written: No such file or directory; "
            "a start while ZooKeeper is away would have no members"
        )
        self.assertEqual([said], self.warnings)
        self.journal.file.parent.mkdir()
        self.write()
        self.assertEqual(KNOWN, self.make(self.journal.file).read())
        self.journal.file.unlink()
        self.journal.file.parent.rmdir()
        self.write()
        self.assertEqual([said, said], self.warnings)

    def test_from_a_thread(self) -> None:
        """The writing is a thread's of its own, and so are no two at once."""
        self.patch(journal, "Thread", threading.Thread)
        done: SimpleQueue[str] = SimpleQueue()
        put = self.journal._put

        def watched(data: bytes) -> None:
            put(data)
            done.put(threading.current_thread().name)

        self.patch(self.journal, "_put", watched)
        self.journal.write(KNOWN)
        self.assertEqual("gatewayd-journal", done.get(timeout=10))
        self.assertEqual(KNOWN, self.make().read())


class NotObeyed(JournalTestCase):
    """What is no journal of ours, or no longer true."""

    def refused(self, data: bytes, why: str) -> None:
        """It is set aside with a message that says why."""
        self.warnings.clear()
        self.file.write_bytes(data)
        self.assertEqual({}, self.journal.read(), data[:100])
        aside = self.file.with_name("membership.json.damaged")
        self.assertEqual(1, len(self.warnings))
        self.assertIn(f"journal {self.file} is not to be believed (", self.warnings[0])
        self.assertIn(why, self.warnings[0])
        self.assertIn(f"set aside as {aside}", self.warnings[0])
        self.assertEqual((data, False), (aside.read_bytes(), self.file.exists()))

    def test_damaged(self) -> None:
        """Cut off anywhere, or with any bit turned, or empty."""
        self.write()
        good = self.file.read_bytes()
        for cut in range(0, len(good) - 2, 7):
            self.refused(good[:cut], "")
        for place in range(0, len(good) - 1, 5):
            bad = bytearray(good)
            bad[place] ^= 1
            self.file.write_bytes(bad)
            self.assertIn(self.journal.read(), ({}, KNOWN))
        turned = good.replace(b"10.0.0.1:80", b"10.0.0.2:80")
        self.refused(turned, "its checksum is wrong")
        self.refused(b"", "Expecting value")
        self.refused(b"\xff" * 100, "'utf-8' codec")
        self.refused(b"[" * 100_000, "recursion")

    def test_foreign(self) -> None:
        """Somebody else's JSON."""
        for text in (b"{}", b"[]", b"7", b"null", b'{"a": {"sha256": ""}}'):
            self.refused(text, "it is no journal of gatewayd's")

    def test_other_version(self) -> None:
        """A later release's is not guessed at."""
        self.refused(self.signed(self.body([]), **{"gatewayd-membership": 2}), "its version is 2")

    def test_signed_nonsense(self) -> None:
        """A right checksum alone makes no membership."""
        table: list[tuple[Any, str]] = [
            ("7", "int"),
            ("[]", "list"),
            ({"saved_at": 1.0}, "upstreams"),
            ({"upstreams": {}}, "saved_at"),
            (self.body([], saved_at="today"), "today"),
            (self.body([], saved_at=None), "NoneType"),
            (self.body([], upstreams=[]), "list"),
            (self.body([], upstreams={"u": 7}), "int"),
            (self.body([], upstreams={"u": {"members": []}}), "path"),
            (self.body([["10.0.0.1:80"]]), "unpack"),
            (self.body([["10.0.0.1", 1]]), "has no port"),
            (self.body([["10.0.0.1:80", 257]]), "a weight is out of range"),
            (self.body([["10.0.0.1:80", -1]]), "a weight is out of range"),
            (self.body([["10.0.0.1:80", "many"]]), "many"),
            (self.body([[7, 1]]), "int"),
            ('{"saved_at": 1, "upstreams": {"u": {"path": "/", "members": [["h:1", 1e999]]}}}', ""),
        ]
        for body, why in table:
            self.refused(self.signed(body), why)
        self.refused(self.signed(self.body([]), body=7), "int")
        self.refused(self.signed(self.body([]), sha256=None), "its checksum is wrong")

    def test_too_old(self) -> None:
        """journal_max_age: left where it is, and said."""
        self.write()
        self.wall += 3600.0
        self.assertEqual(KNOWN, self.journal.read())
        self.wall += 1.0
        self.assertEqual({}, self.journal.read())
        self.assertEqual(
            [f"journal {self.file} is 1.0 h old: ignored (journal_max_age)"], self.warnings
        )
        self.assertTrue(self.file.exists())

    def test_from_the_future(self) -> None:
        """A clock that was set back makes it no older."""
        self.write()
        self.wall -= 9999.0
        self.assertEqual((KNOWN, 0.0), (self.journal.read(), self.journal.age))

    def test_unreadable(self) -> None:
        """A folder in its place, say: left there, and said."""
        self.file.mkdir()
        self.assertEqual({}, self.journal.read())
        self.assertEqual(
            [f"journal {self.file} cannot be read: Is a directory; starting without it"],
            self.warnings,
        )

    def test_addresses_are_ours(self) -> None:
        """As they were: the same type, and equal."""
        self.write()
        ((_, members), *_) = self.journal.read().values()
        self.assertEqual(Address("tcp", "10.0.0.1", 80), next(iter(members)))
