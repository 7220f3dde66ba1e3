"""core.rewrites: what an upstream sees of a path, and where a redirect leads."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest, BadRewrite
from gatewayd.core.messages import Host, RequestHead
from gatewayd.core.regexes import LIMIT
from gatewayd.core.rewrites import Redirect, Rewrite
from gatewayd.core.targets import normal_path

quick = settings(deadline=None, database=None, max_examples=200)


def rewritten(rewrite: Rewrite, *paths: bytes) -> dict[bytes, bytes | str]:
    """What becomes of paths; for a bad one the reason."""
    found: dict[bytes, bytes | str] = {}
    for path in paths:
        try:
            found[path] = rewrite.apply(path)
        except BadRewrite as error:
            found[path] = f"{error.answer_status} {error.reason}"
    return found


class StripTests(SynchronousTestCase):
    """strip_prefix."""

    def test_borders(self) -> None:
        """It goes on segment borders alone, and one slash begins what is left."""
        expected: dict[bytes, bytes | str] = {
            b"/api": b"/",
            b"/api/": b"/",
            b"/api/x": b"/x",
            b"/api/api/x": b"/api/x",
            b"/api;v=1/x": b"/;v=1/x",
            b"/apis": b"/apis",
            b"/x/api": b"/x/api",
            b"/": b"/",
            b"*": b"*",
        }
        for prefix in ("/api", "/api/"):
            self.assertEqual(rewritten(Rewrite(strip_prefix=prefix), *expected), expected, prefix)

    def test_nothing(self) -> None:
        """Without anything to do it is false and changes nothing; the root is nothing too."""
        for rewrite in (Rewrite(), Rewrite(strip_prefix="/")):
            self.assertFalse(rewrite)
            self.assertEqual(rewrite.apply(b"/a/b"), b"/a/b")
        self.assertTrue(Rewrite(strip_prefix="/api"))

    def test_slashes(self) -> None:
        """What was behind the prefix cannot begin with two slashes: that would name a host."""
        self.assertEqual(
            Rewrite(strip_prefix="/api").apply(b"/api//evil.example/"), b"/evil.example/"
        )


class RegexTests(SynchronousTestCase):
    """regex and replace."""

    def test_replaced(self) -> None:
        """The first match alone, with its groups; what does not match stays."""
        rewrite = Rewrite(regex=re.compile(rb"^/dir(.*)"), replace=r"\1")
        self.assertTrue(rewrite)
        self.assertEqual(
            rewritten(rewrite, b"/dir/a/dir", b"/dir", b"/x/dir", b"*"),
            {b"/dir/a/dir": b"/a/dir", b"/dir": b"/", b"/x/dir": b"/x/dir", b"*": b"*"},
        )
        twice = Rewrite(regex=re.compile(rb"a"), replace="b")
        self.assertEqual(twice.apply(b"/a/a"), b"/b/a")

    def test_normalised_again(self) -> None:
        """The result is a path in its one form; one above the root, or no path, is bad_rewrite."""
        expected: dict[str, bytes | str] = {
            "x": b"/x",
            "//x": b"/x",
            "/a//b": b"/a/b",
            "/a/../b": b"/b",
            "/%7e": b"/~",
            "/a b?c#d": b"/a%20b%3Fc%23d",
            "/é": b"/%C3%A9",
            "": b"/",
            "/..": "500 bad_rewrite",
            "/a/../..;x": "500 bad_rewrite",
            "/%zz": "500 bad_rewrite",
            r"/\\": "500 bad_rewrite",
            "/%00": "500 bad_rewrite",
            r"/\0": "500 bad_rewrite",
        }
        whole = re.compile(rb".*", re.DOTALL)
        found = {
            to: rewritten(Rewrite(regex=whole, replace=to), b"/from")[b"/from"] for to in expected
        }
        self.assertEqual(found, expected)

    def test_cause(self) -> None:
        """The operator is told what is wrong with the result."""
        error = self.assertRaises(
            BadRewrite, Rewrite(regex=re.compile(rb"^"), replace="/..").apply, b"/a"
        )
        self.assertIn("above the root", error.detail)
        self.assertIsInstance(error.__cause__, BadRequest)

    def test_long(self) -> None:
        """A path over 4 KiB never matches."""
        rewrite = Rewrite(regex=re.compile(rb"^/a"), replace="/b")
        longest = b"/" + b"a" * (LIMIT - 1)
        self.assertEqual(rewrite.apply(longest)[:2], b"/b")
        self.assertEqual(rewrite.apply(longest + b"a"), longest + b"a")


class BaseTests(SynchronousTestCase):
    """An upstream's base_path."""

    def test_joined(self) -> None:
        """In front, with exactly one slash; the asterisk has no path to put it before."""
        strip = Rewrite(strip_prefix="/api")
        found = [
            strip.apply(b"/api/x", b"/base"),
            strip.apply(b"/api", b"/base"),
            strip.apply(b"/", b"/base"),
            Rewrite().apply(b"/a", b"/base/b"),
            Rewrite().apply(b"*", b"/base"),
        ]
        self.assertEqual(found, [b"/base/x", b"/base/", b"/base/", b"/base/b/a", b"*"])

    @quick
    @given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b";", b"api"]), max_size=6))
    def test_never_above(self, segments: list[bytes]) -> None:
        """No rewrite leads out of the base."""
        rewrite = Rewrite(regex=re.compile(rb"^/x"), replace="")
        try:
            found = rewrite.apply(b"/x/" + b"/".join(segments), b"/base")
        except BadRewrite:
            return
        self.assertTrue(found.startswith(b"/base/"))
        self.assertEqual(normal_path(found), found)


class RedirectTests(SynchronousTestCase):
    """Templates of redirects (decisions.md, Redirect)."""

    def located(self, to: str, path: bytes, query: bytes = b"", host: str = "example.com") -> bytes:
        """The Location for a request to port 2000."""
        head = RequestHead([])
        head.path = path
        head.query = query
        head.asked = Host(host)
        return Redirect(to, 308).location(head, 2000)

    def test_filled_in(self) -> None:
        """Host without port, the port, the path, and the query with its mark."""
        self.assertEqual(
            [
                self.located("https://{host}{path}{query}", b"/a/b", b"?c=d"),
                self.located("https://{host}{path}{query}", b"/", b""),
                self.located("http://{host}:{port}{path}", b"/a"),
                self.located("https://{host}/x{path}", b"/a", host="[::1]"),
                self.located("/login?from={path}", b"/a%20b"),
                self.located("https://other.example/", b"/a", b"?b"),
            ],
            [
                b"https://example.com/a/b?c=d",
                b"https://example.com/",
                b"http://example.com:2000/a",
                b"https://[::1]/x/a",
                b"/login?from=/a%20b",
                b"https://other.example/",
            ],
        )

    def test_no_other_host(self) -> None:
        """Leading slashes are folded to one: `//evil.example` would be another host."""
        paths = [b"//evil.example", b"///evil.example/", b"/\\evil.example", b"/a//b"]
        self.assertEqual(
            [self.located("{path}", path) for path in paths],
            [b"/evil.example", b"/evil.example/", b"/evil.example", b"/a//b"],
        )

    def test_names_in_the_query(self) -> None:
        """What a client writes is never taken for a template."""
        query = b"?{host}{port}{path}{query}"
        self.assertEqual(self.located("{path}{query}", b"/a", query), b"/a" + query)

    def test_status(self) -> None:
        """The status is kept for who answers."""
        self.assertEqual(Redirect("/", 301).status, 301)
