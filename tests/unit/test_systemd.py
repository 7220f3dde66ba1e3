"""net.systemd and net.ports: what systemd is told, and what it and a former version hand over."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net.ports import inherited_sockets
from gatewayd.net.systemd import Manager


class Telling(SynchronousTestCase):
    """sd_notify(3), over a real socket."""

    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = str(Path(directory.name) / "notify")

    def bound(self, address: str) -> socket.socket:
        """systemd's end."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(found.close)
        found.bind(address)
        found.setblocking(False)
        return found

    def heard(self, systemd: socket.socket) -> list[list[str]]:
        """Datagrams, in lines."""
        found = []
        while True:
            try:
                found.append(systemd.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def test_a_life(self) -> None:
        """Each change of state is a datagram; a status only where it is new."""
        systemd = self.bound(self.path)
        manager = Manager({"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "30000000"})
        manager.ready()
        manager.status("serves")
        manager.status("serves")
        manager.alive()
        manager.reloading()
        manager.ready()
        manager.status("drains")
        manager.stopping()
        ready = ["READY=1", f"MAINPID={os.getpid()}"]
        found = self.heard(systemd)
        reloading = found.pop(3)
        self.assertEqual("RELOADING=1", reloading[0])
        name, _, stamp = reloading[1].partition("=")
        self.assertEqual("MONOTONIC_USEC", name)
        self.assertTrue(int(stamp) > 0)
        self.assertEqual(
            [ready, ["STATUS=serves"], ["WATCHDOG=1"], ready, ["STATUS=drains"], ["STOPPING=1"]],
            found,
        )

    def test_abstract(self) -> None:
        """An address with an @ is one that no file stands for."""
        name = f"gatewayd-test-{os.getpid()}"
        systemd = self.bound("\0" + name)
        Manager({"NOTIFY_SOCKET": "@" + name}).stopping()
        self.assertEqual([["STOPPING=1"]], self.heard(systemd))

    def test_silent(self) -> None:
        """Without systemd, or while it is not there, nothing happens."""
        for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": self.path + "-gone"}):
            manager = Manager({**environ, "WATCHDOG_USEC": "1000"})
            for tell in (manager.ready, manager.reloading, manager.alive, manager.stopping):
                tell()
            manager.status("serves")

    def test_full(self) -> None:
        """systemd that reads nothing holds nobody up."""
        systemd = self.bound(self.path)
        manager = Manager({"NOTIFY_SOCKET": self.path})
        for number in range(3000):
            manager.status(f"{number}" * 50)
        self.assertTrue(len(self.heard(systemd)) < 3000)
        manager.stopping()
        self.assertEqual([["STOPPING=1"]], self.heard(systemd))

    def test_watchdog(self) -> None:
        """The interval in seconds, if it is meant for this process; else it is not told of life."""
        own, other = str(os.getpid()), str(os.getpid() + 1)
        for environ, seconds in (
            ({}, 0.0),
            ({"WATCHDOG_USEC": "30000000"}, 30.0),
            ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": own}, 1.5),
            ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": other}, 0.0),
            ({"WATCHDOG_PID": own}, 0.0),
        ):
            self.assertEqual(seconds, Manager(environ).watchdog)
        systemd = self.bound(self.path)
        Manager({"NOTIFY_SOCKET": self.path}).alive()
        self.assertEqual([], self.heard(systemd))


class Inherited(SynchronousTestCase):
    """Sockets that listen already."""

    def test_table(self) -> None:
        """systemd's by name, those of a former version by their address; the latter wins."""
        systemd = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:internal"}
        handed = {"GATEWAYD_SOCKETS": "5=127.0.0.1:2000\n6=unix:/run/a=b.sock\n9=fd:web"}
        for environ, expected in (
            ({}, {}),
            ({"GATEWAYD_SOCKETS": ""}, {}),
            (systemd, {"fd:web": 3, "fd:internal": 4}),
            ({**systemd, "LISTEN_PID": "8"}, {}),
            ({**systemd, "LISTEN_FDNAMES": "web"}, {"fd:web": 3, "fd:unknown": 4}),
            ({**systemd, "LISTEN_FDS": "1"}, {"fd:web": 3}),
            (handed, {"127.0.0.1:2000": 5, "unix:/run/a=b.sock": 6, "fd:web": 9}),
            (
                {**systemd, **handed},
                {
                    "fd:web": 9,
                    "fd:internal": 4,
                    "127.0.0.1:2000": 5,
                    "unix:/run/a=b.sock": 6,
                },
            ),
            ({"GATEWAYD_SOCKETS": "5=[::1]:2000"}, {"[::1]:2000": 5}),
        ):
            self.assertEqual(expected, inherited_sockets(environ, 7))
