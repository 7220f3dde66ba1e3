"""Framing and smuggling: what is malformed stops here, what is valid goes on unchanged."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.framing_cases import BAD, BAD_BODIES, EITHER, GOOD, Bad, BadBody, Good
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    Response,
    ScriptedUpstream,
    configuration,
)

_paths = (f"/p{number}" for number in itertools.count())


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def fence(self) -> Recorded:
        """A good request on a connection of its own: what came before it has arrived too."""
        path = next(_paths)
        with self.daemon.client() as client:
            assert client.ask(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).status == 200
        return self.upstream.wait_request(path)

    def since(self, before: int, path: str) -> list[Recorded]:
        """What has arrived, without stragglers: heads of earlier cases that were cut at the end."""
        earlier = int(path[2:])
        return [
            request
            for request in self.upstream.requests[before:]
            if not (request.path[2:].isdigit() and int(request.path[2:]) < earlier)
        ]


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    return Pair(module_daemon(configuration({"u": [upstream.endpoint]})), upstream)


def assert_refused(client: RawClient, statuses: tuple[int, ...]) -> Response:
    """The answer is one of the gateway's own, announces the end, and the end follows."""
    response = client.read_response()
    assert response.status in statuses
    assert response.closes
    assert response.get("x-request-id")
    client.expect_end()
    return response


@pytest.mark.parametrize("piecewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])
def test_malformed_is_refused_and_reaches_no_upstream(
    pair: Pair, case: Bad, piecewise: bool
) -> None:
    """Refused with the connection closed; not a byte of it gets through."""
    requests, received = len(pair.upstream.requests), pair.upstream.received
    with pair.daemon.client(timeout=3) as client:
        client.send_anyway(case.raw, piecewise=piecewise)
        assert_refused(client, case.statuses)
    fence = pair.fence()
    assert pair.upstream.requests[requests:] == [fence]
    assert pair.upstream.received - received == len(fence.raw_head)


@pytest.mark.parametrize("piecewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("case", BAD_BODIES, ids=[case.name for case in BAD_BODIES])
def test_malformed_body_never_completes_upstream(
    pair: Pair, case: BadBody, piecewise: bool
) -> None:
    """The client is refused or cut, and the upstream's request is aborted if it began."""
    path = next(_paths)
    head = b"\r\n".join([b"POST %s HTTP/1.1" % path.encode(), b"Host: h", *case.head, b"", b""])
    before = len(pair.upstream.requests)
    with pair.daemon.client(timeout=3) as client:
        client.send_anyway(head + case.body, piecewise=piecewise and len(case.body) < 200)
        if case.ends:
            client.half_close()
            rest, _ = client.read_until_close()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 4")
        else:
            assert_refused(client, (400,))
    fence = pair.fence()
    for request in pair.since(before, path):
        if request is not fence:
            assert request.path == path
            pair.upstream.wait_ended(request)
            assert not request.complete


def check_served(request: Recorded, case: Good, path: str) -> None:
    """What the upstream got is what the request means."""
    assert (request.method, request.target) == (case.method, case.target.replace("@P", path))
    assert request.version == "HTTP/1.1"
    assert request.body == case.body
    wanted = {name.lower() for name, _ in case.has}
    got = [(name.lower(), value) for name, value in request.headers if name.lower() in wanted]
    assert got == [(name.lower(), value) for name, value in case.has] or len(wanted) > 20
    for name in case.hasnt:
        assert request.all(name) == []
    if case.trailers is not None:
        assert tuple(request.trailers) == case.trailers


@pytest.mark.parametrize("piecewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("case", GOOD, ids=[case.name[:60] for case in GOOD])
def test_valid_is_served(pair: Pair, case: Good, piecewise: bool) -> None:
    """Served, with the same meaning at the upstream, and the connection goes on."""
    path = next(_paths)
    before = len(pair.upstream.requests)
    raw = case.raw.replace(b"@P", path.encode())
    with pair.daemon.client() as client:
        client.send_anyway(raw, piecewise=piecewise and len(raw) < 1000)
        response = client.read_response(case.method)
        assert response.status == 200
        (request,) = pair.since(before, path)
        check_served(pair.upstream.wait_complete(request), case, path)
        if response.closes:
            assert b"HTTP/1.0" in case.raw
            client.expect_end()
        else:
            assert client.ask(b"GET /again HTTP/1.1\r\nHost: h\r\n\r\n").status == 200


@pytest.mark.parametrize("case", EITHER, ids=[case.name for case in EITHER])
def test_ambiguous_is_refused_or_made_plain(pair: Pair, case: Good) -> None:
    """Either refused like the malformed, or served in its one harmless reading."""
    path = next(_paths)
    before = len(pair.upstream.requests)
    with pair.daemon.client(timeout=3) as client:
        client.send(case.raw.replace(b"@P", path.encode()))
        response = client.read_response(case.method)
        if response.status != 200:
            assert response.status in (400, 404, 501, 505)
            assert response.closes
            client.expect_end()
            fence = pair.fence()
            assert all(item is fence or not item.complete for item in pair.since(before, path))
            return
        (request,) = pair.since(before, path)
        check_served(pair.upstream.wait_complete(request), case, path)


def test_smuggled_request_behind_a_refused_one_is_never_read(pair: Pair) -> None:
    """What follows a refused head on its connection is nobody's request."""
    before = len(pair.upstream.requests)
    with pair.daemon.client() as client:
        client.send_anyway(
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert_refused(client, (400,))
    fence = pair.fence()
    assert pair.since(before, fence.path) == [fence]


def test_chunk_extensions_are_dropped(pair: Pair) -> None:
    """RFC 9112 §7.1.1: a recipient removes what it does not understand."""
    with pair.daemon.client() as client:
        client.ask(
            b"POST /extension HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;secret=1\r\nab\r\n0;last\r\n\r\n"
        )
    request = pair.upstream.wait_complete(pair.upstream.wait_request("/extension"))
    assert request.body == b"ab"
    assert b"secret" not in request.raw_body and b"last" not in request.raw_body


def test_a_large_body_survives_every_split(pair: Pair) -> None:
    """Chunks cut at every place of their framing still make the same body."""
    wire = (
        b"".join(b"%x\r\n%s\r\n" % (size, b"z" * size) for size in (1, 15, 16, 17)) + b"0\r\n\r\n"
    )
    head = b"POST /split HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for index in range(len(wire)):
        with pair.daemon.client() as client:
            client.send(head + wire[:index])
            client.send(wire[index:])
            assert client.read_response("POST").status == 200
        request = pair.upstream.wait_request("/split", nth=index)
        assert request.body == b"z" * 49
