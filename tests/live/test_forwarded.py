"""Hop-by-hop fields, forwarded fields, trusted proxies, the PROXY protocol, Via."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    Response,
    ScriptedUpstream,
    answer,
    configuration,
    free_port,
    raw_answer,
)

VIA = re.compile(r"1\.1 gatewayd-[0-9a-zA-Z]{8}")
HOP_BY_HOP = ["Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization"]


@dataclass
class House:
    """One upstream behind listeners that trust, distrust and want the PROXY protocol."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def connect(self, listener: str = "web") -> RawClient:
        """A new connection to a listener."""
        return RawClient(self.daemon.address_of(listener))

    def pass_on(
        self, path: str, *lines: str, listener: str = "web", before: bytes = b""
    ) -> Recorded:
        """Send a GET through; what the upstream got."""
        with self.connect(listener) as client:
            client.send(before)
            assert client.ask(request(path, *lines)).status == 200
        return self.upstream.wait_request(path)


def request(path: str, *lines: str) -> bytes:
    """A GET as bytes."""
    head = [f"GET {path} HTTP/1.1", *([] if _has_host(lines) else ["Host: h"]), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def _has_host(lines: tuple[str, ...]) -> bool:
    return any(line.lower().startswith("host:") for line in lines)


@pytest.fixture(scope="module")
def house(module_daemon: StartDaemon, module_upstream: StartUpstream) -> House:
    upstream = module_upstream()

    def listener(**more: object) -> dict[str, object]:
        return {"address": f"127.0.0.1:{free_port()}", **more}

    document = configuration({"u": [upstream.endpoint]})
    trusted = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]
    document["listeners"].update(
        trusting=listener(trusted_proxies=trusted),
        elsewhere=listener(trusted_proxies=["192.0.2.0/24"]),
        proxied=listener(proxy_protocol=True),
        proxied_trusting=listener(proxy_protocol=True, trusted_proxies=["192.0.2.0/24"]),
        proxied_from=listener(proxy_protocol={"from": ["127.0.0.0/8"]}),
        proxied_from_elsewhere=listener(proxy_protocol={"from": ["192.0.2.0/24"]}),
        six={"address": f"[::1]:{free_port()}"},
    )
    return House(module_daemon(document), upstream)


# Hop by hop, requests.


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_fields_of_requests_stop_here(house: House, name: str) -> None:
    """RFC 9110 §7.6.1: they are for the next hop alone."""
    seen = house.pass_on(f"/hop/{name}", f"{name}: x", "X-Stays: y")
    assert seen.all(name) == []
    assert seen.all("X-Stays") == ["y"]


@pytest.mark.parametrize(
    "connection",
    ["X-Private", "x-private", "close, X-Private", "keep-alive,X-Private", ",, X-Private ,"],
)
def test_what_connection_names_stops_here(house: House, connection: str) -> None:
    path = f"/named/{connection.encode().hex()}"
    seen = house.pass_on(
        path, "X-Private: 1", f"Connection: {connection}", "x-private: 2", "X-B: 3"
    )
    assert seen.all("X-Private") == []
    assert seen.all("X-B") == ["3"]
    assert "private" not in ",".join(seen.all("Connection")).lower()


def test_several_connection_fields_count_together(house: House) -> None:
    seen = house.pass_on("/two", "Connection: X-One", "Connection: X-Two", "X-One: 1", "X-Two: 2")
    assert seen.all("X-One") == seen.all("X-Two") == []


def test_a_name_not_named_stays(house: House) -> None:
    """Only whole tokens count."""
    seen = house.pass_on("/part", "Connection: X-On", "X-One: 1")
    assert seen.all("X-One") == ["1"]


@pytest.mark.parametrize(
    "name",
    ["Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via", "X-Request-Id"],
)
def test_connection_cannot_name_away_what_the_gateway_adds(house: House, name: str) -> None:
    seen = house.pass_on(f"/away/{name}", f"Connection: {name}")
    assert len(seen.all(name)) == 1


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_connection_cannot_name_away_the_framing(house: House, name: str) -> None:
    """Refused, or framed as sent: never a body that becomes the next request."""
    path = f"/framing/{name}"
    before = len(house.upstream.requests)
    framing = "Content-Length: 5" if name == "Content-Length" else "Transfer-Encoding: chunked"
    body = b"hello" if name == "Content-Length" else b"5\r\nhello\r\n0\r\n\r\n"
    with house.connect() as client:
        client.send(request(path, framing, f"Connection: {name}") + body)
        response = client.read_response()
    assert response.status in (200, 400)
    if response.status == 200:
        (seen,) = house.upstream.requests[before:]
        assert house.upstream.wait_complete(seen).body == b"hello"


@pytest.mark.parametrize(
    "lines",
    [
        ("TE: trailers", "Connection: TE"),
        ("TE: gzip, trailers;q=0.5", "Connection: TE"),
        ("TE: gzip",),
    ],
)
def test_te_goes_on_as_trailers_or_not_at_all(house: House, lines: tuple[str, ...]) -> None:
    seen = house.pass_on(f"/te/{lines[0].encode().hex()}", *lines)
    assert seen.all("TE") in ([], ["trailers"])


def test_te_without_trailers_stops(house: House) -> None:
    assert house.pass_on("/te-gzip", "TE: gzip", "Connection: TE").all("TE") == []


@pytest.mark.parametrize("name", ["Proxy", "PROXY", "proxy"])
def test_proxy_is_removed(house: House, name: str) -> None:
    """CVE-2016-5385: a CGI would take it for HTTP_PROXY."""
    assert house.pass_on(f"/proxy/{name}", f"{name}: http://evil").all("Proxy") == []


def test_repeated_fields_keep_count_and_order(house: House) -> None:
    lines = ["X-A: 1", "Accept: a", "X-A: 2", "Accept: b", "X-A: 1"]
    seen = house.pass_on("/order", *lines)
    kept = [f"{name}: {value}" for name, value in seen.headers if name in ("X-A", "Accept")]
    assert kept == lines


# Hop by hop, responses.


def relay(house: House, path: str, *lines: str, status: str = "200 OK") -> Response:
    """GET a path whose answer has these lines."""
    head = "\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 2", *lines, "", "ok"])
    house.upstream.on(path, raw_answer(head.encode("latin-1")))
    with house.connect() as client:
        return client.ask(request(path))


@pytest.mark.parametrize("name", [*HOP_BY_HOP, "Upgrade", "TE"])
def test_hop_by_hop_fields_of_responses_stop_here(house: House, name: str) -> None:
    response = relay(house, f"/response/hop/{name}", f"{name}: x", "X-Stays: y")
    assert response.all(name) == []
    assert response.all("X-Stays") == ["y"]


def test_what_a_response_names_in_connection_stops_here(house: House) -> None:
    response = relay(house, "/response/named", "Connection: X-P, close", "X-P: 1", "X-Q: 2")
    assert response.all("X-P") == []
    assert response.all("X-Q") == ["2"]
    assert not response.closes, "the upstream's close is not the client's"


def test_a_response_cannot_name_away_what_the_gateway_adds(house: House) -> None:
    response = relay(house, "/response/away", "Connection: Via, X-Request-Id, Content-Length")
    assert response.body == b"ok"
    assert len(response.all("Via")) == 1
    assert len(response.all("X-Request-Id")) == 1


def test_repeated_fields_of_responses_keep_count_and_order(house: House) -> None:
    lines = ["Set-Cookie: a=1", "X-A: 1", "Set-Cookie: b=2", "X-A: 2", "Set-Cookie: a=1"]
    response = relay(house, "/response/order", *lines)
    kept = [f"{name}: {value}" for name, value in response.headers if name in ("Set-Cookie", "X-A")]
    assert kept == lines


def test_status_and_reason_are_relayed(house: House) -> None:
    response = relay(house, "/response/reason", status="299 Some Thing")
    assert (response.status, response.reason) == (299, "Some Thing")


def test_hop_by_hop_fields_of_103_stop_here(house: House) -> None:
    house.upstream.on(
        "/hints",
        raw_answer(
            b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\nKeep-Alive: x\r\nConnection: X-P\r\nX-P: 1\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        ),
    )
    with house.connect() as client:
        response = client.ask(request("/hints"))
    (hints,) = response.interim
    assert hints.status == 103
    assert hints.all("Link") == ["</s>"]
    assert hints.all("Keep-Alive") == hints.all("X-P") == []


# Forwarded fields.

SPELLINGS = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Server: evil",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "X_Forwarded-For: 6.6.6.6",
    "X-Forwarded_Proto: https",
    "x_real_ip: 6.6.6.6",
]


@pytest.mark.parametrize("line", SPELLINGS)
@pytest.mark.parametrize("listener", ["web", "elsewhere"])
def test_forwarded_fields_of_untrusted_peers_are_replaced(
    house: House, listener: str, line: str
) -> None:
    """Whatever the spelling: none of the client's own claims goes on."""
    path = f"/untrusted/{listener}/{line.encode().hex()}"
    seen = house.pass_on(path, line, listener=listener)
    name, _, value = line.partition(": ")
    assert value not in seen.all(name)
    assert seen.get("X-Forwarded-For") == "127.0.0.1"
    assert seen.get("X-Forwarded-Proto") == "http"
    assert seen.get("X-Forwarded-Host") == "h"
    assert seen.all("Forwarded") == []


def test_a_plain_request_gets_forwarded_fields(house: House) -> None:
    seen = house.pass_on("/plain", "Host: Example.com:81")
    assert seen.get("Host") in ("Example.com:81", "example.com:81")
    assert seen.get("X-Forwarded-For") == "127.0.0.1"
    assert seen.get("X-Forwarded-Proto") == "http"
    assert str(seen.get("X-Forwarded-Host")).lower() == "example.com:81"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", str(seen.get("X-Request-Id")))
    assert VIA.fullmatch(str(seen.get("Via")))


def joined(seen: Recorded) -> list[str]:
    """X-Forwarded-For as one list."""
    return [item.strip() for item in ",".join(seen.all("X-Forwarded-For")).split(",")]


def test_x_forwarded_for_of_a_trusted_peer_is_appended_to(house: House) -> None:
    seen = house.pass_on("/trusted", "X-Forwarded-For: 9.9.9.9, 10.1.1.1", listener="trusting")
    assert joined(seen) == ["9.9.9.9", "10.1.1.1", "127.0.0.1"]


def test_several_x_forwarded_for_keep_their_order(house: House) -> None:
    lines = ["X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 10.1.1.1"]
    seen = house.pass_on("/trusted/two", *lines, listener="trusting")
    assert joined(seen) == ["9.9.9.9", "10.1.1.1", "127.0.0.1"]


def test_proto_and_host_of_a_trusted_peer_are_believed(house: House) -> None:
    lines = ["X-Forwarded-Proto: https", "X-Forwarded-Host: public.example"]
    seen = house.pass_on("/trusted/proto", *lines, listener="trusting")
    assert seen.all("X-Forwarded-Proto")[-1] == "https"
    assert seen.all("X-Forwarded-Host")[-1] == "public.example"


def test_a_trusted_peer_that_says_nothing_gets_the_truth(house: House) -> None:
    seen = house.pass_on("/trusted/silent", listener="trusting")
    assert joined(seen) == ["127.0.0.1"]
    assert seen.get("X-Forwarded-Proto") == "http"


@pytest.mark.parametrize(
    ("claims", "client"),
    [
        ([], "127.0.0.1"),
        (["9.9.9.9"], "9.9.9.9"),
        (["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
        (["9.9.9.9, 10.0.0.1, 10.0.0.2"], "9.9.9.9"),
        (["9.9.9.9", "10.0.0.1"], "9.9.9.9"),
        (["10.0.0.1"], "10.0.0.1"),
        (["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (["9.9.9.9:1234"], "9.9.9.9"),
        (["[2001:db8::1]:1234"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:DB8:0:0::1, fd00::1"], "2001:db8::1"),
        (["::ffff:9.9.9.9"], "9.9.9.9"),
        (["9.9.9.9, ::ffff:10.0.0.1"], "9.9.9.9"),
        (["9.9.9.9, junk"], "127.0.0.1"),
        (["9.9.9.9, unknown, 10.0.0.1"], "10.0.0.1"),
    ],
)
def test_the_clients_address_is_the_first_untrusted_one(
    house: House, claims: list[str], client: str
) -> None:
    """From the right: over trusted addresses, to the first that is not (decisions, client's address).

    At an unreadable one the walk stops; the last readable address counts.
    """
    path = f"/client/{repr(claims).encode().hex()}"
    house.pass_on(path, *(f"X-Forwarded-For: {claim}" for claim in claims), listener="trusting")
    entry = house.daemon.access(lambda item: item["path"] == path)
    assert entry["client_ip"] == client
    assert entry["peer_ip"] == "127.0.0.1"


def test_request_id_of_an_untrusted_peer_is_replaced(house: House) -> None:
    with house.connect() as client:
        response = client.ask(request("/id/untrusted", "X-Request-Id: mine"))
    seen = house.upstream.wait_request("/id/untrusted")
    assert seen.get("X-Request-Id") not in ("mine", None)
    assert response.get("X-Request-Id") == seen.get("X-Request-Id")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("mine-1._A", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("a b", False),
        ("a/b", False),
        ("a\xe9", False),
        ("", False),
    ],
)
def test_request_id_of_a_trusted_peer_is_kept_if_sane(house: House, sent: str, kept: bool) -> None:
    path = f"/id/{sent.encode().hex()[:40]}-{len(sent)}"
    with house.connect("trusting") as client:
        response = client.ask(request(path, f"X-Request-Id: {sent}"))
    seen = house.upstream.wait_request(path)
    assert (seen.get("X-Request-Id") == sent) is kept
    assert response.get("X-Request-Id") == seen.get("X-Request-Id")


def test_request_ids_differ(house: House) -> None:
    ids = [house.pass_on(f"/ids/{number}").get("X-Request-Id") for number in range(20)]
    assert len(set(ids)) == 20


def test_an_upstreams_request_id_does_not_double(house: House) -> None:
    response = relay(house, "/response/id", "X-Request-Id: theirs")
    assert len(response.all("X-Request-Id")) == 1
    seen = house.upstream.wait_request("/response/id")
    assert response.get("X-Request-Id") == seen.get("X-Request-Id")


# Via.


def test_via_both_ways_has_one_id(house: House) -> None:
    with house.connect() as client:
        response = client.ask(request("/via"))
    seen = house.upstream.wait_request("/via")
    assert VIA.fullmatch(str(seen.get("Via")))
    assert response.get("Via") == seen.get("Via")


def test_via_of_others_is_kept_and_appended_to(house: House) -> None:
    seen = house.pass_on("/via/others", "Via: 1.0 other, 1.1 gatewayd-00000000")
    items = [item.strip() for item in ",".join(seen.all("Via")).split(",")]
    assert items[:2] == ["1.0 other", "1.1 gatewayd-00000000"]
    assert VIA.fullmatch(items[2]) and len(items) == 3


def test_via_of_the_upstream_is_kept(house: House) -> None:
    response = relay(house, "/response/via", "Via: 1.1 inner")
    items = [item.strip() for item in ",".join(response.all("Via")).split(",")]
    assert items[0] == "1.1 inner"
    assert VIA.fullmatch(items[1]) and len(items) == 2


@pytest.mark.parametrize("form", ["{}", "1.1 a, {}", "{}, 1.1 b", "{} (comment)"])
def test_the_own_via_is_a_loop(house: House, form: str) -> None:
    own = str(house.pass_on("/via/own").get("Via"))
    path = f"/loop/{form.encode().hex()}"
    with house.connect() as client:
        response = client.ask(request(path, "Via: " + form.format(own)))
    assert response.status == 508
    assert house.upstream.find(path) == []
    assert house.daemon.access(lambda item: item["path"] == path)["reason"] == "loop"


def test_the_own_via_in_another_case_is_a_loop(house: House) -> None:
    """Pseudonyms are compared as hosts are."""
    own = str(house.pass_on("/via/case").get("Via")).split("-", 1)
    with house.connect() as client:
        response = client.ask(request("/loop/case", f"Via: {own[0].upper()}-{own[1]}"))
    assert response.status in (200, 508)


# IPv6.


def test_ipv6_client(house: House) -> None:
    seen = house.pass_on("/six", "Host: [::1]:81", listener="six")
    assert seen.get("X-Forwarded-For") == "::1"
    assert seen.get("Host") == "[::1]:81"
    assert seen.get("X-Forwarded-Host") == "[::1]:81"
    assert house.daemon.access(lambda item: item["path"] == "/six")["client_ip"] == "::1"


# The PROXY protocol.

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(source: str, destination: str, ports: tuple[int, int], *, tail: bytes = b"") -> bytes:
    """A PROXY v2 header for TCP over IPv4 or IPv6."""
    ends = [ipaddress.ip_address(source), ipaddress.ip_address(destination)]
    family = 0x11 if ends[0].version == 4 else 0x21
    body = b"".join(end.packed for end in ends) + struct.pack("!HH", *ports) + tail
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(body)) + body


LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
PROXIED = {
    "v1 of IPv4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80\r\n", "203.0.113.7"),
    "v1 of IPv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 80\r\n", "2001:db8::7"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
    "v2 of IPv4": (v2("203.0.113.7", "192.0.2.1", (5000, 80)), "203.0.113.7"),
    "v2 of IPv6": (v2("2001:db8::7", "2001:db8::1", (5000, 80)), "2001:db8::7"),
    "v2 with TLVs": (
        v2("203.0.113.7", "192.0.2.1", (1, 2), tail=b"\x04\x00\x03abc"),
        "203.0.113.7",
    ),
    "v2 local": (LOCAL, "127.0.0.1"),
    "v2 local with rest": (SIGNATURE + b"\x20\x00\x00\x03abc", "127.0.0.1"),
    "v2 of an unspecified family": (SIGNATURE + b"\x21\x00\x00\x00", "127.0.0.1"),
}
NOT_PROXIED = {
    "nothing": b"",
    "v1 without CRLF": b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80\n",
    "v1 in lower case": b"proxy TCP4 203.0.113.7 192.0.2.1 5000 80\r\n",
    "v1 of an unknown family": b"PROXY TCP5 203.0.113.7 192.0.2.1 5000 80\r\n",
    "v1 with a bad address": b"PROXY TCP4 203.0.113.777 192.0.2.1 5000 80\r\n",
    "v1 with the other family": b"PROXY TCP4 2001:db8::7 2001:db8::1 5000 80\r\n",
    "v1 with a bad port": b"PROXY TCP4 203.0.113.7 192.0.2.1 x 80\r\n",
    "v1 with a big port": b"PROXY TCP4 203.0.113.7 192.0.2.1 70000 80\r\n",
    "v1 with too few": b"PROXY TCP4 203.0.113.7 192.0.2.1 80\r\n",
    "v1 with too many": b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80 1\r\n",
    "v1 with two spaces": b"PROXY  TCP4 203.0.113.7 192.0.2.1 5000 80\r\n",
    "v1 too long": b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80" + b" " * 100 + b"\r\n",
    "v2 of version 1": SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,
    "v2 of an unknown command": SIGNATURE + b"\x2f\x11\x00\x0c" + b"\0" * 12,
    "v2 too short for its family": SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
    "v2 with a broken signature": SIGNATURE[:-1] + b"X\x21\x11\x00\x0c" + b"\0" * 12,
}


@pytest.mark.parametrize("name", PROXIED)
@pytest.mark.parametrize("piecewise", [False, True], ids=["whole", "bytewise"])
def test_proxy_protocol_says_who_the_client_is(house: House, name: str, piecewise: bool) -> None:
    header, address = PROXIED[name]
    path = f"/proxied/{name.replace(' ', '-')}/{piecewise}"
    with house.connect("proxied") as client:
        client.send_anyway(header, piecewise=piecewise)
        assert client.ask(request(path)).status == 200
        assert client.ask(request(path + "/again")).status == 200
    assert house.upstream.wait_request(path).get("X-Forwarded-For") == address
    assert house.upstream.wait_request(path + "/again").get("X-Forwarded-For") == address
    entry = house.daemon.access(lambda item: item["path"] == path)
    assert entry["client_ip"] == address


def test_proxy_header_in_one_segment_with_its_request(house: House) -> None:
    header, address = PROXIED["v2 of IPv4"]
    with house.connect("proxied") as client:
        assert client.ask(header + request("/proxied/one"), method="GET").status == 200
    assert house.upstream.wait_request("/proxied/one").get("X-Forwarded-For") == address


def test_proxy_source_is_the_peer_that_is_trusted(house: House) -> None:
    seen = house.pass_on(
        "/proxied/trusted",
        "X-Forwarded-For: 9.9.9.9",
        listener="proxied_trusting",
        before=b"PROXY TCP4 192.0.2.9 192.0.2.1 5000 80\r\n",
    )
    assert joined(seen) == ["9.9.9.9", "192.0.2.9"]


def test_proxy_source_that_is_not_trusted_is_not_believed(house: House) -> None:
    seen = house.pass_on(
        "/proxied/untrusted",
        "X-Forwarded-For: 9.9.9.9",
        listener="proxied_trusting",
        before=b"PROXY TCP4 203.0.113.9 192.0.2.1 5000 80\r\n",
    )
    assert joined(seen) == ["203.0.113.9"]


@pytest.mark.parametrize("name", NOT_PROXIED)
def test_proxy_protocol_is_required_where_told(house: House, name: str) -> None:
    """Never guessed: without it 400 and the end."""
    path = f"/unproxied/{name.replace(' ', '-')}"
    with house.connect("proxied") as client:
        client.send_anyway(NOT_PROXIED[name] + request(path))
        response = client.read_response()
        assert response.status == 400
        client.expect_end()
    assert house.upstream.find(path) == []


def test_proxy_protocol_from_some(house: House) -> None:
    """Required from the named peers, not understood from others."""
    line = b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 80\r\n"
    assert (
        house.pass_on("/from", listener="proxied_from", before=line).get("X-Forwarded-For")
        == "203.0.113.7"
    )
    for listener, before in [("proxied_from", b""), ("proxied_from_elsewhere", line)]:
        with house.connect(listener) as client:
            client.send_anyway(before + request("/from/refused"))
            assert client.read_response().status == 400
    assert (
        house.pass_on("/from/plain", listener="proxied_from_elsewhere").get("X-Forwarded-For")
        == "127.0.0.1"
    )
    assert house.upstream.find("/from/refused") == []


# Other keys.


def test_via_none_and_response_only(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream()
    daemon = start_daemon(
        configuration(
            {
                "none": {"endpoints": [upstream.endpoint], "via": "none"},
                "response": {"endpoints": [upstream.endpoint], "via": "response"},
            },
            routes=[
                {"name": name, "match": {"path_prefix": f"/{name}"}, "upstream": name}
                for name in ("none", "response")
            ],
        )
    )
    none, response = daemon.get("/none"), daemon.get("/response")
    assert none.all("Via") == [] and len(response.all("Via")) == 1
    assert upstream.wait_request("/none").all("Via") == []
    assert upstream.wait_request("/response").all("Via") == []


def test_unix_listener_and_unix_peers_may_be_trusted(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: pytest.TempPathFactory
) -> None:
    upstream = start_upstream()
    document = configuration({"u": [upstream.endpoint]})
    path = f"{tmp_path}/web.sock"
    document["listeners"]["local"] = {"address": f"unix:{path}", "trusted_proxies": ["unix"]}
    start_daemon(document)
    upstream.default = answer()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(request("/unix", "X-Forwarded-For: 9.9.9.9", "Connection: close"))
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert data.startswith(b"HTTP/1.1 200 ")
    assert joined(upstream.wait_request("/unix"))[0] == "9.9.9.9"
