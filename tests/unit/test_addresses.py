"""core.addresses: what people may write, and who the client is behind trusted proxies."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import (
    Address,
    Networks,
    client_of,
    is_ip,
    parse_host_port,
    parse_listen,
    unmapped,
)

quick = settings(deadline=None, database=None, max_examples=100)

LONGEST_LABEL = "a" * 63
LONGEST_NAME = ".".join([LONGEST_LABEL] * 3 + ["a" * 61])  # 253 letters and dots

HOST_PORTS = [
    ("127.0.0.1:2003", Address("tcp", "127.0.0.1", 2003)),
    ("[::1]:80", Address("tcp", "::1", 80)),
    ("[2001:DB8:0:0::1]:65535", Address("tcp", "2001:db8::1", 65535)),
    ("Users.Example.COM:8080", Address("tcp", "users.example.com", 8080)),
    ("my_host-1.internal.:1", Address("tcp", "my_host-1.internal.", 1)),
    ("a:1", Address("tcp", "a", 1)),
    ("1a.2b:1", Address("tcp", "1a.2b", 1)),
    (f"{LONGEST_LABEL}.com:1", Address("tcp", f"{LONGEST_LABEL}.com", 1)),
    (f"{LONGEST_NAME}:1", Address("tcp", LONGEST_NAME, 1)),
]
NO_HOST_PORTS = [
    "",
    "localhost",
    ":80",
    "host:",
    "host:0",
    "host:65536",
    "host:000080",
    "host:+80",
    "host:-1",
    "host: 80",
    "host:8O",
    "host:٨٠",
    "::1:80",
    "fe80::1",
    "[::1]",
    "[::1:80",
    "[]:80",
    "[127.0.0.1]:80",
    "[host]:80",
    "256.0.0.1:80",
    "1.2.3:80",
    "1.2.3.4.5:80",
    "-a:80",
    "a-:80",
    "a..b:80",
    ".a:80",
    "a b:80",
    "a/b:80",
    "hôst:80",
    f"{LONGEST_LABEL}a:80",
    f"{LONGEST_NAME}a:80",
    "a\n:80",
]
LISTENS = [
    ("0.0.0.0:2000", Address("tcp", "0.0.0.0", 2000)),
    ("127.0.0.1:0", Address("tcp", "127.0.0.1", 0)),
    ("[::1]:0", Address("tcp", "::1", 0)),
    ("unix:/run/gatewayd/web.sock", Address("unix", "/run/gatewayd/web.sock")),
    ("unix:/" + "é" * 53, Address("unix", "/" + "é" * 53)),
    ("fd:web", Address("fd", "web")),
]
NO_LISTENS = [
    "unix:",
    "unix:web.sock",
    "unix:/" + "a" * 107,
    "unix:/" + "é" * 54,
    "fd:",
    ":0",
    "no host:0",
    "web",
]


def told(text: str, read: object) -> str:
    """What a person is told who wrote that; empty if it is taken."""
    try:
        read(text)  # type: ignore[operator]
    except ValueError as error:
        return str(error)
    return ""


class ParsingTests(SynchronousTestCase):
    """host:port and what a listener may be given."""

    def test_host_ports(self) -> None:
        """Names in lower case, literals in their one form."""
        self.assertEqual([(text, parse_host_port(text)) for text, _ in HOST_PORTS], HOST_PORTS)

    def test_no_host_ports(self) -> None:
        """Each error quotes what was written."""
        errors = {text: told(text, parse_host_port) for text in NO_HOST_PORTS}
        self.assertEqual([text for text, error in errors.items() if repr(text) not in error], [])

    def test_hostile_name(self) -> None:
        """A long name with a bad end is refused at once: a ZooKeeper node may say anything."""
        for text in ("a" * 240 + "!:80", "a-" * 120 + "!:80", "a." * 120 + "!:80"):
            self.assertIn("neither an address nor a host name", told(text, parse_host_port))

    def test_advice(self) -> None:
        """Who forgot the brackets is shown where they go."""
        self.assertIn("[fe80::1]:80", told("fe80::1:80", parse_host_port))

    def test_listens(self) -> None:
        """host:port as well as sockets by path and by systemd's name; port 0 lets the kernel choose."""
        self.assertEqual([(text, parse_listen(text)) for text, _ in LISTENS], LISTENS)
        errors = {text: told(text, parse_listen) for text in NO_LISTENS}
        self.assertEqual([text for text, error in errors.items() if repr(text) not in error], [])

    @quick
    @given(
        st.one_of(st.ip_addresses().map(str), st.sampled_from(["localhost", "a.example.com"])),
        st.integers(1, 65535),
    )
    def test_round_trip(self, host: str, port: int) -> None:
        """What is shown can be read again."""
        address = Address("tcp", host, port)
        self.assertEqual(parse_host_port(str(address)), address)

    def test_shown(self) -> None:
        """Sockets are shown as they are written."""
        texts = ["unix:/run/a.sock", "fd:web", "[::1]:80", "127.0.0.1:80"]
        self.assertEqual([str(parse_listen(text)) for text in texts], texts)

    def test_loopback(self) -> None:
        """Who may reach an admin address without a token."""
        expected = {
            "127.0.0.1:1": True,
            "127.9.9.9:1": True,
            "[::1]:1": True,
            "localhost:1": True,
            "unix:/a": True,
            "fd:admin": True,
            "0.0.0.0:1": False,
            "[::]:1": False,
            "10.0.0.1:1": False,
            "localhost.example.com:1": False,
        }
        self.assertEqual({text: parse_listen(text).is_loopback for text in expected}, expected)

    def test_is_ip(self) -> None:
        """Literals without brackets, and nothing else."""
        expected = {
            "1.2.3.4": True,
            "::1": True,
            "[::1]": False,
            "a": False,
            "": False,
            "1.2": False,
        }
        self.assertEqual({text: is_ip(text) for text in expected}, expected)


class UnmappedTests(SynchronousTestCase):
    """The one form of an address in X-Forwarded-For."""

    def test_forms(self) -> None:
        """Ports, brackets, zones and blanks go; mapped IPv4 counts as IPv4."""
        expected = {
            "1.2.3.4": "1.2.3.4",
            " 1.2.3.4\t": "1.2.3.4",
            "1.2.3.4:5678": "1.2.3.4",
            "2001:DB8::1": "2001:db8::1",
            "[2001:db8::1]": "2001:db8::1",
            "[2001:db8::1]:443": "2001:db8::1",
            "fe80::1%eth0": "fe80::1",
            "::ffff:1.2.3.4": "1.2.3.4",
            "[::FFFF:102:304]:80": "1.2.3.4",
            "": "",
            "unknown": "",
            "unix": "",
            "_hidden": "",
            "1.2.3": "",
            "1.2.3.4, 5.6.7.8": "",
            "example.com:80": "",
        }
        self.assertEqual({text: unmapped(text) for text in expected}, expected)


class NetworksTests(SynchronousTestCase):
    """A set of CIDRs."""

    def test_membership(self) -> None:
        """Networks, single addresses, both families and `unix`."""
        networks = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "unix"])
        expected = {
            "10.255.0.1": True,
            "11.0.0.1": False,
            "192.0.2.7": True,
            "192.0.2.8": False,
            "2001:db8:1::1": True,
            "2001:db9::1": False,
            "::ffff:10.0.0.1": True,
            "::ffff:11.0.0.1": False,
            "unix": True,
            "no address": False,
            "": False,
        }
        self.assertEqual({text: text in networks for text in expected}, expected)
        self.assertEqual({text: text in networks for text in expected}, expected, "remembered")

    def test_no_unix(self) -> None:
        """A Unix socket's peer is in no network unless it is named."""
        self.assertEqual(
            [("unix" in Networks(["0.0.0.0/0", "::/0"])), "unix" in Networks()], [False] * 2
        )

    def test_mapped_network(self) -> None:
        """A network written in mapped form is the IPv4 one."""
        networks = Networks(["::ffff:10.0.0.0/104", "::/64"])
        given_ = ["10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1", "::5", "0.0.0.5"]
        self.assertEqual([text in networks for text in given_], [True, True, False, True, False])

    def test_truth(self) -> None:
        """Empty is false, so that a listener without trusted proxies asks nothing."""
        self.assertEqual(
            [bool(Networks()), bool(Networks(["unix"])), bool(Networks(["::/0"]))], [0, 1, 1]
        )

    def test_host_bits(self) -> None:
        """10.1.2.3/8 is taken for the network it lies in; what is no network is refused."""
        self.assertIn("10.9.9.9", Networks(["10.1.2.3/8"]))
        for text in ("10.0.0.0/33", "example.com", "", "unix:/a"):
            self.assertRaises(ValueError, Networks, [text])

    def test_memo(self) -> None:
        """What strangers make it remember is bounded, and the answers stay right."""
        networks = Networks(["10.0.0.0/20"])
        asked = [str(IPv4Address(0x0A000000 + number)) for number in range(20_000)]
        answers, most = [], 0
        for address in asked:
            answers.append(address in networks)
            most = max(most, len(networks._memo))
        self.assertEqual(answers, [True] * 4096 + [False] * (20_000 - 4096))
        self.assertEqual(most, 16_384)

    @quick
    @given(st.ip_addresses(), st.integers(0, 32))
    def test_as_ipaddress_says(self, address: IPv4Address | IPv6Address, length: int) -> None:
        """It agrees with the standard library."""
        network = ip_network(f"10.20.30.40/{length}", strict=False)
        mapped = getattr(address, "ipv4_mapped", None) or address
        self.assertEqual(str(address) in Networks([str(network)]), mapped in network)


# peer, X-Forwarded-For -> client, where 10.0.0.0/8, 2001:db8::/32 and unix are trusted
CLIENTS = [
    ("192.0.2.1", "", "192.0.2.1"),
    ("192.0.2.1", "1.1.1.1", "192.0.2.1"),
    ("10.0.0.1", "", "10.0.0.1"),
    ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
    ("10.0.0.1", "2.2.2.2, 1.1.1.1", "1.1.1.1"),
    ("10.0.0.1", "2.2.2.2,1.1.1.1 , 10.0.0.2", "1.1.1.1"),
    ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ("10.0.0.1", "1.1.1.1, garbage, 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", "1.1.1.1, garbage", "10.0.0.1"),
    ("10.0.0.1", "1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", "1.1.1.1, , 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", "1.1.1.1:1234", "1.1.1.1"),
    ("10.0.0.1", "1.1.1.1, 10.0.0.2:99", "1.1.1.1"),
    ("10.0.0.1", "[2001:db9::1]:80, [2001:db8::1]:80", "2001:db9::1"),
    ("10.0.0.1", "::ffff:1.1.1.1, ::ffff:10.0.0.2", "1.1.1.1"),
    ("::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1"),
    ("::ffff:10.0.0.1", "", "10.0.0.1"),
    ("2001:db8::9", "1.1.1.1", "1.1.1.1"),
    ("unix", "1.1.1.1", "1.1.1.1"),
    ("unix", "", "unix"),
    ("unix", "1.1.1.1, unix", "unix"),
]


class ClientTests(SynchronousTestCase):
    """Who the client is (decisions.md, The client's address)."""

    def test_clients(self) -> None:
        """Leftwards while trusted; the first untrusted, unreadable or leftmost one ends it."""
        trusted = Networks(["10.0.0.0/8", "2001:db8::/32", "unix"])
        found = [(peer, said, client_of(peer, said, trusted)) for peer, said, _ in CLIENTS]
        self.assertEqual(found, CLIENTS)

    def test_nobody_trusted(self) -> None:
        """Without trusted proxies the peer is the client, whatever it says."""
        self.assertEqual(
            [client_of(peer, "1.1.1.1", Networks()) for peer, _, _ in CLIENTS[:3]],
            ["192.0.2.1", "192.0.2.1", "10.0.0.1"],
        )

    @quick
    @given(
        st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "1.1.1.1", "2.2.2.2", "?"]), max_size=8)
    )
    def test_rightmost_untrusted(self, hops: list[str]) -> None:
        """A spoofed left end never counts: as a plain reading of the rule says."""
        trusted = Networks(["10.0.0.0/8"])
        expected = "10.9.9.9"
        for hop in reversed(hops):
            if hop == "?":
                break
            expected = hop
            if ip_address(hop) not in ip_network("10.0.0.0/8"):
                break
        self.assertEqual(client_of("10.9.9.9", ", ".join(hops), trusted), expected)
