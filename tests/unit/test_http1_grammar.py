"""http1.grammar: what a field line may look like, and that the memo only repeats verdicts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.http1.grammar import BARE_NEWLINE, LineMemo, is_token

CONTROLS = [byte for byte in [*range(0x20), 0x7F] if byte != 0x09]
TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
quick = settings(deadline=None, database=None, max_examples=60)

# What a line is: the kind of its name (here the name's length), or -1.
LINES = [
    (b"A: b", 1),
    (b"A:b", 1),
    (b"A:", 1),
    (b"A::", 1),
    (b"A: \t b \t", 1),
    (b"A: b\tc", 1),
    (b"A: \x80\xa0\xff", 1),
    (b'A: "b, c"; d="\\""', 1),
    (TCHAR + b": x", len(TCHAR)),
    (b"", -1),
    (b"A", -1),
    (b":", -1),
    (b": b", -1),
    (b"A : b", -1),
    (b"A\t: b", -1),
    (b"A\x0b: b", -1),
    (b" A: b", -1),
    (b"\tA: b", -1),
    (b" b", -1),
    (b'"A": b', -1),
    (b"A b: c", -1),
    (b"A\xe9: b", -1),
    (b"A\xa0: b", -1),
    *((b"A: b" + bytes([byte]) + b"c", -1) for byte in CONTROLS),
    *((b"A: b" + bytes([byte]), -1) for byte in CONTROLS),
    *((b"A: " + bytes([byte]) + b"b", -1) for byte in CONTROLS),
    *((b"A" + bytes([byte]) + b": b", -1) for byte in range(256) if byte not in TCHAR + b":"),
]


def memo() -> LineMemo:
    """A memo whose kinds are the lengths of names."""
    return LineMemo(len)


class FieldLineTests(SynchronousTestCase):
    """Lines and tokens, one by one."""

    def test_lines(self) -> None:
        """Each line has its kind, and none that is malformed gets into the memo."""
        tested = memo()
        self.assertEqual([(line, tested.classify(line)) for line, _ in LINES], LINES)
        self.assertEqual(
            sorted(tested.known.items()), sorted({(line, kind) for line, kind in LINES if kind > 0})
        )

    def test_name_is_lowered(self) -> None:
        """A kind goes by the lower-case name alone, without the colon."""
        asked: list[bytes] = []

        def kind_of(name: bytes) -> int:
            asked.append(name)
            return 5

        tested = LineMemo(kind_of)
        self.assertEqual(tested.classify(b"CoNtEnT-LeNgTh: X"), 5)
        self.assertEqual(asked, [b"content-length"])

    def test_token(self) -> None:
        """A token is one or more tchars and nothing else (RFC 9110 §5.6.2)."""
        single = [byte for byte in range(256) if is_token(bytes([byte])) is not None]
        self.assertEqual(bytes(single), bytes(sorted(TCHAR)))
        self.assertEqual(
            [is_token(text) is not None for text in (b"", b"ab", b"a b", b"ab\n", b"\xff")],
            [False, True, False, False, False],
        )

    def test_bare_newline(self) -> None:
        """An LF is bare unless a CR stands before it, also one before where the search begins."""
        cases = [
            (b"\n", 0),
            (b"a\n", 0),
            (b"a\r\n", 0),
            (b"a\r\n", 2),
            (b"\r\n\n", 0),
            (b"\n\r", 0),
        ]
        self.assertEqual(
            [BARE_NEWLINE(data, start) is not None for data, start in cases],
            [True, True, False, False, True, True],
        )


class MemoTests(SynchronousTestCase):
    """What the memo takes and what it lets go."""

    def test_remembers(self) -> None:
        """A good line is remembered with its kind."""
        tested = memo()
        tested.classify(b"Host: a")
        self.assertEqual(tested.known, {b"Host: a": 4})

    def test_secrets_stay_out(self) -> None:
        """Cookies and credentials never enter, in whatever spelling."""
        tested = memo()
        for name in (b"Cookie", b"SET-COOKIE", b"authorization", b"Proxy-Authorization"):
            self.assertEqual(tested.classify(name + b": s"), len(name))
        self.assertEqual(tested.known, {})

    def test_long_lines_stay_out(self) -> None:
        """Lines over 256 bytes never enter."""
        tested = memo()
        tested.classify(b"A: " + b"x" * 253)
        tested.classify(b"A: " + b"x" * 254)
        self.assertEqual([len(line) for line in tested.known], [256])

    def test_slots(self) -> None:
        """A name owns 64 lines; the further ones are classified each time."""
        tested = memo()
        for number in range(100):
            self.assertEqual(tested.classify(b"Trace: %d" % number), 5)
        self.assertEqual(list(tested.known), [b"Trace: %d" % number for number in range(64)])

    def test_spellings_are_bounded(self) -> None:
        """However a secret's name is spelt, few spellings are remembered, and all mean the same."""
        tested = memo()
        spellings = [
            bytes(
                byte ^ (32 if number >> bit & 1 else 0) for bit, byte in enumerate(b"authorization")
            )
            for number in range(3000)
        ]
        kinds = {tested.classify(name + b": Basic x") for name in spellings}
        self.assertEqual((kinds, tested.known), ({memo().classify(b"Authorization: y")}, {}))
        self.assertLessEqual(len(tested._out), 1024)

    def test_a_name_begins_anew(self) -> None:
        """After 4096 lines refused, a name forgets its old ones; other names keep theirs."""
        tested = memo()
        tested.classify(b"Host: a")
        for number in range(64 + 4096):
            tested.classify(b"Date: %d" % number)
        self.assertIn(b"Date: 0", tested.known)
        tested.classify(b"Date: the last that is refused")
        tested.classify(b"Date: new")
        self.assertEqual(tested.known, {b"Host: a": 4, b"Date: new": 4})
        tested.classify(b"Date: newer")
        self.assertEqual(list(tested.known), [b"Host: a", b"Date: new", b"Date: newer"])

    def test_entries_are_bounded(self) -> None:
        """Beyond 4096 lines everything is forgotten, and learnt anew."""
        tested = memo()
        for number in range(4096):
            tested.classify(b"N%d: %d" % (number // 64, number))
        self.assertEqual(len(tested.known), 4096)
        tested.classify(b"Host: a")
        self.assertEqual(tested.known, {b"Host: a": 4})
        tested.classify(b"Host: b")
        self.assertEqual(list(tested.known), [b"Host: a", b"Host: b"])

    def test_names_are_bounded(self) -> None:
        """Names that never repeat cannot fill it: at 1024 names everything is forgotten."""
        tested = memo()
        for number in range(1025):
            tested.classify(b"N%d: a" % number)
        self.assertEqual(list(tested.known), [b"N1024: a"])

    @quick
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([b"Host", b"Cookie", b"X", b" Y", b"Z Z", b""]),
                st.sampled_from([b":", b" :", b""]),
                st.binary(max_size=6) | st.integers(0, 400).map(lambda size: b"v" * size),
            ),
            max_size=300,
        )
    )
    def test_a_warm_memo_says_the_same(self, parts: list[tuple[bytes, bytes, bytes]]) -> None:
        """Whatever came before, a line's verdict is that of a memo that knows nothing."""
        tested = memo()
        for name, colon, value in parts:
            line = name + colon + value
            known = tested.known.get(line, -1)
            verdict = known if known >= 0 else tested.classify(line)
            self.assertEqual(verdict, memo().classify(line))
        self.assertTrue(all(len(line) <= 256 for line in tested.known))
