"""core.targets: one normal form of a path, which is matched and forwarded alike."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest
from gatewayd.core.targets import normal_path, split_target

quick = settings(deadline=None, database=None, max_examples=300)

TARGETS = {
    b"/": (b"", b"/", b""),
    b"/a/b?c=d?e&/f": (b"", b"/a/b", b"?c=d?e&/f"),
    b"/a?": (b"", b"/a", b"?"),
    b"//a": (b"", b"//a", b""),
    b"/http://b/": (b"", b"/http://b/", b""),
    b"*": (b"", b"*", b""),
    b"http://example.com/a?b": (b"example.com", b"/a", b"?b"),
    b"HTTPS://example.com:8443/": (b"example.com:8443", b"/", b""),
    b"http://example.com": (b"example.com", b"/", b""),
    b"http://example.com?b": (b"example.com", b"/", b"?b"),
    b"http://[::1]:80//a": (b"[::1]:80", b"//a", b""),
    b"http://a?b=http://c/": (b"a", b"/", b"?b=http://c/"),
}
NO_TARGETS = [
    b"",
    b"a",
    b"a/b",
    b"?a",
    b"**",
    b"*?a",
    b"example.com:80",
    b"ftp://example.com/",
    b"http:/a",
    b"http://",
    b"http:///a",
    b"http://?a",
    b"://a/",
    b"/a#b",
    b"/?a#b",
    b"/a b",
    b"/a\tb",
    b"/a\x00",
    b"/a\x7f",
    b"/\xc3\xa9",
    b"/?\xff",
    b"/a\n",
]

# decisions.md, Paths, bullet by bullet
NORMAL = {
    b"/": b"/",
    b"*": b"*",
    b"/a/b.c/-_~!$&'()*+,=:@": b"/a/b.c/-_~!$&'()*+,=:@",
    # unreserved escapes are decoded, hex upper-cased
    b"/%41%7a%30%2d%2E%5f%7E": b"/Az0-._~",
    b"/%c3%a9%2b": b"/%C3%A9%2B",
    b"/%3b%3F%23%25": b"/%3B%3F%23%25",
    b"/%2541": b"/%2541",
    b"/%252e%252e/a": b"/%252e%252e/a",
    # bytes that no path may hold are escaped, so that both spellings are one
    b'/"<>^`{|}[]': b"/%22%3C%3E%5E%60%7B%7C%7D%5B%5D",
    # dot segments resolved
    b"/.": b"/",
    b"/./": b"/",
    b"/a/.": b"/a/",
    b"/a/./b": b"/a/b",
    b"/a/..": b"/",
    b"/a/../": b"/",
    b"/a/../b": b"/b",
    b"/a/b/..": b"/a/",
    b"/a/b/../../c/": b"/c/",
    b"/a/b/c/./../../g": b"/a/g",
    b"/%2e/%2E%2e/a": None,
    b"/b/%2e%2E/a": b"/a",
    b"/b/.%2e/a": b"/a",
    b"/a/...": b"/a/...",
    b"/.a/..b/c.": b"/.a/..b/c.",
    b"/a/. /b": b"/a/.%20/b",
    # above the root: 400
    b"/..": None,
    b"/../a": None,
    b"/a/../..": None,
    b"/a/../../a": None,
    b"/./..": None,
    # %2F stays as it is and never splits
    b"/a%2fb": b"/a%2Fb",
    b"/a/..%2fb": b"/a/..%2Fb",
    b"/a%2F../b": b"/a%2F../b",
    b"/a%2F%2Fb": b"/a%2F%2Fb",
    b"/%2F/../a": b"/a",
    # slashes are merged
    b"//": b"/",
    b"//a": b"/a",
    b"/a//b///c//": b"/a/b/c/",
    b"/a//../b": b"/b",
    b"//..": None,
    b"/a/..//b": b"/b",
    # a bad escape, %00, a raw or encoded backslash: 400
    b"/%": None,
    b"/%4": None,
    b"/%4g": None,
    b"/%%41": None,
    b"/%\xe9\xe9": None,
    b"/a%": None,
    b"/%u0041": None,
    b"/% 1": None,
    b"/%+1": None,
    b"/%00": None,
    b"/\x00": None,
    b"/\\": None,
    b"/a\\..\\b": None,
    b"/%5c": None,
    b"/%5C..": None,
    # a segment ends at `/`, `;` or the end
    b"/a;x=1/b;y": b"/a;x=1/b;y",
    b"/a/..;x/b": b"/b",
    b"/a/..;/b": b"/b",
    b"/a/..;": b"/",
    b"/a/.;x=1": b"/a/",
    b"/a/.;/b": b"/a/b",
    b"/..;": None,
    b"/..;x/a": None,
    b"/a;x/../b": b"/b",
    b"/a/;..": b"/a/;..",
    b"/a/..%3bx/b": b"/a/..%3Bx/b",
    b"/a/%2e%2e;/b": b"/b",
}
UNMERGED = {
    b"/": b"/",
    b"//": b"//",
    b"//a///b//": b"//a///b//",
    b"/a//../b": b"/a/b",
    b"/a/..//b": b"//b",
    b"//../a": b"/a",
    b"///../..": b"/",
    b"//../..": None,
    b"/a//.": b"/a//",
}


def normal(path: bytes, **rules: bool) -> bytes | None:
    """The one form, or None for 400."""
    try:
        return normal_path(path, **rules)
    except BadRequest:
        return None


class SplitTests(SynchronousTestCase):
    """The four forms of a request target (RFC 9112 §3.2)."""

    def test_targets(self) -> None:
        """Origin, absolute and asterisk form; the query is untouched."""
        self.assertEqual({target: split_target(target) for target in TARGETS}, TARGETS)

    def test_refused(self) -> None:
        """Any other form, and bytes that no URI may hold."""
        taken = []
        for target in NO_TARGETS:
            try:
                taken.append((target, split_target(target)))
            except BadRequest:
                continue
        self.assertEqual(taken, [])


raw = st.lists(
    st.sampled_from(
        [
            b"/",
            b"/",
            b"/",
            b".",
            b"..",
            b";",
            b"a",
            b"b",
            b"%2e",
            b"%2E",
            b"%2f",
            b"%41",
            b"%25",
            b"%3b",
        ]
    ),
    max_size=14,
).map(lambda parts: b"/" + b"".join(parts))


class PathTests(SynchronousTestCase):
    """The one form of a path."""

    def test_normal(self) -> None:
        """As the decisions have it."""
        self.assertEqual({path: normal(path) for path in NORMAL}, NORMAL)

    def test_unmerged(self) -> None:
        """merge_slashes: false keeps empty segments, which `..` then takes one by one."""
        found = {path: normal(path, merge_slashes=False) for path in UNMERGED}
        self.assertEqual(found, UNMERGED)

    def test_encoded_slash(self) -> None:
        """encoded_slash: reject refuses it in either case; an escaped percent sign is none."""
        found = {
            path: normal(path, reject_slash=True)
            for path in (b"/a%2Fb", b"/a%2fb", b"/a%252Fb", b"/a/b", b"/%41")
        }
        expected = {
            b"/a%2Fb": None,
            b"/a%2fb": None,
            b"/a%252Fb": b"/a%252Fb",
            b"/a/b": b"/a/b",
            b"/%41": b"/A",
        }
        self.assertEqual(found, expected)

    @quick
    @given(raw, st.booleans())
    def test_one_form(self, path: bytes, merge: bool) -> None:
        """The form is its own form, begins with a slash, and has no dot segment left to resolve."""
        found = normal(path, merge_slashes=merge)
        if found is None:
            return
        self.assertEqual(normal(found, merge_slashes=merge), found)
        self.assertTrue(found.startswith(b"/"))
        names = [segment.partition(b";")[0] for segment in found.split(b"/")]
        self.assertEqual([name for name in names if name in (b".", b"..")], [])
        if merge:
            self.assertNotIn(b"//", found)

    @quick
    @given(st.binary(max_size=20))
    def test_any_bytes(self, path: bytes) -> None:
        """Whatever stands there, the result is a path of visible ASCII, or 400."""
        found = normal(b"/" + path)
        if found is not None:
            self.assertEqual(split_target(found.replace(b"?", b"")), (b"", found, b""))
            self.assertEqual(normal(found), found)

    @quick
    @given(st.sampled_from(b"ABCXYZabcxyz0189-._~!$&'()*+,=:@;/%?#[]{}|^`<> \x01\x7f\x80\xff"))
    def test_spellings(self, byte: int) -> None:
        """However a byte's escape is spelled, the form is the same."""
        upper, lower = (normal(b"/x" + form % byte) for form in (b"%%%02X", b"%%%02x"))
        self.assertEqual(upper, lower)
        if bytes([byte]) not in b"!$&'()*+,=:@;/%?#":
            self.assertEqual(normal(b"/x" + bytes([byte])), upper)
