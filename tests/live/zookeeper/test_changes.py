"""What publishers and operators change, over real sockets, with traffic flowing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from kazoo.security import make_digest_acl

from tests.live.harness import Daemon, command, eventually, free_port
from tests.live.zookeeper.conftest import Stage
from tests.live.zookeeper.server import Ensemble
from tests.live.zookeeper.test_faults import ALL, membership, settle, wait_for
from tests.live.zookeeper.traffic import Traffic


def endpoints(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The upstream's endpoints in /status."""
    found = daemon.status()["upstreams"]["users"]["endpoints"]
    return {each["address"]: each for each in found}


def run(daemon: Daemon, *arguments: str) -> str:
    """A command that talks to the daemon; what it prints."""
    done = command(*arguments, "--admin", daemon.admin_text)
    assert done.returncode == 0, done
    return done.stdout


def test_a_real_removal(stage: Stage, zookeeper: Ensemble) -> None:
    """In a steady session it is believed at once, and who joins is used at once."""
    publishers = stage.publishers(zookeeper.hosts)
    client = publishers.register(stage.nodes(0, 1))
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        publishers.register(stage.nodes(2), client)
        eventually(lambda: len(endpoints(daemon)) == 3, 3, "the third")
        assert set(traffic.flow(0.5)) == ALL
        settle(1)
        client.delete(f"{stage.path}/m1")
        began = time.monotonic()
        eventually(lambda: len(endpoints(daemon)) == 2, 3, "the removal")
        assert time.monotonic() - began < 1.0
        assert set(traffic.flow(1)) == {"m0", "m2"}
        assert membership(daemon)["held"] == 0
        traffic.check()


def test_a_weight(stage: Stage, zookeeper: Ensemble) -> None:
    """Changed in the node's data: seen without a change of the children, 0 at once."""
    publishers = stage.publishers(zookeeper.hosts)
    client = publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    node, address = f"{stage.path}/m0", stage.members[0].endpoint
    with Traffic(daemon) as traffic:
        client.set(node, f"{address} weight=8".encode())
        eventually(lambda: endpoints(daemon)[address]["weight"] == 8, 3, "the weight")
        outcomes = traffic.flow(1.5)
        assert 0.7 < outcomes.count("m0") / len(outcomes) < 0.9
        client.set(node, f"{address} weight=0".encode())
        eventually(lambda: endpoints(daemon)[address]["weight"] == 0, 3, "the weight")
        assert set(traffic.flow(1)) == {"m1", "m2"}
        client.set(node, f"{address} weight=1".encode())
        eventually(lambda: endpoints(daemon)[address]["weight"] == 1, 3, "the weight")
        assert set(traffic.flow(1)) == ALL
        traffic.check()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say by which address we were found."""
        host = self.connection.getsockname()[0]
        self.send_response(200)
        self.send_header("X-Upstream", host)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


@contextlib.contextmanager
def everywhere() -> Iterator[int]:
    """One server on all of 127.0.0.0/8; its port."""
    port = free_port()
    server = _Server(("0.0.0.0", port), _Answers)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_a_mass_registration(stage: Stage, zookeeper: Ensemble) -> None:
    """A thousand members at once, and gone again: few reads, no request fails."""
    publishers = stage.publishers(zookeeper.hosts)
    with everywhere() as port:
        client = publishers.register({"first": f"127.0.0.1:{port}".encode()})
        daemon = stage.daemon(zookeeper.hosts)
        with Traffic(daemon) as traffic:
            made = [
                client.create_async(
                    f"{stage.path}/{number:04}",
                    f"127.{1 + (number >> 8)}.{number & 255}.7:{port}".encode(),
                    ephemeral=True,
                )
                for number in range(1000)
            ]
            for each in made:
                each.get(timeout=20)
            eventually(lambda: len(endpoints(daemon)) == 1001, 10, "all of them")
            assert len(set(traffic.flow(2))) > 200
            assert daemon.sample("zookeeper_events_total", type="children") < 200
            assert daemon.sample("zookeeper_events_total", type="data") == 0
            assert membership(daemon)["unreadable"] == 0
            publishers.close()
            wait_for(daemon, held=1001)
            assert len(set(traffic.flow(1))) > 100
            traffic.check()


def test_bad_nodes(stage: Stage, zookeeper: Ensemble) -> None:
    """Rubbish and 1 MiB are skipped by name; none that can be read is no empty list."""
    publishers = stage.publishers(zookeeper.hosts)
    client = publishers.register(stage.nodes(0, 1))
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        publishers.register({"rubbish": b"\x00\xffrubbish"}, client)
        client.create(f"{stage.path}/large", b"x" * (1 << 20), ephemeral=True)
        wait_for(daemon, unreadable=2)
        publishers.register(stage.nodes(2), client)
        eventually(lambda: len(endpoints(daemon)) == 3, 5, "the good one")
        daemon.stderr.wait_for(lambda line: f"{stage.path}/rubbish is skipped" in line)
        daemon.stderr.wait_for(lambda line: "is skipped: 1048576 bytes of data, over" in line)
        assert daemon.sample("zookeeper_events_total", type="unreadable") == 2
        settle(1)
        for number in range(3):
            client.set(f"{stage.path}/m{number}", b"\xff" * (1 << 20))
            settle(1.1)
        wait_for(daemon, unreadable=5)
        daemon.stderr.wait_for(lambda line: "none of 5 nodes can be read; kept as it was" in line)
        assert "m2" in set(traffic.flow(1))
        traffic.check()


def test_a_path_that_comes_and_goes(stage: Stage, zookeeper: Ensemble) -> None:
    """Waited for; that it is deleted empties nothing; created again it is followed on."""
    static = {"endpoints": [stage.members[0].endpoint]}
    daemon = stage.daemon(zookeeper.hosts, upstream=static)
    publishers = stage.publishers(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        wait_for(daemon, path_missing=True)
        assert set(traffic.flow(0.5)) == {"m0"}
        client = publishers.register(stage.nodes(1, 2))
        wait_for(daemon, path_missing=False, state="live")
        eventually(lambda: set(traffic.flow(0.3)) == ALL, 5, "all three members")
        settle(1.2)
        client.delete(stage.path, recursive=True)
        wait_for(daemon, path_missing=True, held=2)
        assert set(traffic.flow(1)) == ALL
        publishers.register(stage.nodes(1, 2), client)
        wait_for(daemon, path_missing=False, held=0)
        assert set(traffic.flow(1)) == ALL
        traffic.check()


def test_an_acl(stage: Stage, zookeeper: Ensemble) -> None:
    """Refused it is said, and what else there is serves; granted by the configuration it is read."""
    publishers = stage.publishers(zookeeper.hosts, auth="users:secret")
    client = publishers.client()
    acl = [make_digest_acl("users", "secret", all=True)]
    client.ensure_path(stage.path.rpartition("/")[0])
    client.create(stage.path, b"", acl=acl)
    for name, data in stage.nodes(1, 2).items():
        client.create(f"{stage.path}/{name}", data, acl=acl, ephemeral=True)
    static = {"endpoints": [stage.members[0].endpoint]}
    daemon = stage.daemon(zookeeper.hosts, upstream=static)
    with Traffic(daemon) as traffic:
        daemon.stderr.wait_for(lambda line: "the node's ACL refuses us; set zookeeper.auth" in line)
        eventually(
            lambda: daemon.sample("zookeeper_events_total", type="read_failed") > 1, 5, "a retry"
        )
        assert membership(daemon)["state"] == "unknown"
        assert set(traffic.flow(0.5)) == {"m0"}
        traffic.check()
    daemon.stop()
    daemon = stage.daemon(zookeeper.hosts, upstream=static, auth=["digest:users:secret"])
    with Traffic(daemon) as traffic:
        wait_for(daemon, state="live")
        eventually(lambda: set(traffic.flow(0.3)) == ALL, 5, "all three members")
        traffic.check()
    assert "secret" not in daemon.ask_admin("GET", "/config").body.decode()


def test_a_chroot(stage: Stage, zookeeper: Ensemble) -> None:
    """Paths are below it; one that does not exist yet is waited for."""
    static = {"endpoints": [stage.members[0].endpoint]}
    chroot = f"{zookeeper.hosts}/site{stage.path}"
    daemon = stage.daemon(chroot, upstream=static)
    publishers = stage.publishers(zookeeper.hosts, path=f"/site{stage.path}{stage.path}")
    with Traffic(daemon) as traffic:
        wait_for(daemon, path_missing=True)
        publishers.register(stage.nodes())
        wait_for(daemon, path_missing=False, state="live")
        eventually(lambda: set(traffic.flow(0.3)) == ALL, 5, "all three members")
        traffic.check()


def test_accept(stage: Stage, zookeeper: Ensemble) -> None:
    """A real shutdown of two of three: held, shown with its way out, and accepted."""
    publishers = stage.publishers(zookeeper.hosts)
    client = publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        settle(1.2)
        transaction = client.transaction()
        for number in (0, 1):
            transaction.delete(f"{stage.path}/m{number}")
        transaction.commit()
        wait_for(daemon, held=2)
        text = run(daemon, "status")
        assert f"ZooKeeper {stage.path} (plain): live, 2 HELD; released by" in text
        assert daemon.sample("membership_held", upstream="users") == 2
        assert daemon.sample("upstream_endpoints", upstream="users", state="held") == 2
        assert set(traffic.flow(0.5)) == ALL
        assert run(daemon, "accept", "users") == "upstream users: 2 held members left\n"
        assert set(traffic.flow(0.5)[20:]) == {"m2"}
        assert daemon.sample("membership_held", upstream="users") == 0
        assert run(daemon, "accept", "users") == "upstream users: 0 held members left\n"
        done = command("accept", "others", "--admin", daemon.admin_text)
        assert done.returncode == 1
        assert "others" in done.stderr
        traffic.check()


def test_the_fleet(stage: Stage, zookeeper: Ensemble) -> None:
    """Gateways register themselves, again after an expiry, and are gone when they stop."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    path = f"/gateways{stage.path}"
    one = stage.daemon(zookeeper.hosts, register={"path": path})
    two = stage.daemon(
        zookeeper.hosts, register={"path": path}, journal=str(stage.journal) + "-two"
    )

    def fleet(asked: Daemon) -> set[int]:
        return {each["pid"] for each in json.loads(run(asked, "status", "--fleet", "--json"))}

    eventually(lambda: fleet(one) == {one.pid, two.pid}, 5, "both of them")
    text = run(two, "status", "--fleet")
    for daemon in (one, two):
        assert f"127.0.0.1:{daemon.address[1]}" in text
        assert daemon.admin_text in text
    zookeeper.server.kill()
    settle(0.5)
    done = command("status", "--fleet", "--admin", one.admin_text)
    assert done.returncode == 1
    zookeeper.server.start()
    eventually(lambda: _is_live(one) and _is_live(two), 15, "both sessions")
    eventually(lambda: fleet(two) == {one.pid, two.pid}, 10, "both of them")
    client = publishers.clients[0]
    for node in client.retry(client.get_children, path):  # the test's own session may be new
        assert client.retry(client.get, f"{path}/{node}")[1].ephemeralOwner
    one.stop()
    eventually(lambda: fleet(two) == {two.pid}, 5, "the one that is left")


def test_registered_anew(stage: Stage, zookeeper: Ensemble) -> None:
    """A gateway that was killed leaves its node; the next one's takes its place."""
    path = f"/gateways{stage.path}"
    publishers = stage.publishers(zookeeper.hosts)
    client = publishers.register(stage.nodes())
    first = stage.daemon(zookeeper.hosts, register={"path": path})
    eventually(lambda: first.status()["zookeeper"]["registered"], 5, "the node")
    first.kill()
    second = Daemon(first.directory, first.document)
    try:
        (node,) = client.get_children(path)
        eventually(lambda: second.status()["zookeeper"]["registered"], 10, "the new node")
        data, _ = client.get(f"{path}/{node}")
        assert json.loads(data)["pid"] == second.pid
    finally:
        second.stop()


def _is_live(daemon: Daemon) -> bool:
    return bool(membership(daemon)["state"] == "live")
