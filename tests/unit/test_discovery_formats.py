"""discovery.formats: what publishers write, as they write it; whatever else stands there is skipped."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.endpoints import MAX_WEIGHT
from gatewayd.discovery.formats import FORMATS, MAX_DATA, Unreadable, read_member, reads_data

quick = settings(deadline=None, database=None, max_examples=300)

SERVERSET = {
    "serviceEndpoint": {"host": "h", "port": 31943},
    "additionalEndpoints": {"http": {"host": "h", "port": 31944}},
    "status": "ALIVE",
    "shard": 0,
}
NERVE = {"host": "h", "port": 1234, "name": "i-1", "weight": 10, "labels": {}}
CURATOR = {
    "name": "test",
    "id": "ca2f",
    "address": "10.20.30.40",
    "port": 1234,
    "sslPort": None,
    "payload": {},
    "registrationTimeUTC": 1325129459728,
    "serviceType": "DYNAMIC",
    "uriSpec": {},
}
DUBBO = (
    "rest://127.0.0.1:20000/com.foo.Bar?anyhost=true&application=demo&dubbo=2.0.2"
    "&interface=com.foo.Bar&methods=hello&pid=7&side=provider&timestamp=1500000000000"
)
NESTED = b'{"host":' + b"[" * 30_000 + b"]" * 30_000 + b"}"


def read(form: str, data: Any, name: str = "n", endpoint: str = "") -> tuple[str, int]:
    """What a node says, as text and weight."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    address, weight = read_member(form, name, raw, endpoint)
    return str(address), weight


def changed(member: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A node's data with some keys changed."""
    return {**member, **changes}


class FormatsTestCase(SynchronousTestCase):
    """Reads tables of nodes."""

    def check(self, form: str, table: list[tuple[Any, Any]], **options: str) -> None:
        """Each node is read as the table says: (address, weight), or a part of the reason."""
        for data, expected in table:
            if isinstance(expected, tuple):
                self.assertEqual(expected, read(form, data, **options), data)
                continue
            error = self.assertRaises(Unreadable, read, form, data, **options)
            self.assertIn(expected, str(error))
            self.assertLess(len(str(error)), 400)


class Plain(FormatsTestCase):
    """An address, maybe with a weight, in the data or the name."""

    def test_data(self) -> None:
        """As people and scripts write it."""
        self.check(
            "plain",
            [
                (b"10.0.0.1:8080", ("10.0.0.1:8080", 1)),
                (b"10.0.0.1:8080 weight=3", ("10.0.0.1:8080", 3)),
                (b" 10.0.0.1:8080\tweight=0\n", ("10.0.0.1:8080", 0)),
                (b"10.0.0.1:8080 weight=257", ("10.0.0.1:8080", MAX_WEIGHT)),
                (b"App-1.Example.:80", ("app-1.example.:80", 1)),
                (b"[FD00::0:1]:80", ("[fd00::1]:80", 1)),
                (b"10.0.0.1", "has no port"),
                (b"10.0.0.1:0", "the port must be 1 to 65535"),
                (b"10.0.0.1:-5", "the port must be 1 to 65535"),
                (b"10.0.0.1:65536", "the port must be 1 to 65535"),
                (b"fd00::1:80", "in brackets"),
                (b"10.0.0.999:80", "neither an address nor a host name"),
                (b"a b:80", "'b:80' is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=", "'weight=' is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=-1", "is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=1.5", "is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=NaN", "is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=1 zone=a", "'zone=a' is no weight=NUMBER"),
                (b"10.0.0.1:80 weight=9999999999", "weight 9999999999 is no number from 0"),
                (b"10.0.0.1:80 weight=" + b"9" * 5000, "no plain member"),
                (b'{"host": "h", "port": 1}', "is no weight=NUMBER"),
                (b"\xff\xfe\x00", "no plain member: 'utf-8'"),
            ],
        )

    def test_name(self) -> None:
        """Where there is no data, or none to see."""
        for data in (b"", b" \n"):
            self.assertEqual(("10.0.0.1:80", 1), read("plain", data, "10.0.0.1:80"))
        self.assertEqual(("10.0.0.2:80", 1), read("plain", b"10.0.0.2:80", "10.0.0.1:80"))
        self.assertRaises(Unreadable, read, "plain", b"", "member_0000000001")
        self.assertRaises(Unreadable, read, "plain", b"", "")


class Serverset(FormatsTestCase):
    """Finagle's and Aurora's."""

    def test_service_endpoint(self) -> None:
        """Only ALIVE serves, and who does not is a member that takes nothing."""
        self.check(
            "serverset",
            [
                (SERVERSET, ("h:31943", 1)),
                (changed(SERVERSET, status="DEAD"), ("h:31943", 0)),
                (changed(SERVERSET, status="STARTING"), ("h:31943", 0)),
                (changed(SERVERSET, status=1), ("h:31943", 0)),
                ({"serviceEndpoint": SERVERSET["serviceEndpoint"]}, ("h:31943", 0)),
                ({"status": "ALIVE"}, "'serviceEndpoint' is missing"),
                (changed(SERVERSET, serviceEndpoint={"host": "h"}), "'port' is missing"),
                (changed(SERVERSET, serviceEndpoint=[]), "no serverset member"),
                (changed(SERVERSET, serviceEndpoint="h:1"), "no serverset member"),
                (changed(SERVERSET, serviceEndpoint=None), "no serverset member"),
            ],
        )

    def test_additional_endpoint(self) -> None:
        """By its name; a member without it is none."""
        self.check(
            "serverset",
            [
                (SERVERSET, ("h:31944", 1)),
                (changed(SERVERSET, additionalEndpoints={}), "'http' is missing"),
                (changed(SERVERSET, additionalEndpoints=None), "no serverset member"),
                (changed(SERVERSET, additionalEndpoints={"http": 1}), "no serverset member"),
            ],
            endpoint="http",
        )


class Nerve(FormatsTestCase):
    """SmartStack's."""

    def test_table(self) -> None:
        """Weights are numbers from 0 upwards, of at most 256."""
        self.check(
            "nerve",
            [
                (NERVE, ("h:1234", 10)),
                ({"host": "10.0.0.1", "port": 1234}, ("10.0.0.1:1234", 1)),
                (changed(NERVE, weight=None), ("h:1234", 1)),
                (changed(NERVE, weight=0), ("h:1234", 0)),
                (changed(NERVE, weight=0.0), ("h:1234", 0)),
                (changed(NERVE, weight=0.2), ("h:1234", 1)),
                (changed(NERVE, weight=2.6), ("h:1234", 3)),
                (changed(NERVE, weight=100_000), ("h:1234", 256)),
                (changed(NERVE, weight=-1), "weight -1 is no number from 0 upwards"),
                (changed(NERVE, weight="10"), "weight '10' is no number"),
                (changed(NERVE, weight=True), "weight True is no number"),
                (changed(NERVE, weight=float("nan")), "weight nan is no number"),
                (changed(NERVE, weight=float("inf")), "weight inf is no number"),
                (changed(NERVE, weight=[1]), "weight [1] is no number"),
                (changed(NERVE, weight=10**4000), "weight 1000"),
                (changed(NERVE, host="fd00::1"), ("[fd00::1]:1234", 10)),
                (changed(NERVE, host=""), "no port"),
                (changed(NERVE, host=None), "host None and port 1234 are no text and number"),
                (changed(NERVE, host=["h"]), "are no text and number"),
                (changed(NERVE, host="a/../b"), "neither an address nor a host name"),
                (changed(NERVE, host="\ud800"), "neither an address nor a host name"),
                (changed(NERVE, host="h" * 60_000), "no nerve member: 'hhhh"),
                (changed(NERVE, port="1234"), "are no text and number"),
                (changed(NERVE, port=True), "are no text and number"),
                (changed(NERVE, port=12.0), "are no text and number"),
                (changed(NERVE, port=None), "are no text and number"),
                (changed(NERVE, port=-1), "the port must be 1 to 65535"),
                (changed(NERVE, port=0), "the port must be 1 to 65535"),
                (changed(NERVE, port=70_000), "the port must be 1 to 65535"),
                (changed(NERVE, port=10**4000), "no nerve member: 'h:1000"),
                ({}, "'host' is missing"),
            ],
        )


class Curator(FormatsTestCase):
    """Apache Curator's service discovery."""

    def test_table(self) -> None:
        """Its port, never sslPort; disabled is believed."""
        self.check(
            "curator",
            [
                (CURATOR, ("10.20.30.40:1234", 1)),
                (changed(CURATOR, enabled=True), ("10.20.30.40:1234", 1)),
                (changed(CURATOR, enabled=False), ("10.20.30.40:1234", 0)),
                (changed(CURATOR, port=None, sslPort=443), "are no text and number"),
                ({"name": "test"}, "'address' is missing"),
            ],
        )


class Dubbo(FormatsTestCase):
    """Apache Dubbo's: a URL, escaped, is the node's name."""

    def check_urls(self, table: list[tuple[str, Any]]) -> None:
        """As `check`, of names."""
        for url, expected in table:
            self.check("dubbo", [(b"", expected)], name=quote(url, safe=""))

    def test_table(self) -> None:
        """HTTP-family schemes; weight and enabled are honoured."""
        self.check_urls(
            [
                (DUBBO, ("127.0.0.1:20000", 100)),
                (DUBBO + "&weight=7&enabled=true", ("127.0.0.1:20000", 7)),
                (DUBBO + "&weight=0", ("127.0.0.1:20000", 0)),
                (DUBBO + "&enabled=false", ("127.0.0.1:20000", 0)),
                (DUBBO + "&weight=7&enabled=FALSE", ("127.0.0.1:20000", 0)),
                ("http://h:80/com.foo.Bar", ("h:80", 100)),
                ("hessian://h:80/com.foo.Bar", ("h:80", 100)),
                ("webservice://h:80/com.foo.Bar", ("h:80", 100)),
                ("rest://user:secret@[fd00::1]:80/x", ("[fd00::1]:80", 100)),
                ("rest://h/x", "host 'h' and port None are no text and number"),
                ("rest://h:0/x", "the port must be 1 to 65535"),
                ("rest://h:99999/x", "no dubbo member"),
                ("rest://h:-1/x", "no dubbo member"),
                ("rest://[fd00::1:80/x", "no dubbo member"),
                ("rest:///x", "host None"),
                ("http://h:80/x?weight=many", "no dubbo member"),
                ("http://h:80/x?weight=-3", "weight -3 is no number from 0 upwards"),
                ("dubbo://127.0.0.1:20000/com.foo.Bar?a=b", "scheme 'dubbo' is none of http"),
                ("tri://127.0.0.1:20000/com.foo.Bar", "scheme 'tri' is none of"),
                ("", "scheme ''"),
            ]
        )

    def test_the_documented_one(self) -> None:
        """Dubbo's own protocol is none that we speak: skipped by name."""
        name = "dubbo%3A%2F%2F127.0.0.1%3A20000%2Fcom.foo.Bar%3Fanyhost%3Dtrue"
        error = self.assertRaises(Unreadable, read, "dubbo", b"", name)
        self.assertIn("the scheme 'dubbo' is none of http, rest", str(error))

    def test_data_is_not_read(self) -> None:
        """Names tell all: there is nothing to fetch."""
        self.assertEqual(["dubbo"], [form for form in FORMATS if not reads_data(form)])


class BadNodes(FormatsTestCase):
    """What stands in nodes that nobody meant for us."""

    def test_of_every_json_format(self) -> None:
        """Rubbish has a reason, whichever it is."""
        for form in ("serverset", "nerve", "curator"):
            self.check(
                form,
                [
                    (b"", "Expecting value"),
                    (b"rubbish", "Expecting value"),
                    (b"\x00\xff" * 50, "'utf-8' codec"),
                    (b"{", "Expecting property name"),
                    (b"null", "the data is no JSON object"),
                    (b"[]", "the data is no JSON object"),
                    (b"7", "the data is no JSON object"),
                    (b'"10.0.0.1:80"', "the data is no JSON object"),
                    (b"NaN", "the data is no JSON object"),
                    (b'{"host": 1e999}', "is missing"),
                    (NESTED, f"no {form} member"),
                    (b'{"port": ' + b"1" * 5000 + b"}", f"no {form} member"),
                ],
            )

    def test_too_much(self) -> None:
        """1 MiB is refused before it is looked at, in every format; 64 KiB is enough for anybody."""
        for form in FORMATS:
            error = self.assertRaises(Unreadable, read, form, b" " * (1 << 20))
            self.assertEqual(f"1048576 bytes of data, over {MAX_DATA}", str(error))
        padded = b"10.0.0.1:80".ljust(MAX_DATA)
        self.assertEqual(("10.0.0.1:80", 1), read("plain", padded))
        self.assertRaises(Unreadable, read, "plain", padded + b" ")


KEYS = st.sampled_from(
    [
        "host",
        "port",
        "weight",
        "address",
        "enabled",
        "status",
        "serviceEndpoint",
        "http",
        "additionalEndpoints",
        "x",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)
urls = st.builds(
    "{}://{}:{}/{}?{}".format,
    st.sampled_from(["http", "rest", "dubbo", ""]),
    st.text(max_size=20),
    st.integers() | st.text(max_size=5),
    st.text(max_size=9),
    st.text(max_size=20) | st.sampled_from(["weight=1", "enabled=false", "weight=nan"]),
)


class Properties(SynchronousTestCase):
    """Nothing that a node says raises anything else, and no member is out of range."""

    def check(self, form: str, name: str, data: bytes, endpoint: str) -> None:
        """One node: a member, or Unreadable with a short reason."""
        try:
            address, weight = read_member(form, name, data, endpoint)
        except Unreadable as error:
            self.assertTrue(0 < len(str(error)) <= 400, str(error))
            return
        self.assertTrue(0 <= weight <= MAX_WEIGHT and isinstance(weight, int), weight)
        self.assertTrue(0 < address.port < 65536 and address.host, address)
        self.assertEqual("tcp", address.kind)

    @quick
    @given(st.sampled_from(FORMATS), st.text(max_size=40), st.binary(max_size=200))
    def test_bytes(self, form: str, name: str, data: bytes) -> None:
        """Any bytes."""
        self.check(form, name, data, "")

    @quick
    @given(st.sampled_from(FORMATS), json_values, st.sampled_from(["", "http", "x"]))
    def test_json(self, form: str, value: Any, endpoint: str) -> None:
        """Any JSON, with the words of the formats in it."""
        self.check(form, "n", json.dumps(value).encode(), endpoint)

    @quick
    @given(urls, st.booleans())
    def test_urls(self, url: str, escaped: bool) -> None:
        """Any URL as a name."""
        self.check("dubbo", quote(url, safe="") if escaped else url, b"", "")

    @quick
    @given(st.text(max_size=30), st.integers(), st.integers())
    def test_plain(self, host: str, port: int, weight: int) -> None:
        """Any host, port and weight."""
        self.check("plain", "n", f"{host}:{port} weight={weight}".encode(), "")
