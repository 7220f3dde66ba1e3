"""Debian's ZooKeeper without its service: jars, servers, ensembles, and publishers of members."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kazoo.client import KazooClient

from tests.live.harness import eventually, free_port

PACKAGES = (
    "libzookeeper-java",
    "libslf4j-java",
    "libdropwizard-metrics-java",
    "libsnappy-java",
)
JARS = ("zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple", "metrics-core", "snappy-java")
INSTALLED = Path("/usr/share/java")
UNPACKED = Path(__file__).parents[3] / "build" / "zookeeper"
MAX_BYTES = 4 << 20  # jute.maxbuffer: a node of 1 MiB is over ZooKeeper's default

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """There is no ZooKeeper to be had here; says why."""


def class_path() -> str:
    """The jars: Debian's where they are installed, else unpacked into the build folder.

    Raises:
        Unavailable: neither is possible.
    """
    if shutil.which("java") is None:
        raise Unavailable("there is no java; install default-jre-headless")
    for place in (INSTALLED, UNPACKED / "usr/share/java"):
        if _complete(place):
            return _joined(place)
    UNPACKED.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", "download", *PACKAGES)
        for package in UNPACKED.glob("*.deb"):
            _run("dpkg", "-x", package.name, ".")
            package.unlink()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise Unavailable(f"{error}; {said.decode(errors='replace').strip()}") from error
    place = UNPACKED / "usr/share/java"
    if not _complete(place):
        raise Unavailable(f"{', '.join(PACKAGES)} have not all of {', '.join(JARS)}")
    return _joined(place)


def _complete(place: Path) -> bool:
    return all((place / f"{name}.jar").exists() for name in JARS)


def _joined(place: Path) -> str:
    return ":".join(str(place / f"{name}.jar") for name in JARS)


def _run(*command: str) -> None:
    subprocess.run(command, cwd=UNPACKED, check=True, capture_output=True, timeout=120)


def _die_with_the_test() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One ZooKeeper server; made and ended by a fixture."""

    def __init__(self, directory: Path, jars: str, number: int = 0, peers: Sequence[str] = ()):
        """Args: directory: for its data. jars: class path. number, peers: in an ensemble."""
        self.port = free_port()
        self.directory = directory
        self._jars = jars
        data = directory / "data"
        data.mkdir(parents=True)
        lines = [
            f"dataDir={data}",
            "tickTime=500",
            "clientPortAddress=127.0.0.1",
            f"clientPort={self.port}",
            "4lw.commands.whitelist=*",
            "maxClientCnxns=0",
            "forceSync=no",
            "initLimit=10",
            "syncLimit=4",
            *peers,
        ]
        (directory / "zoo.cfg").write_text("\n".join(lines) + "\n")
        if peers:
            (data / "myid").write_text(f"{number}\n")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> str:
        """As zookeeper.hosts has it."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, with what it knew before."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "java",
                    "-Xmx64m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-Djava.net.preferIPv4Stack=true",
                    "-Dzookeeper.admin.enableServer=false",
                    f"-Djute.maxbuffer={MAX_BYTES}",
                    "-cp",
                    self._jars,
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    str(self.directory / "zoo.cfg"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                preexec_fn=_die_with_the_test,
            )
        if wait:
            self.wait_ready()

    def ask(self, word: str) -> str:
        """A four-letter word's answer; empty where there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as asked:
                asked.sendall(word.encode())
                pieces = iter(lambda: asked.recv(65536), b"")
                return b"".join(pieces).decode(errors="replace")
        except OSError:
            return ""

    @property
    def serves(self) -> bool:
        """Whether it answers clients."""
        return "Mode:" in self.ask("srvr")

    def wait_ready(self) -> None:
        """Wait until it answers clients."""
        try:
            eventually(lambda: self.serves, 30, f"ZooKeeper on {self.port}")
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{(self.directory / 'log').read_text()[-3000:]}"
            ) from None

    def has_session(self, session: str) -> bool:
        """Whether a client with this session is connected here."""
        return f"sid={session}," in self.ask("cons")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


class Ensemble:
    """Some servers that are one ZooKeeper."""

    def __init__(self, directory: Path, jars: str, size: int) -> None:
        """Args: directory: for all data. jars: class path. size: 1, 3, ..."""
        peers = [
            f"server.{number}=127.0.0.1:{free_port()}:{free_port()}"
            for number in range(1, size + 1)
            if size > 1
        ]
        self.servers = [
            Server(directory / f"server-{number}", jars, number, peers)
            for number in range(1, size + 1)
        ]

    def __enter__(self) -> Ensemble:
        self.restore()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self.servers:
            server.kill()

    @property
    def hosts(self) -> str:
        """As zookeeper.hosts has it."""
        return ",".join(server.hosts for server in self.servers)

    @property
    def server(self) -> Server:
        """The only one."""
        (server,) = self.servers
        return server

    def restore(self) -> None:
        """Have all of them run, whatever a test did."""
        for server in self.servers:
            if server.running:
                server.signal(signal.SIGCONT)
            else:
                server.start(wait=False)
        for server in self.servers:
            server.wait_ready()


class Publishers:
    """Sessions of their own that register members, as services do."""

    def __init__(self, hosts: str, path: str, *, timeout: float = 3.0, auth: str = "") -> None:
        """Args: hosts, path: where. timeout: of the sessions. auth: user:password."""
        self.hosts = hosts
        self.path = path
        self._timeout = timeout
        self._auth = auth
        self.clients: list[Any] = []

    def client(self) -> Any:
        """A session more."""
        made = KazooClient(
            hosts=self.hosts,
            timeout=self._timeout,
            auth_data=[("digest", self._auth)] if self._auth else None,
        )
        made.start(20)
        self.clients.append(made)
        return made

    def register(self, members: dict[str, bytes], client: Any = None) -> Any:
        """Make ephemeral nodes, all of them in one transaction.

        Returns:
            The session's client.
        """
        client = client or self.client()
        client.ensure_path(self.path)
        transaction = client.transaction()
        for name, data in members.items():
            transaction.create(f"{self.path}/{name}", data, ephemeral=True)
        results = transaction.commit()
        failed = [each for each in results if isinstance(each, Exception)]
        assert not failed, failed
        return client

    def close(self) -> None:
        """End all sessions; their nodes go."""
        clients, self.clients = self.clients, []
        for client in clients:
            with contextlib.suppress(Exception):
                client.stop()
                client.close()


@contextlib.contextmanager
def publishers(hosts: str, path: str, **options: Any) -> Iterator[Publishers]:
    """Publishers that end with their test."""
    made = Publishers(hosts, path, **options)
    try:
        yield made
    finally:
        made.close()


def in_ci() -> bool:
    """Where what is missing is a failure."""
    return bool(os.environ.get("CI"))
