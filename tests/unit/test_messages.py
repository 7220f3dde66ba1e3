"""core.messages: which fields stop here, which go on, and how a route edits them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core import messages as m
from gatewayd.core.messages import Edits, Head, request_kind, response_kind, without_named
from tests.heads import ended

quick = settings(deadline=None, database=None, max_examples=100)

REQUEST = {
    b"host": m.HOST,
    b"user-agent": m.USER_AGENT,
    b"referer": m.REFERER,
    b"via": m.VIA,
    b"content-length": m.CONTENT_LENGTH,
    b"transfer-encoding": m.TRANSFER_ENCODING,
    b"connection": m.CONNECTION,
    b"te": m.TE,
    b"upgrade": m.UPGRADE,
    b"expect": m.EXPECT,
    b"x-request-id": m.REQUEST_ID,
    b"x-forwarded-for": m.FORWARDED,
    b"x-forwarded-proto": m.FORWARDED,
    b"x-forwarded-anything": m.FORWARDED,
    b"x-real-ip": m.FORWARDED,
    b"forwarded": m.FORWARDED,
    b"keep-alive": m.DROP,
    b"proxy-connection": m.DROP,
    b"proxy-authenticate": m.DROP,
    b"proxy-authorization": m.DROP,
    b"proxy": m.DROP,
    b"http2-settings": m.DROP,
    b"accept": m.KEEP,
    b"cookie": m.KEEP,
    b"authorization": m.KEEP,
    b"date": m.KEEP,
    b"trailer": m.KEEP,
    b"x-forwarded": m.KEEP,
}
# Many servers read an underscore as a hyphen: what matters may not come in by that door.
UNDERSCORED = {
    b"content_length": m.DROP,
    b"transfer_encoding": m.DROP,
    b"x_forwarded_for": m.DROP,
    b"x-forwarded_proto": m.DROP,
    b"x_real_ip": m.DROP,
    b"x_request_id": m.DROP,
    b"proxy_connection": m.DROP,
    b"x-forwarded-f_or": m.FORWARDED,
    b"my_field": m.KEEP,
    b"_": m.KEEP,
}
RESPONSE = {
    b"content-length": m.CONTENT_LENGTH,
    b"transfer-encoding": m.TRANSFER_ENCODING,
    b"connection": m.CONNECTION,
    b"upgrade": m.UPGRADE,
    b"via": m.VIA,
    b"date": m.DATE,
    b"keep-alive": m.KEEP_ALIVE,
    b"proxy-connection": m.DROP,
    b"proxy-authenticate": m.DROP,
    b"proxy-authorization": m.DROP,
    b"te": m.DROP,
    b"x-request-id": m.DROP,
    b"server": m.KEEP,
    b"set-cookie": m.KEEP,
    b"x-forwarded-for": m.KEEP,
    b"host": m.KEEP,
    b"my_field": m.KEEP,
}


class KindTests(SynchronousTestCase):
    """What a name means to a proxy."""

    def test_request(self) -> None:
        """Requests."""
        self.assertEqual({name: request_kind(name) for name in REQUEST}, REQUEST)

    def test_underscores(self) -> None:
        """Underscore spellings of names that matter."""
        self.assertEqual({name: request_kind(name) for name in UNDERSCORED}, UNDERSCORED)

    def test_response(self) -> None:
        """Responses."""
        self.assertEqual({name: response_kind(name) for name in RESPONSE}, RESPONSE)

    def test_hop_by_hop_stops(self) -> None:
        """RFC 9110 §7.6.1: none of them goes on as it came, either way."""
        for kind_of in (request_kind, response_kind):
            goes_on = [name for name in m.HOP_BY_HOP if kind_of(name) <= m.LAST_KEPT]
            self.assertEqual(goes_on, [], kind_of.__name__)

    def test_told_apart(self) -> None:
        """No two kinds are the same number."""
        kinds = [
            value for name, value in vars(m).items() if name.isupper() and isinstance(value, int)
        ]
        kinds = [kind for kind in kinds if kind >= 0]
        self.assertEqual(sorted(kinds), [*range(m.LAST_KEPT), *[m.LAST_KEPT] * 2, *range(6, 16)])
        self.assertEqual({m.CHUNKED, m.UNTIL_CLOSE} & set(range(2**16)), set(), "no lengths")
        self.assertNotEqual(m.CHUNKED, m.UNTIL_CLOSE)

    def test_kept_go_on(self) -> None:
        """Small kinds are those that stay in the head."""
        self.assertEqual(
            {name for name, kind in REQUEST.items() if kind and kind <= m.LAST_KEPT},
            {b"host", b"user-agent", b"referer", b"via"},
        )


class LineTests(SynchronousTestCase):
    """Names and values of raw lines."""

    def test_parts(self) -> None:
        """The name ends at the first colon; blanks around the value are no part of it."""
        expected = {
            b"Host: a:1\r\n": (b"host", b"a:1"),
            b"X:\t a b \t\r\n": (b"x", b"a b"),
            b"X:\r\n": (b"x", b""),
            b"X::\r\n": (b"x", b":"),
        }
        self.assertEqual({line: (m.name_of(line), m.value_of(line)) for line in expected}, expected)


class HeadTests(SynchronousTestCase):
    """Asking a head."""

    def test_get(self) -> None:
        """All lines of a name in order, whatever their case; others with a longer name are others."""
        lines = [b"Accept: a", b"Accept-Encoding: gzip", b"ACCEPT:b ", b"accept:", b"A: c"]
        head = Head(ended(lines))
        self.assertEqual(
            {name: (head.get_all(name), head.get(name)) for name in (b"accept", b"a", b"acc")},
            {
                b"accept": ([b"a", b"b", b""], b"a, b, "),
                b"a": ([b"c"], b"c"),
                b"acc": ([], None),
            },
        )

    def test_begins(self) -> None:
        """A head of which nothing was said: HTTP/1.1, no body, nothing special."""
        request, response = m.RequestHead([]), m.ResponseHead([])
        self.assertEqual(
            (request.method, request.path, request.query, request.version, request.length),
            (b"GET", b"/", b"", 11, 0),
        )
        special = [request.close, request.keep_alive, request.expects, request.trailers]
        special += [response.close, response.dated]
        self.assertEqual((special, response.idle_timeout), ([False] * 6, 0))
        self.assertEqual(
            (response.status, response.reason, response.version, response.length),
            (200, b"OK", 11, m.UNTIL_CLOSE),
        )


class EditsTests(SynchronousTestCase):
    """Header edits of a route: remove, set, add."""

    LINES = (b"Server: nginx\r\n", b"X-Env: test\r\n", b"x-env: dev\r\n", b"Vary: Accept\r\n")

    def edited(self, edits: Edits) -> list[bytes]:
        """What becomes of LINES, which themselves stay."""
        lines = list(self.LINES)
        found = edits.apply(lines)
        self.assertEqual(lines, list(self.LINES))
        return found

    def test_nothing(self) -> None:
        """No edits are false and change nothing."""
        self.assertFalse(Edits())
        self.assertEqual(self.edited(Edits()), list(self.LINES))

    def test_remove(self) -> None:
        """All lines of a name, in any case."""
        edits = Edits(remove=["SERVER", "x-Env", "not-there"])
        self.assertEqual(self.edited(edits), [b"Vary: Accept\r\n"])
        self.assertTrue(edits)

    def test_set(self) -> None:
        """Replaces all of that name."""
        self.assertEqual(
            self.edited(Edits(set=[("X-Env", "prod")])),
            [b"Server: nginx\r\n", b"Vary: Accept\r\n", b"X-Env: prod\r\n"],
        )

    def test_add(self) -> None:
        """One more, and none goes."""
        edits = Edits(add=[("Vary", "Cookie")])
        self.assertEqual(self.edited(edits), [*self.LINES, b"Vary: Cookie\r\n"])
        self.assertTrue(edits)

    def test_order(self) -> None:
        """Removed first, then set, then added: what is added survives its own removal."""
        edits = Edits(remove=["Vary"], set=[("X-Env", "prod")], add=[("Vary", "a"), ("X-Env", "b")])
        self.assertEqual(
            self.edited(edits),
            [b"Server: nginx\r\n", b"X-Env: prod\r\n", b"Vary: a\r\n", b"X-Env: b\r\n"],
        )


names = st.sampled_from([b"a", b"b", b"host", b"content-length", b"close", b"transfer-encoding"])


class ConnectionTests(SynchronousTestCase):
    """What Connection names stops here."""

    def test_named(self) -> None:
        """All lines of a named field; what frames the message and Host cannot be named away."""
        lines = [b"Host: a", b"X-Hop: 1", b"Content-Length: 5", b"x-hop: 2", b"Accept: */*"]
        named = [b"x-hop", b"host", b"content-length", b"transfer-encoding", b"close"]
        self.assertEqual(
            without_named(lines, named), [b"Host: a", b"Content-Length: 5", b"Accept: */*"]
        )

    @quick
    @given(st.lists(names), st.lists(names))
    def test_any(self, fields: list[bytes], named: list[bytes]) -> None:
        """The rest keeps order and count."""
        gone = set(named) - {b"host", b"content-length", b"transfer-encoding"}
        self.assertEqual(
            without_named([name.title() + b": 1" for name in fields], named),
            [name.title() + b": 1" for name in fields if name not in gone],
        )
