"""core.proxy_protocol: versions 1 and 2 are read exactly, whatever pieces they come in."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest
from gatewayd.core.proxy_protocol import Proxied, read_proxy_header

quick = settings(deadline=None, database=None, max_examples=150)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")  # proxy-protocol.txt, 2.2


def v2(command: int, family: int, block: bytes) -> bytes:
    """A version 2 header."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def addresses(source: bytes, target: bytes, ports: tuple[int, int] = (1111, 443)) -> bytes:
    """Its address block."""
    return source + target + struct.pack("!HH", *ports)


IPV4 = addresses(IPv4Address("192.0.2.1").packed, IPv4Address("10.0.0.1").packed)
IPV6 = addresses(IPv6Address("2001:db8::1").packed, IPv6Address("::1").packed)
MAPPED = addresses(IPv6Address("::ffff:192.0.2.1").packed, IPv6Address("::1").packed)
TLV = b"\x04\x00\x02hi"

# What comes at the beginning -> source, the port that the client connected to
HEADERS = [
    (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", "192.0.2.1", 443),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255", 65535),
    (b"PROXY TCP6 2001:DB8::1 ::1 56324 443\r\n", "2001:db8::1", 443),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 1 2\r\n", "192.0.2.1", 2),
    (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        None,
        65535,
    ),
    (b"PROXY UNKNOWN\r\n", "", 0),
    (b"PROXY UNKNOWN " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", "", 0),
    (b"PROXY UNKNOWN what ever\r\n", "", 0),
    (v2(0x21, 0x11, IPV4), "192.0.2.1", 443),
    (v2(0x21, 0x11, IPV4 + TLV), "192.0.2.1", 443),
    (v2(0x21, 0x21, IPV6), "2001:db8::1", 443),
    (v2(0x21, 0x21, MAPPED + TLV), "192.0.2.1", 443),
    (v2(0x21, 0x00, b""), "", 0),
    (v2(0x21, 0x00, TLV), "", 0),
    (v2(0x21, 0x12, IPV4), "", 0),  # UDP: no client of ours
    (v2(0x21, 0x31, bytes(216)), "", 0),  # a Unix socket
    (v2(0x20, 0x00, b""), "", 0),  # LOCAL: the proxy's own check
    (v2(0x20, 0x11, IPV4), "", 0),
    (v2(0x21, 0x11, IPV4 + bytes(4084)), "192.0.2.1", 443),
]
REFUSED = [
    b"GET / HTTP/1.1\r\n",
    b"X",
    b"PROXX",
    b"PROXY\r\n",
    b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1  2\r\n",
    b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n",
    b"PROXY TCP4 host 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.\xb2 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP6 ::1 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 a 2\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n" + b"x" * 90,
    SIGNATURE[:11] + b"X",
    SIGNATURE + b"\x11\x11\x00\x00",
    SIGNATURE + b"\x31\x11\x00\x00",
    SIGNATURE + b"\x22\x11\x00\x00",
    v2(0x21, 0x11, IPV4[:-1]),
    v2(0x21, 0x21, IPV6[:-1]),
    SIGNATURE + b"\x21\x11\x10\x01",
]


class ReadingTests(SynchronousTestCase):
    """Whole headers."""

    def test_headers(self) -> None:
        """What it says, and how many bytes it took; what follows is not touched."""
        for header, source, port in HEADERS:
            expected = Proxied(
                source if source is not None else "ffff:" * 7 + "ffff", port, len(header)
            )
            self.assertEqual(read_proxy_header(header), expected, header)
            self.assertEqual(read_proxy_header(header + b"GET / HTTP/1.1\r\n"), expected, header)

    def test_refused(self) -> None:
        """What is no PROXY header is a bad request: it is never guessed."""
        taken = []
        for data in REFUSED:
            try:
                taken.append((data, read_proxy_header(data)))
            except BadRequest:
                continue
        self.assertEqual(taken, [])

    def test_in_pieces(self) -> None:
        """Each beginning of a header is incomplete, never wrong."""
        for header, _, _ in HEADERS:
            early = [
                end for end in range(len(header)) if read_proxy_header(header[:end]) is not None
            ]
            self.assertEqual(early, [], header)

    @quick
    @given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
    def test_both_versions_agree(
        self, source: IPv4Address, target: IPv4Address, sent_from: int, port: int
    ) -> None:
        """The same facts in either version."""
        line = f"PROXY TCP4 {source} {target} {sent_from} {port}\r\n".encode()
        block = addresses(source.packed, target.packed, (sent_from, port))
        self.assertEqual(read_proxy_header(line), Proxied(str(source), port, len(line)))
        self.assertEqual(read_proxy_header(v2(0x21, 0x11, block)), Proxied(str(source), port, 28))

    @quick
    @given(st.binary(max_size=130))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes, it is refused or awaited, and nothing else is raised."""
        for begin in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x21"):
            try:
                found = read_proxy_header(begin + data)
            except BadRequest:
                continue
            if found is not None:
                self.assertLessEqual(found.used, len(begin + data))
