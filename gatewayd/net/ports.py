"""Listening sockets whose connections are eager transports."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.python import log

from gatewayd.core.addresses import Address
from gatewayd.net.loopback import unpace
from gatewayd.net.transports import EagerServer, EagerUnixServer

BACKLOG: Final = 1024  # nginx 511, HAProxy maxconn; Twisted's own 50 loses bursts
_AT_ONCE: Final = 64  # accepted in a turn: what others wrote waits for its end
HANDED: Final = "GATEWAYD_SOCKETS"  # lines of FD=ADDRESS
_FIRST_INHERITED: Final = 3  # sd_listen_fds(3)


class _Roomy:
    """Accepts as many connections at once as its factory has room for."""

    # Others may hold duplicates of the socket, and a shutdown would end it for them as well.
    _shouldShutdown = False
    factory: Any
    numberAccepts: int

    def doRead(self) -> None:
        """The reactor: clients are waiting."""
        room = self.factory.room()
        if room:
            self.numberAccepts = min(self.numberAccepts, room)
            super().doRead()  # type: ignore[misc]


class _Port(_Roomy, tcp.Port):
    transport: Any = EagerServer
    interface: str
    socket: Any
    _ours = False  # so that nobody had connected before it was set up
    _unpaced = False

    def createInternetSocket(self) -> socket.socket:
        """Twisted: make the socket; what it will accept is as it is (tcp(7))."""
        created: socket.socket = super().createInternetSocket()
        self._ours = True
        self._set_up(created)
        return created

    def startListening(self) -> None:
        """Twisted: begin."""
        super().startListening()
        if not self._ours:
            self._set_up(self.socket)

    def doRead(self) -> None:
        """The reactor: clients are waiting. The stock way makes each socket twice, in Python."""
        for _ in range(min(self.factory.room(), _AT_ONCE)):
            try:
                fd, peer = self.socket._accept()
            except BlockingIOError:
                return
            except OSError:
                super().doRead()  # it knows what to do where descriptors are short
                return
            try:
                self._serve(socket.SocketType(self.addressFamily, socket.SOCK_STREAM, 0, fd), peer)
            except Exception:
                log.err()

    def _serve(self, accepted: Any, peer: tuple[Any, ...]) -> None:
        if len(peer) == 4:  # of IPv6; an address of a link has its name behind it
            plain = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            peer = (socket.getnameinfo(peer, plain)[0], *peer[1:])
        protocol = self.factory.buildProtocol(self._buildAddr(peer))
        protocol.makeConnection(EagerServer(accepted, protocol, peer, self, 0, self.reactor))

    def _set_up(self, listening: socket.socket) -> None:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unpaced = unpace(listening, self.interface)

    def accepted(self, connection: socket.socket, peer: str) -> None:
        """Send a client's small segments at once, and bulk unpaced if it is on this machine."""
        if not self._ours:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not (self._ours and self._unpaced):
            unpace(connection, peer)


class _PlainPort(tcp.Port):
    """One of which others may hold duplicates."""

    _shouldShutdown = False


class _Yielding(unix.Port):
    """A Unix socket whose file may outlive it."""

    _shouldShutdown = False
    _yielded = False
    factory: Any

    def startListening(self) -> None:
        """Twisted: begin; a socket that listens already keeps its backlog, and its file its mode.

        The stock port sets both anew, to 50 and for everybody, also on a file that is another's.
        """
        listening = self._preexistingSocket
        if listening is None:
            super().startListening()
            return
        self._preexistingSocket: Any = None
        tcp._reservedFD.reserve()
        self.factory.doStart()
        self.socket: Any = listening
        self.fileno: Any = listening.fileno
        self.numberAccepts = 100
        self.connected = True
        self.startReading()

    def yield_path(self, yielded: bool = True) -> None:
        """Somebody else listens on this socket: its file outlives this port, or does not any more."""
        self._yielded = yielded

    def connectionLost(self, reason: Any) -> None:
        """Twisted: the port is closed."""
        if self._yielded:
            self.lockFile: Any = None
            tcp.Port.connectionLost(self, reason)
        else:
            super().connectionLost(reason)


class _UnixPort(_Roomy, _Yielding):
    transport = EagerUnixServer


def listen_plainly(
    address: Address, factory: Any, reactor: Any, fd: int | None = None, *, mode: int = 0o660
) -> Any:
    """Open a listening socket with Twisted's own transports, for a stock factory.

    Args, Returns, Raises: as of `listen`; mode: of a Unix socket's file.
    """
    if fd is not None:
        port = _adopted(fd, _Yielding, _PlainPort, factory, reactor)
    elif address.kind == "unix":
        path: Any = address.host
        Path(path).unlink(missing_ok=True)  # left by one that was killed: the address is ours
        port = _Yielding(path, factory, mode=mode, reactor=reactor)
    else:
        port = _PlainPort(address.port, factory, interface=address.host, reactor=reactor)
    port.startListening()
    return port


def _adopted(fd: int, of_unix: Any, of_tcp: Any, factory: Any, reactor: Any) -> Any:
    with socket.socket(fileno=os.dup(fd)) as probe:
        family = probe.family
        probe.setblocking(False)
    if family == socket.AF_UNIX:
        return of_unix._fromListeningDescriptor(reactor, fd, factory)
    return of_tcp._fromListeningDescriptor(reactor, fd, family, factory)


def listen(address: Address, factory: Any, reactor: Any, fd: int | None = None) -> Any:
    """Open a listening socket.

    Args:
        address: where; port 0 lets the kernel choose.
        factory: Twisted's protocol factory, with `room()`: connections it takes now; when that is 0
            it has paused the port itself, or makes room.
        reactor: Twisted's reactor.
        fd: a socket that listens there already; it is duplicated.

    Returns:
        A started port: stopListening, getHost, pauseProducing, resumeProducing.

    Raises:
        twisted.internet.error.CannotListenError: in use, not allowed, or no such address.
        KeyError: the address names a socket that was not passed.
    """
    if fd is not None:
        port = _adopted(fd, _UnixPort, _Port, factory, reactor)
        if address.kind == "fd" and isinstance(port, _Yielding):
            port.yield_path()  # systemd's
    elif address.kind == "fd":
        raise KeyError(address.host)
    elif address.kind == "unix":
        path: Any = address.host
        _remove_stale(address.host)
        port = _UnixPort(path, factory, BACKLOG, mode=0o666, reactor=reactor)
    else:
        port = _Port(address.port, factory, BACKLOG, address.host, reactor)
    port.startListening()
    return port


def _remove_stale(path: str) -> None:
    """Take away a socket that nobody listens on: a killed process leaves it behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return  # no such file, or not ours to judge: binding says what is wrong


def is_local(host: str) -> bool:
    """Whether an IP address is one of this machine's: only those can be bound to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def first_environment() -> dict[str, str]:
    """The environment that this process was started with.

    Twisted 22.4 takes LISTEN_PID and LISTEN_FDS out of os.environ once its endpoints are imported.
    """
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)


def inherited_sockets(environ: Mapping[str, str], pid: int) -> dict[str, int]:
    """The sockets that systemd or a former version of this gateway passed, by address.

    Those of systemd are called `fd:NAME` (sd_listen_fds_with_names(3)); those of a gateway that is
    being replaced go by the address that its configuration has.

    Args:
        environ: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES and GATEWAYD_SOCKETS are looked at.
        pid: our own.
    """
    found: dict[str, int] = {}
    if environ.get("LISTEN_PID") == str(pid):
        count = int(environ.get("LISTEN_FDS", "0"))
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        names += ["unknown"] * (count - len(names))
        found = {f"fd:{names[index]}": _FIRST_INHERITED + index for index in range(count)}
    for pair in environ.get(HANDED, "").splitlines():
        fd, _, address = pair.partition("=")
        found[address] = int(fd)
    return found
