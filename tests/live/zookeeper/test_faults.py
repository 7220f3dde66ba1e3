"""ZooKeeper fails in every way that was measured; the members do not, and so no request does."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.live.harness import Daemon, eventually
from tests.live.zookeeper.conftest import Stage
from tests.live.zookeeper.server import Ensemble
from tests.live.zookeeper.traffic import Traffic

ALL = {"m0", "m1", "m2"}


def membership(daemon: Daemon) -> dict[str, Any]:
    """What /status says of the membership."""
    found: dict[str, Any] = daemon.status()["upstreams"]["users"]["membership"]
    return found


def states(daemon: Daemon) -> list[str]:
    """The endpoints' states."""
    return sorted(each["state"] for each in daemon.status()["upstreams"]["users"]["endpoints"])


def session(daemon: Daemon) -> str:
    """The session's state."""
    return str(daemon.status()["zookeeper"]["state"])


def wait_for(daemon: Daemon, timeout: float = 15.0, **wanted: Any) -> dict[str, Any]:
    """Wait until /status says this of the membership."""

    def fits() -> dict[str, Any] | None:
        found = membership(daemon)
        return found if all(found[key] == value for key, value in wanted.items()) else None

    try:
        found = eventually(fits, timeout, f"{wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}; {membership(daemon)}\n{daemon.stderr.text}") from None
    assert found is not None
    return found


def wait_session(daemon: Daemon, wanted: str, timeout: float = 15.0) -> None:
    """Wait until the session is in a state."""
    eventually(lambda: session(daemon) == wanted, timeout, f"a session that is {wanted}")


def settle(seconds: float) -> None:
    """Let a fault last: how long it lasts is what the test is about."""
    time.sleep(seconds)


def test_away_with_a_journal(stage: Stage, zookeeper: Ensemble) -> None:
    """It starts from what was known, says so, and takes over when ZooKeeper is back."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    stage.daemon(zookeeper.hosts).stop()
    zookeeper.server.kill()
    daemon = stage.daemon(zookeeper.hosts)
    found = membership(daemon)
    assert (found["origin"], found["state"], found["held"]) == ("journal", "stale", 0)
    assert 0 < found["stale_for"] < 60
    assert session(daemon) == "connecting"
    daemon.stderr.wait_for(lambda line: "3 members from the journal, to begin with" in line)
    daemon.stderr.wait_for(lambda line: "zookeeper.connect_timeout; serving without it" in line)
    with Traffic(daemon) as traffic:
        assert set(traffic.flow(1)) == ALL
        zookeeper.server.start()
        wait_for(daemon, origin="zookeeper", state="live")
        assert set(traffic.flow(1)) == ALL
        traffic.check()


def test_away_and_no_journal(stage: Stage, zookeeper: Ensemble) -> None:
    """Static members serve; the others join when ZooKeeper is there."""
    zookeeper.server.kill()
    static = {"endpoints": [stage.members[0].endpoint]}
    daemon = stage.daemon(zookeeper.hosts, upstream=static)
    assert membership(daemon)["state"] == "unknown"
    with Traffic(daemon) as traffic:
        assert set(traffic.flow(1)) == {"m0"}
        zookeeper.server.start()
        stage.publishers(zookeeper.hosts).register(stage.nodes())
        wait_for(daemon, state="live")
        eventually(lambda: set(traffic.flow(0.3)) == ALL, 5, "all three members")
        traffic.check()


def test_nothing_at_all(stage: Stage, zookeeper: Ensemble) -> None:
    """Neither journal nor static members: not ready, requests wait and are told, then served."""
    zookeeper.server.kill()
    daemon = stage.daemon(
        zookeeper.hosts, upstream={"pool": {"pending_timeout": "300ms"}}, ready=False
    )
    eventually(lambda: b"members of upstream users" in _ready(daemon), 10, "who is missing")
    assert daemon.get().status == 503
    zookeeper.server.start()
    stage.publishers(zookeeper.hosts).register(stage.nodes())
    daemon.wait_ready()
    assert daemon.get().status == 200


def _ready(daemon: Daemon) -> bytes:
    try:
        return daemon.ask_admin("GET", "/readyz").body
    except OSError:
        return b""


def test_stopped_for_less_than_the_session(stage: Stage, zookeeper: Ensemble) -> None:
    """The server hangs for a moment; nothing is held or lost."""
    stage.publishers(zookeeper.hosts).register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        before = daemon.sample("membership_changes_total", upstream="users")
        zookeeper.server.signal(signal.SIGSTOP)
        settle(1.2)
        zookeeper.server.signal(signal.SIGCONT)
        assert set(traffic.flow(2)) == ALL
        wait_for(daemon, state="live", held=0)
        assert daemon.sample("membership_changes_total", upstream="users") == before
        traffic.check()


def test_stopped_for_more_than_the_session(stage: Stage, zookeeper: Ensemble) -> None:
    """All sessions expire; the empty list that comes then is held until they are back."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        zookeeper.server.signal(signal.SIGSTOP)
        wait_session(daemon, "expired")
        found = membership(daemon)
        assert (found["state"], found["origin"]) == ("stale", "zookeeper")
        assert 2 < found["stale_for"] < 10
        assert daemon.sample("zookeeper_state", state="expired") == 1
        publishers.close()  # else they may be back before the server has counted the time
        zookeeper.server.signal(signal.SIGCONT)
        found = wait_for(daemon, state="live", held=3)
        assert "`gatewayd accept users`" in found["released_by"]
        assert daemon.sample("membership_held", upstream="users") == 3
        assert states(daemon) == ["held"] * 3
        assert set(traffic.flow(1)) == ALL
        publishers.register(stage.nodes())
        wait_for(daemon, held=0)
        assert set(traffic.flow(1)) == ALL
        traffic.check()


def test_back_one_after_the_other(stage: Stage, zookeeper: Ensemble) -> None:
    """After an expiry members register anew, each in its own time; all of them serve again."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        publishers.close()
        wait_for(daemon, held=3)
        for number in range(3):
            publishers.register(stage.nodes(number))
            settle(0.3)
        wait_for(daemon, held=0)
        outcomes = set(traffic.flow(1))
        traffic.check()
    assert outcomes == ALL


@pytest.mark.parametrize("seconds", [0.0, 4.0])
def test_killed_and_restarted(stage: Stage, zookeeper: Ensemble, seconds: float) -> None:
    """Within the session's time and after it; the publishers are back with it."""
    stage.publishers(zookeeper.hosts).register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        zookeeper.server.kill()
        wait_session(daemon, "expired" if seconds else "suspended")
        settle(seconds)
        zookeeper.server.start()
        wait_for(daemon, state="live")
        assert set(traffic.flow(2)) == ALL
        traffic.check()


def test_killed_and_the_publishers_expire(stage: Stage, zookeeper: Ensemble) -> None:
    """The restarted server takes our session on, and ends the publishers' although all are well."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        zookeeper.server.kill()
        publishers.close()
        zookeeper.server.start()
        wait_for(daemon, held=3, state="live")
        assert set(traffic.flow(2)) == ALL
        traffic.check()


def test_publishers_expire(stage: Stage, zookeeper: Ensemble) -> None:
    """In a session without trouble, one after the other: the pool is not emptied."""
    sessions = [stage.publishers(zookeeper.hosts) for _ in range(3)]
    for number, each in enumerate(sessions):
        each.register(stage.nodes(number))
    daemon = stage.daemon(zookeeper.hosts, source={"removal_grace": "4s"})
    with Traffic(daemon) as traffic:
        settle(4.2)
        for each in sessions:
            each.close()
            settle(0.3)
        found = wait_for(daemon, state="live", held=2)
        assert found["released_by"]
        # The first one's removal was within max_shrink: believed. The others serve on.
        assert set(traffic.flow(2)) == {"m1", "m2"}
        traffic.check()


def test_all_publishers_expire_at_once(stage: Stage, zookeeper: Ensemble) -> None:
    """They had one session, say: nobody leaves."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        settle(1.5)
        publishers.close()
        wait_for(daemon, state="live", held=3)
        assert set(traffic.flow(2)) == ALL
        traffic.check()


def test_the_held_that_die(stage: Stage, zookeeper: Ensemble) -> None:
    """Failed connects confirm it: the dead ones leave, and no request fails."""
    publishers = stage.publishers(zookeeper.hosts)
    publishers.register(stage.nodes())
    daemon = stage.daemon(zookeeper.hosts)
    with Traffic(daemon) as traffic:
        publishers.close()
        wait_for(daemon, held=3)
        stage.members[0].stop()
        wait_for(daemon, held=2)
        assert set(traffic.flow(1)) == {"m1", "m2"}
        failed = [each for each in traffic.failed() if "503" in each]
        assert not failed, failed


def test_the_connected_server_is_killed(stage: Stage, ensemble: Ensemble) -> None:
    """Of three: the session moves on to another."""
    stage.publishers(ensemble.hosts).register(stage.nodes())
    daemon = stage.daemon(ensemble.hosts)
    with Traffic(daemon) as traffic:
        ours = daemon.status()["zookeeper"]["session"]
        (connected,) = [each for each in ensemble.servers if each.has_session(ours)]
        connected.kill()
        # It may move on in less time than a look at /status takes.
        eventually(
            lambda: daemon.sample("zookeeper_events_total", type="suspended") == 1, 15, "the loss"
        )
        wait_for(daemon, state="live")
        assert daemon.status()["zookeeper"]["session"] == ours
        assert set(traffic.flow(3)) == ALL
        traffic.check()


def test_quorum_lost_and_back(stage: Stage, ensemble: Ensemble) -> None:
    """Two of three die, and one returns."""
    stage.publishers(ensemble.hosts).register(stage.nodes())
    daemon = stage.daemon(ensemble.hosts)
    with Traffic(daemon) as traffic:
        for server in ensemble.servers[:2]:
            server.kill()
        wait_session(daemon, "expired")
        assert set(traffic.flow(1)) == ALL
        ensemble.servers[0].start()
        wait_for(daemon, state="live")
        assert set(traffic.flow(2)) == ALL
        traffic.check()
