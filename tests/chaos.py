"""A gateway of two workers under load while everything happens to it that happens in production.

Ten reloads, three workers killed, one stopped, an upgrade to another version and the end of the old one,
with keep-alive clients, WebSocket-like tunnels and slow downloads all the while. No request may fail but
those in flight in a worker that was killed; they are counted.

    python -m tests.chaos [--seconds 60] [--clients 32]

The upgrade is real: the gateway runs from a copy of the tree behind a link, which is then pointed at a
copy with another version. Ends by itself, and stops only what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.live.harness.daemon import free_port

ROOT = Path(__file__).parent.parent
TUNNELS = 100
DOWNLOADS = 20
CHUNK = b"x" * 1000
TERMS = "GET {} HTTP/1.1\r\nHost: h\r\n{}\r\n"


class Upstream:
    """Answers at once, slowly in chunks, or by a tunnel that echoes."""

    async def serve(self) -> int:
        """Listen; the port."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                if path == b"/tunnel":
                    writer.write(
                        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                    )
                    while data := await reader.read(4096):
                        writer.write(data)
                    break
                if path == b"/slow":
                    await self._slowly(writer)
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        writer.close()

    async def _slowly(self, writer: asyncio.StreamWriter) -> None:
        count = 100
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {count * len(CHUNK)}\r\n\r\n".encode())
        for _ in range(count):
            writer.write(CHUNK)
            await writer.drain()
            await asyncio.sleep(0.1)


class Load:
    """The clients, and how they fared."""

    def __init__(self, port: int) -> None:
        """Args: port: of the gateway."""
        self.port = port
        self.seen: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []
        self.on = True
        self.phase = "before"

    def failed(self, what: str, error: BaseException) -> None:
        """Note it, with what was going on."""
        self.seen[f"{what} failed"] += 1
        self.failures.append((self.phase, f"{what}: {error!r}"))

    async def ask(self) -> None:
        """Ask over and over on a kept connection, as a client library does."""
        writer: asyncio.StreamWriter | None = None
        while self.on:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(TERMS.format("/x", "").encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                await reader.readexactly(3)
                status = head[9:12].decode()
                self.seen[status] += 1
                if status != "200":
                    raise ValueError(f"status {status}")
                if b"connection: close" in head.lower():
                    writer.close()
                    writer = None
            except (TimeoutError, OSError, ValueError, EOFError) as error:
                self.failed("request", error)
                if writer is not None:
                    writer.close()
                writer = None

    async def tunnel(self) -> None:
        """Echo through a tunnel for as long as it lives; its end is noted, and a new one begun."""
        while self.on:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(
                    TERMS.format("/tunnel", "Connection: upgrade\r\nUpgrade: echo\r\n").encode()
                )
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                if head[9:12] != b"101":
                    raise ValueError(f"status {head[9:12]!r}")
                while self.on:
                    writer.write(b"ping")
                    await asyncio.wait_for(reader.readexactly(4), 20)
                    self.seen["echoes"] += 1
                    await asyncio.sleep(0.5)
                writer.close()
            except (TimeoutError, OSError, ValueError, EOFError) as error:
                self.failed("tunnel", error)
                await asyncio.sleep(0.1)

    async def download(self) -> None:
        """Load 100 kB that take ten seconds, again and again."""
        while self.on:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(TERMS.format("/slow", "Connection: close\r\n").encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                if head[9:12] != b"200":
                    raise ValueError(f"status {head[9:12]!r}")
                await asyncio.wait_for(reader.readexactly(100 * len(CHUNK)), 60)
                self.seen["downloads"] += 1
                writer.close()
            except (TimeoutError, OSError, ValueError, EOFError) as error:
                self.failed("download", error)
                await asyncio.sleep(0.1)


class Gateway:
    """The daemon, and what is done to it."""

    def __init__(self, folder: Path, upstream: int) -> None:
        """Write its configuration, and two versions of its code."""
        self.folder = folder
        self.file = folder / "gatewayd.yaml"
        self.port, self.admin = free_port(), free_port()
        self._upstream = upstream
        self.current = folder / "current"
        for version in ("0.1.0", "0.2.0"):
            to = folder / version
            shutil.copytree(ROOT / "gatewayd", to / "gatewayd")
            (to / "gatewayd" / "__init__.py").write_text(
                f'"""gatewayd."""\n__version__ = "{version}"\n'
            )
        self.current.symlink_to(folder / "0.1.0")
        self.pids: set[int] = set()
        self.write(1)

    def write(self, number: int) -> None:
        """Another configuration: a route more or less, another limit, a listener that comes and goes."""
        listeners: dict[str, Any] = {
            "web": {
                "address": f"127.0.0.1:{self.port}",
                "limits": {"max_connections": 5000 + number},
            }
        }
        if number % 2:
            listeners["extra"] = {"address": f"127.0.0.1:{free_port()}"}
        config = {
            "workers": 2,
            "listeners": listeners,
            "routes": [
                {"name": f"unused-{number}", "match": {"path_prefix": "/none"}, "respond": {}},
                {"name": "all", "upstream": "app", "retries": {"attempts": 1 + number % 3}},
            ],
            "upstreams": {
                "app": {
                    "endpoints": [f"127.0.0.1:{self._upstream}"],
                    "pool": {"max_idle": 100 + number},
                }
            },
            "admin": {"address": f"127.0.0.1:{self.admin}"},
            "logging": {
                "to": str(self.folder / "gatewayd.log"),
                "access": {"to": str(self.folder / "access.log")},
            },
        }
        self.file.write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Run it."""
        environment = {**os.environ, "PYTHONPATH": str(self.current)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gatewayd", "run", "--config", str(self.file)],
            env=environment,
            cwd=self.folder,
        )
        self.pids.add(process.pid)

    async def command(self, *arguments: str) -> str:
        """Run `gatewayd ARGUMENTS`; what it prints."""
        asked = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gatewayd",
            *arguments,
            "--admin",
            f"127.0.0.1:{self.admin}",
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out = (await asked.communicate())[0].decode()
        if asked.returncode:
            raise RuntimeError(f"gatewayd {' '.join(arguments)}: {out}")
        return out

    async def status(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = json.loads(await self.command("status", "--json"))
        self.pids.add(found["pid"])
        self.pids.update(each["pid"] for each in found["workers"])
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> None:
        """Wait for its status to be as wanted."""
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(RuntimeError):
                    if holds(await self.status()):
                        return
                await asyncio.sleep(0.2)

    async def all_up(self) -> None:
        """Wait until both workers serve."""
        await self.until(lambda found: [w["state"] for w in found["workers"]] == ["up", "up"])


async def play(gateway: Gateway, load: Load, seconds: float) -> None:
    """Do to it what happens in production, spread over so many seconds."""
    step = seconds / 20

    async def phase(name: str, wait: float = 1.0) -> None:
        load.phase = name
        print(f"  {name}", flush=True)
        await asyncio.sleep(step * wait)

    for number in range(2, 7):
        gateway.write(number)
        await gateway.command("reload")
        await phase(f"reload {number - 1}", 0.5)
    for number in range(3):
        worker = (await gateway.status())["workers"][number % 2]
        await phase(f"kill -9 of worker {worker['number']}", 0.0)
        os.kill(worker["pid"], signal.SIGKILL)
        await gateway.until(
            lambda found, gone=worker["pid"]: (  # type: ignore[misc]
                gone not in [w["pid"] for w in found["workers"]]
                and [w["state"] for w in found["workers"]] == ["up", "up"]
            )
        )
        await phase("after it")
    worker = (await gateway.status())["workers"][0]
    await phase(f"SIGSTOP of worker {worker['number']}", 0.0)
    os.kill(worker["pid"], signal.SIGSTOP)
    await gateway.until(
        lambda found: (
            worker["pid"] not in [w["pid"] for w in found["workers"]]
            and [w["state"] for w in found["workers"]] == ["up", "up"]
        )
    )
    await phase("after it")
    for number in range(7, 12):
        gateway.write(number)
        await gateway.command("reload")
        await phase(f"reload {number - 1}", 0.5)
    before = (await gateway.status())["pid"]
    gateway.current.unlink()
    gateway.current.symlink_to(gateway.folder / "0.2.0")
    await phase("upgrade, and SIGTERM of the old one", 0.0)
    print("  " + (await gateway.command("upgrade")).strip())
    with contextlib.suppress(ProcessLookupError):
        os.kill(before, signal.SIGTERM)  # it leaves already; a first signal cuts nothing short
    await gateway.until(lambda found: found["version"] == "0.2.0" and found["pid"] != before)
    await phase("after the upgrade", 3.0)


async def run(seconds: float, clients: int) -> int:
    """Play it; 1 if a request failed that should not have."""
    folder = Path(tempfile.mkdtemp(prefix="gatewayd-chaos-"))
    gateway = Gateway(folder, await Upstream().serve())
    load = Load(gateway.port)
    tasks: list[asyncio.Task[None]] = []
    try:
        gateway.start()
        await gateway.all_up()
        tasks = [asyncio.create_task(load.ask()) for _ in range(clients)]
        tasks += [asyncio.create_task(load.tunnel()) for _ in range(TUNNELS)]
        tasks += [asyncio.create_task(load.download()) for _ in range(DOWNLOADS)]
        await asyncio.sleep(2)
        await play(gateway, load, seconds)
        load.phase = "the end"
        load.on = False
        await asyncio.wait(tasks, timeout=30)
        await gateway.status()
    finally:
        for task in tasks:
            task.cancel()
        for pid in gateway.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(3)
        for pid in gateway.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    print(dict(load.seen))
    by_phase = Counter((phase, what) for phase, what in load.failures)
    for (phase, what), count in by_phase.items():
        print(f"  {count} x {what} during {phase}")
    # In a killed or stopped worker die what it had in flight: its tunnels, downloads, one request each.
    wrong = [
        each for each in load.failures if not each[0].startswith(("kill", "SIGSTOP", "after it"))
    ]
    requests = load.seen["request failed"]
    print(
        f"{requests} of {load.seen['200'] + requests} requests failed; {len(wrong)} had no excuse"
    )
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong or requests > 4 * clients else 0


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    return asyncio.run(run(options.seconds, options.clients))


if __name__ == "__main__":
    sys.exit(main())
