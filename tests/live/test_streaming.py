"""Bodies of any size and pace: as they come, whole, and in little memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatewayd.net.pipes import MOST
from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    Reset,
    Response,
    ScriptedUpstream,
    Truncated,
    UpstreamConnection,
    configuration,
    eventually,
)
from tests.live.harness.upstream import late_body

MIB = 1 << 20
SIZE = 64 * MIB
GROWTH = 20 * MIB


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    document = configuration(
        {"u": [upstream.endpoint]},
        routes=[
            {
                "name": "sse",
                "match": {"path_prefix": "/sse"},
                "upstream": "u",
                "timeouts": {"stream": "1h"},
            },
            {"name": "all", "upstream": "u"},
        ],
    )
    daemon = module_daemon(document)
    # What is allocated once (memo, pipes) shall not count as growth of a body.
    for _ in range(50):
        daemon.get("/warm")
    return Pair(daemon, upstream)


def block(number: int) -> bytes:
    """A MiB that no other number has."""
    return hashlib.sha256(str(number).encode()).digest() * (MIB // 32)


BLOCKS = [block(number) for number in range(8)]


def blocks(size: int) -> Iterator[bytes]:
    """*size* bytes in MiBs; the last one may be shorter."""
    for number in range(-(-size // MIB)):
        yield BLOCKS[number % 8][: size - number * MIB]


def digest_of(size: int) -> str:
    """The hash of such a body."""
    digest = hashlib.sha256()
    for piece in blocks(size):
        digest.update(piece)
    return digest.hexdigest()


def get(path: str, version: str = "1.1") -> bytes:
    """A GET as bytes."""
    return f"GET {path} HTTP/{version}\r\nHost: h\r\n\r\n".encode()


def serve(framing: str, size: int, *, cut: int | None = None, reset: bool = False):  # type: ignore[no-untyped-def]
    """A handler that sends a large body; cut after so many bytes."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        if framing == "length":
            head = b"Content-Length: %d\r\n" % size
        elif framing == "chunked":
            head = b"Transfer-Encoding: chunked\r\n"
        else:
            head = b"Connection: close\r\n"
        connection.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for piece in blocks(size if cut is None else cut):
            if framing == "chunked":
                piece = b"%x\r\n" % len(piece) + piece + b"\r\n"
            connection.send(piece)
        if cut is not None:
            if reset:
                connection.reset()
            else:
                connection.close()
        elif framing == "chunked":
            connection.send(b"0\r\n\r\n")
        elif framing == "until close":
            connection.close()

    return play


def read_digest(client: RawClient, response: Response) -> tuple[str, int]:
    """Read a body without keeping it; its hash and size."""
    digest, size = hashlib.sha256(), 0
    if response.all("Transfer-Encoding"):
        while chunk := client.read_chunk():
            digest.update(chunk)
            size += len(chunk)
        assert client.read_trailers() == []
    elif response.get("Content-Length") is not None:
        left = int(str(response.get("Content-Length")))
        while left:
            piece = client.read_exactly(min(left, MIB))
            digest.update(piece)
            size += len(piece)
            left -= len(piece)
    else:
        data, ended = client.read_until_close()
        assert ended == "closed"
        digest.update(data)
        size = len(data)
    return digest.hexdigest(), size


# Downloads.


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_a_large_download_is_whole_and_costs_no_memory(pair: Pair, framing: str) -> None:
    path = f"/down/{framing.replace(' ', '-')}"
    pair.upstream.on(path, serve(framing, SIZE))
    before = pair.daemon.resident()
    with pair.daemon.client(timeout=30) as client:
        client.send(get(path))
        response = client.read_head()
        assert response.status == 200
        digest, size = read_digest(client, response)
        assert (digest, size) == (digest_of(SIZE), SIZE)
        assert client.ask(get("/after")).status == 200
    assert pair.daemon.resident() - before < GROWTH


@pytest.mark.parametrize(
    "size", [1, 65535, 65536, 65537, 131071, 131072, 131073, MIB - 1, MIB, MIB + 1, 3 * MIB + 7]
)
def test_sizes_around_every_border(pair: Pair, size: int) -> None:
    """Of read_ahead, of the splice path and of its pipe; and the connections go on."""
    path = f"/size/{size}"
    pair.upstream.on(path, serve("length", size))
    with pair.daemon.client() as client:
        for _ in range(3):
            client.send(get(path))
            response = client.read_head()
            assert read_digest(client, response) == (digest_of(size), size)
        assert client.ask(get("/after")).status == 200
    used = {request.connection.number for request in pair.upstream.find(path)}
    assert len(used) == 1


def test_pipelined_large_downloads(pair: Pair) -> None:
    """Nothing of one gets into the other."""
    sizes = [MIB + 1, 10, 2 * MIB, 200000, 5]
    for size in sizes:
        pair.upstream.on(f"/mix/{size}", serve("length", size))
    with pair.daemon.client(timeout=15) as client:
        client.send(b"".join(get(f"/mix/{size}") for size in sizes))
        for size in sizes:
            response = client.read_head()
            assert read_digest(client, response) == (digest_of(size), size)


def test_many_large_downloads_at_once(pair: Pair) -> None:
    pair.upstream.on("/many", serve("length", 4 * MIB))
    wanted = (digest_of(4 * MIB), 4 * MIB)
    failures: list[object] = []
    before = pair.daemon.resident()

    def run() -> None:
        with pair.daemon.client(timeout=30) as client:
            for _ in range(2):
                client.send(get("/many"))
                got = read_digest(client, client.read_head())
                if got != wanted:
                    failures.append(got)

    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert pair.daemon.resident() - before < GROWTH


def test_more_slow_downloads_than_pipes(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """While nobody reads each holds a pipe, up to the most there may be; the others are copied."""
    size = 6 * MIB
    upstream = start_upstream()
    upstream.on("/slow", serve("length", size))
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))

    def pipes() -> int:
        links = set()
        for link in Path(f"/proc/{daemon.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.add(str(link.readlink()))
        return len({link for link in links if link.startswith("pipe:")})

    before = pipes()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(daemon.client(timeout=30, receive_buffer=65536))
            for _ in range(MOST + 16)
        ]
        for client in clients:
            client.send(get("/slow"))
        responses = [client.read_head() for client in clients]
        eventually(
            lambda: pipes() >= before + MOST - 8
        )  # who is not root has a share of their memory
        for client, response in zip(clients, responses, strict=True):
            assert pipes() <= before + MOST
            assert read_digest(client, response) == (digest_of(size), size)


def test_an_http_1_0_client_downloads_until_close(pair: Pair) -> None:
    pair.upstream.on("/old", serve("chunked", 3 * MIB))
    with pair.daemon.client() as client:
        client.send(get("/old", "1.0"))
        response = client.read_head()
        assert read_digest(client, response) == (digest_of(3 * MIB), 3 * MIB)


# Uploads.


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_is_whole_and_costs_no_memory(pair: Pair, framing: str) -> None:
    path = f"/up/{framing}"
    digest = hashlib.sha256()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        for piece in connection.body_pieces(request):
            digest.update(piece)
        request.raw_body = b""
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pair.upstream.on(path, play)
    before = pair.daemon.resident()
    size = SIZE if framing == "length" else SIZE // 4
    field = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    with pair.daemon.client(timeout=30) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n".encode())
        for piece in blocks(size):
            if framing == "chunked":
                piece = b"%x\r\n" % len(piece) + piece + b"\r\n"
            client.send(piece)
        if framing == "chunked":
            client.send(b"0\r\n\r\n")
        assert client.read_response("POST").status == 200
        assert client.ask(get("/after")).status == 200
    assert digest.hexdigest() == digest_of(size)
    assert pair.daemon.resident() - before < GROWTH


def test_up_and_down_at_once(pair: Pair) -> None:
    """An echo of 16 MiB in both directions together."""
    size = 16 * MIB

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in connection.body_pieces(request):
            connection.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        connection.send(b"0\r\n\r\n")

    pair.upstream.on("/echo", play)
    before = pair.daemon.resident()
    with pair.daemon.client(timeout=30) as client:
        client.send(f"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode())

        def upload() -> None:
            for piece in blocks(size):
                client.send(piece)

        sender = threading.Thread(target=upload)
        sender.start()
        got = read_digest(client, client.read_head())
        sender.join(30)
    assert got == (digest_of(size), size)
    assert pair.daemon.resident() - before < GROWTH


def test_an_upload_arrives_as_it_comes(pair: Pair) -> None:
    """The upstream has the first piece while the client still holds the second."""
    first = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        for piece in connection.body_pieces(request):
            request.body += piece
            first.set()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pair.upstream.on("/piece", play)
    with pair.daemon.client() as client:
        client.send(b"POST /piece HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst")
        assert first.wait(2)
        client.send(b"later")
        assert client.read_response("POST").status == 200
    assert pair.upstream.find("/piece")[0].body == b"firstlater"


# Streams.


@pytest.mark.parametrize("framing", ["chunked", "until close"])
def test_sse_is_delivered_as_it_comes(pair: Pair, framing: str) -> None:
    """Each event before the next one is even sent."""
    path = f"/sse/{framing.replace(' ', '-')}"
    turns = [threading.Event() for _ in range(5)]

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        head = b"Transfer-Encoding: chunked\r\n" if framing == "chunked" else b""
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head + b"\r\n")
        for number, turn in enumerate(turns):
            event = b"data: %d\n\n" % number
            connection.send(
                b"%x\r\n" % len(event) + event + b"\r\n" if framing == "chunked" else event
            )
            turn.wait(5)
        if framing == "chunked":
            connection.send(b"0\r\n\r\n")
        else:
            connection.close()

    pair.upstream.on(path, play)
    with pair.daemon.client() as client:
        client.send(get(path))
        assert client.read_head().get("Content-Type") == "text/event-stream"
        for number, turn in enumerate(turns):
            assert client.read_chunk() == b"data: %d\n\n" % number
            turn.set()
        assert client.read_chunk() == b""


def test_a_head_is_delivered_before_its_body(pair: Pair) -> None:
    release = threading.Event()
    pair.upstream.on("/head-first", late_body(release))
    with pair.daemon.client() as client:
        client.send(get("/head-first"))
        response = client.read_head()
        assert response.status == 200
        release.set()
        assert client.read_exactly(2) == b"ok"


def test_a_quiet_stream_has_its_own_timeout(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Silence longer than the upstream's read is fine where stream says so."""
    upstream = start_upstream()
    pause = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        pause.wait(1)
        connection.send(b"1\r\nb\r\n0\r\n\r\n")

    upstream.default = play
    daemon = start_daemon(
        configuration(
            {"u": {"endpoints": [upstream.endpoint], "timeouts": {"read": "300ms"}}},
            routes=[
                {
                    "name": "sse",
                    "match": {"path_prefix": "/sse"},
                    "upstream": "u",
                    "timeouts": {"stream": "5s"},
                },
                {"name": "rest", "upstream": "u"},
            ],
        )
    )
    assert daemon.get("/sse").body == b"ab"
    with pytest.raises((Truncated, Reset)):
        daemon.get("/rest")


def test_a_slow_reader_gets_everything(pair: Pair) -> None:
    """Back-pressure and its end, again and again; others are served meanwhile."""
    pair.upstream.on("/slow-reader", serve("length", 4 * MIB))
    pause = threading.Event()
    with pair.daemon.client(receive_buffer=16384, timeout=20) as client:
        client.send(get("/slow-reader"))
        response = client.read_head()
        assert response.status == 200
        digest, left = hashlib.sha256(), 4 * MIB
        while left:
            piece = client.read_exactly(min(left, 131072))
            digest.update(piece)
            left -= len(piece)
            pause.wait(0.01)
            if left % (8 * 131072) == 0:
                assert pair.daemon.get("/beside").status == 200
        assert digest.hexdigest() == digest_of(4 * MIB)
        assert client.ask(get("/after")).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_small_answer_frees_its_endpoint_though_the_client_is_slow(
    pair: Pair, framing: str
) -> None:
    """read_ahead: the upstream's connection is back in the pool before the client has read."""
    path = f"/read-ahead/{framing}"
    pair.upstream.on(path, serve(framing, 60000))
    with pair.daemon.client(receive_buffer=4096) as client:
        client.send(get(path))
        pair.upstream.wait_request(path)
        eventually(
            lambda: pair.daemon.sample("pool_connections", state="busy") == 0,
            what="the endpoint's connection at rest",
        )
        assert read_digest(client, client.read_head()) == (digest_of(60000), 60000)


# Ends in the middle of the splice path.


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_client_leaves_in_mid_splice(pair: Pair, how: str) -> None:
    path = f"/leave/{how}"
    pair.upstream.on(path, serve("length", 500 * MIB))
    for turn in range(5):
        client = pair.daemon.client(receive_buffer=65536)
        client.send(get(path))
        assert client.read_head().status == 200
        client.read_exactly(300000)
        getattr(client, how)()
        request = pair.upstream.wait_request(path, nth=turn)
        pair.upstream.wait_ended(request, 2)
    # The pipes that were full when it happened serve nobody their old bytes.
    pair.upstream.on("/leave/after", serve("length", 2 * MIB))
    for _ in range(5):
        with pair.daemon.client() as client:
            client.send(get("/leave/after"))
            assert read_digest(client, client.read_head()) == (digest_of(2 * MIB), 2 * MIB)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("cut", [200000, 3 * MIB + 12345])
def test_the_upstream_dies_in_mid_splice(pair: Pair, reset: bool, cut: int) -> None:
    """The client gets no more than came, and no clean end."""
    path = f"/die/{cut}/{reset}"
    pair.upstream.on(path, serve("length", 8 * MIB, cut=cut, reset=reset))
    with pair.daemon.client() as client:
        client.send(get(path))
        assert client.read_head().status == 200
        with pytest.raises((Truncated, Reset)) as caught:
            client.read_exactly(8 * MIB)
        if isinstance(caught.value, Truncated):
            partial = caught.value.partial
            assert len(partial) <= cut
            assert partial == b"".join(blocks(cut))[: len(partial)]
            if not reset:
                assert len(partial) == cut
    entry = pair.daemon.access(lambda item: item["path"] == path)
    assert entry["reason"] == "body_cut"
    assert pair.daemon.get("/after-death").status == 200


def test_a_stray_byte_after_a_spliced_body(pair: Pair) -> None:
    """It is not the next answer's."""
    sent = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MIB))
        for piece in blocks(2 * MIB):
            connection.send(piece)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        sent.set()

    pair.upstream.on("/stray", play)
    with pair.daemon.client() as client:
        for _ in range(3):
            sent.clear()
            client.send(get("/stray"))
            assert read_digest(client, client.read_head()) == (digest_of(2 * MIB), 2 * MIB)
            assert sent.wait(5)
            assert client.ask(get("/after")).body == b"ok"


def test_a_source_that_falters(pair: Pair) -> None:
    """Of bulk the kernel gathers a quarter of a megabyte before it wakes the gateway; less comes too."""
    sizes = [3 * MIB, 100, 70_000, 2 * MIB, 1, 200_000, 5]
    received = threading.Semaphore(0)

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(sizes))
        for size in sizes:
            for piece in blocks(size):
                connection.send(piece)
            assert received.acquire(timeout=5)

    pair.upstream.on("/falters", play)
    with pair.daemon.client() as client:
        for _ in range(3):
            client.send(get("/falters"))
            assert client.read_head().status == 200
            for size in sizes:
                assert client.read_exactly(size) == b"".join(blocks(size))
                received.release()
            assert client.ask(get("/after")).body == b"ok"


def test_spliced_and_small_answers_interleaved(pair: Pair) -> None:
    """The transports are themselves again after each."""
    pair.upstream.on("/big", serve("length", 300000))
    with pair.daemon.client() as client:
        for _ in range(20):
            client.send(get("/big"))
            assert read_digest(client, client.read_head()) == (digest_of(300000), 300000)
            assert client.ask(get("/small")).body == b"ok"
            client.send(b"POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
            assert client.read_response("POST").body == b"ok"


# The same upwards: a long body goes past the gateway once nobody would repeat it.


def post(path: str, size: int) -> bytes:
    """The head of an upload."""
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode()


def test_what_is_pipelined_behind_a_spliced_upload(pair: Pair) -> None:
    """Is a request of its own; and the upload is whole."""
    digests = []

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        digests.append(hashlib.sha256(connection.read_body(request)).hexdigest())
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup")

    pair.upstream.on("/up/behind", play)
    with pair.daemon.client() as client:
        for _ in range(3):
            client.send(post("/up/behind", 2 * MIB + 7))
            for piece in blocks(2 * MIB + 7):
                client.send(piece)
            client.send(get("/up/next"))
            assert client.read_response("POST").body == b"up"
            assert client.read_response().body == b"ok"
    assert digests == [digest_of(2 * MIB + 7)] * 3


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_client_leaves_in_a_spliced_upload(pair: Pair, how: str) -> None:
    """The upstream sees an end that is none of the body's, and no later one gets its bytes."""
    path = f"/up/leave/{how}"

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)

    pair.upstream.on(path, play)
    for turn in range(5):
        client = pair.daemon.client()
        client.send(post(path, 100 * MIB))
        for piece in blocks(3 * MIB):
            client.send(piece)
        getattr(client, how)()
        request = pair.upstream.wait_request(path, nth=turn)
        pair.upstream.wait_ended(request, 2)
        assert not request.body_done
    with pair.daemon.client() as client:
        client.send(post("/up/after", 2 * MIB))
        for piece in blocks(2 * MIB):
            client.send(piece)
        assert client.read_response("POST").body == b"ok"
    after = pair.upstream.wait_complete(pair.upstream.wait_request("/up/after"))
    assert hashlib.sha256(after.body).hexdigest() == digest_of(2 * MIB)


@pytest.mark.parametrize("how", ["close", "reset", "answer"])
def test_the_upstream_ends_a_spliced_upload(pair: Pair, how: str) -> None:
    """It dies, or answers before it has read all: the client gets an answer, and no second request."""
    path = f"/up/end/{how}"

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_exactly(MIB)
        if how == "answer":
            connection.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
            connection.wait_end()
        else:
            getattr(connection, how)()

    pair.upstream.on(path, play)
    for turn in range(3):
        with pair.daemon.client() as client:
            client.send(post(path, 100 * MIB))
            for piece in blocks(8 * MIB):
                client.send_anyway(piece)
            response = client.read_response("POST")
            assert response.status == (413 if how == "answer" else 502)
            assert response.closes
        if how == "answer":
            pair.upstream.wait_ended(pair.upstream.wait_request(path, nth=turn), 2)
    assert pair.daemon.get("/up/alive").status == 200


def test_an_upstream_that_takes_nothing_of_a_spliced_upload(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """The client is not read meanwhile, and timeouts.write ends it."""
    upstream = start_upstream(receive_buffer=32768)
    daemon = start_daemon(
        configuration({"u": {"endpoints": [upstream.endpoint], "timeouts": {"write": "1s"}}})
    )

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_exactly(MIB)
        stopped.wait(10)

    stopped = threading.Event()
    upstream.on("/up/stuck", play)
    before = daemon.resident()
    with daemon.client(timeout=0.5) as client:
        client.send(post("/up/stuck", 500 * MIB))
        sent = 0
        with pytest.raises((TimeoutError, OSError)):
            while sent < 500:
                client.socket.sendall(BLOCKS[sent % 8])
                sent += 1
        assert sent < 60
        client.socket.settimeout(10)
        assert client.read_response("POST").status in (502, 504)
    stopped.set()
    assert daemon.resident() - before < GROWTH


def test_descriptors_do_not_leak(pair: Pair) -> None:
    """Pipes, sockets and all: after the crowd as many as before."""
    pair.upstream.on("/leak", serve("length", 2 * MIB))

    def count() -> int:
        return len(list(Path(f"/proc/{pair.daemon.pid}/fd").iterdir()))

    def crowd() -> None:
        clients = [pair.daemon.client() for _ in range(16)]
        for client in clients:
            client.send(get("/leak"))
        for number, client in enumerate(clients):
            assert client.read_head().status == 200
            client.read_exactly(100000 if number % 2 else 2 * MIB)
            client.close()

    # Pipes and idle connections are kept up to what a crowd needs.
    for _ in range(4):
        crowd()
    eventually(lambda: pair.daemon.sample("client_connections") == 0)
    before = count()
    for _ in range(6):
        crowd()
    eventually(lambda: pair.daemon.sample("client_connections") == 0)
    # A leak of one for each cut download would be 48; a pipe more for each at once is none.
    eventually(lambda: count() <= before + 40, what="descriptors as before")


def test_time_of_a_gigabyte_is_not_absurd(pair: Pair) -> None:
    """256 MiB through the splice path; a pump that copies byte by byte would show."""
    pair.upstream.on("/quarter", serve("length", 256 * MIB))
    began = time.monotonic()
    before = pair.daemon.resident()
    with pair.daemon.client(timeout=30) as client:
        client.send(get("/quarter"))
        client.read_head()
        for _ in range(256):
            client.read_exactly(MIB)
    assert time.monotonic() - began < 15
    assert pair.daemon.resident() - before < GROWTH
