"""http1.grammar: what a field line may look like, and that the memo only repeats verdicts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.errors import BadRequest
from gatewayd.http1.grammar import LineMemo, head_ended, is_token

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
        self.assertEqual([(line, tested.classify(line + b"\r\n")) for line, _ in LINES], LINES)
        good = {(line + b"\r\n", kind) for line, kind in LINES if kind > 0}
        self.assertEqual(sorted(tested.known.items()), sorted(good))

    def test_ends(self) -> None:
        """A line ends in CRLF and nothing else."""
        ends = (b"", b"\r", b"\n", b"\n\r", b"\r\r", b"\n\n", b"\r\n\n", b"\r\r\n", b" \n", b"\r\n")
        self.assertEqual(
            [memo().classify(b"A: b" + end) for end in ends], [-1] * (len(ends) - 1) + [1]
        )
        self.assertEqual(
            [memo().classify(b"A:" + end) for end in ends], [-1] * (len(ends) - 1) + [1]
        )

    def test_name_is_lowered(self) -> None:
        """A kind goes by the lower-case name alone, without the colon."""
        asked: list[bytes] = []

        def kind_of(name: bytes) -> int:
            asked.append(name)
            return 5

        tested = LineMemo(kind_of)
        self.assertEqual(tested.classify(b"CoNtEnT-LeNgTh: X\r\n"), 5)
        self.assertEqual(asked, [b"content-length"])

    def test_token(self) -> None:
        """A token is one or more tchars and nothing else (RFC 9110 §5.6.2)."""
        single = [byte for byte in range(256) if is_token(bytes([byte])) is not None]
        self.assertEqual(bytes(single), bytes(sorted(TCHAR)))
        self.assertEqual(
            [is_token(text) is not None for text in (b"", b"ab", b"a b", b"ab\n", b"\xff")],
            [False, True, False, False, False],
        )


class HeadEndTests(SynchronousTestCase):
    """Where a head that comes in pieces ends."""

    def found(self, pieces: list[bytes]) -> bool | str:
        """Whether it ended, or the complaint."""
        for kind in (bytes, bytearray):
            held = kind()
            ended = False
            for piece in pieces:
                seen = len(held)
                held += piece
                try:
                    ended = head_ended(held, seen, BadRequest("bare LF"))
                except BadRequest as error:
                    return error.detail
                if ended:
                    break
        return ended

    def test_found(self) -> None:
        """A head ends at its first CRLF CRLF, however it arrives; a bare LF before it ends the wait."""
        cases: list[tuple[bytes, bool | str]] = [
            (b"", False),
            (b"GET / HTTP/1.1\r\n", False),
            (b"A\r\n\r\n", True),
            (b"A\r\nB\r\n\r\nC\r\n\r\n", True),
            (b"\r\n\r\n", True),
            (b"A\r\n\r", False),
            (b"A\r\r\n\r\n", True),
            (b"A\n", "bare LF"),
            (b"\n", "bare LF"),
            (b"A\r\n\nB", "bare LF"),
            (b"A\n\n", "bare LF"),
            (b"A\r\nB\n", "bare LF"),
        ]
        self.assertEqual([(data, self.found([data])) for data, _ in cases], cases)
        singly = [[data[at : at + 1] for at in range(len(data))] for data, _ in cases]
        self.assertEqual([self.found(pieces) for pieces in singly], [end for _, end in cases])

    def test_each_complaint_is_a_new_one(self) -> None:
        """The complaint given is not raised itself: it would keep the tracebacks of all its raisers."""
        complaint = BadRequest("bare LF")
        error = self.assertRaises(BadRequest, head_ended, bytearray(b"A\n"), 0, complaint)
        self.assertIsNot(error, complaint)
        self.assertEqual((error.detail, complaint.__traceback__), ("bare LF", None))


class MemoTests(SynchronousTestCase):
    """What the memo takes and what it lets go."""

    def test_remembers(self) -> None:
        """A good line is remembered with its kind."""
        tested = memo()
        tested.classify(b"Host: a\r\n")
        self.assertEqual(tested.known, {b"Host: a\r\n": 4})

    def test_secrets_stay_out(self) -> None:
        """Cookies and credentials never enter, in whatever spelling."""
        tested = memo()
        for name in (b"Cookie", b"SET-COOKIE", b"authorization", b"Proxy-Authorization"):
            self.assertEqual(tested.classify(name + b": s\r\n"), len(name))
        self.assertEqual(tested.known, {})

    def test_long_lines_stay_out(self) -> None:
        """Lines over 256 bytes and an end never enter."""
        tested = memo()
        tested.classify(b"A: " + b"x" * 253 + b"\r\n")
        tested.classify(b"A: " + b"x" * 254 + b"\r\n")
        self.assertEqual([len(line) for line in tested.known], [258])

    def test_slots(self) -> None:
        """A name owns 64 lines; the further ones are classified each time."""
        tested = memo()
        for number in range(100):
            self.assertEqual(tested.classify(b"Trace: %d\r\n" % number), 5)
        self.assertEqual(list(tested.known), [b"Trace: %d\r\n" % number for number in range(64)])

    def test_spellings_are_bounded(self) -> None:
        """However a secret's name is spelt, few spellings are remembered, and all mean the same."""
        tested = memo()
        spellings = [
            bytes(
                byte ^ (32 if number >> bit & 1 else 0) for bit, byte in enumerate(b"authorization")
            )
            for number in range(3000)
        ]
        kinds = {tested.classify(name + b": Basic x\r\n") for name in spellings}
        self.assertEqual((kinds, tested.known), ({memo().classify(b"Authorization: y\r\n")}, {}))
        self.assertLessEqual(len(tested._out), 1024)

    def test_a_name_begins_anew(self) -> None:
        """After 4096 lines refused, a name forgets its old ones; other names keep theirs."""
        tested = memo()
        tested.classify(b"Host: a\r\n")
        for number in range(64 + 4096):
            tested.classify(b"Date: %d\r\n" % number)
        self.assertIn(b"Date: 0\r\n", tested.known)
        tested.classify(b"Date: the last that is refused\r\n")
        tested.classify(b"Date: new\r\n")
        self.assertEqual(tested.known, {b"Host: a\r\n": 4, b"Date: new\r\n": 4})
        tested.classify(b"Date: newer\r\n")
        self.assertEqual(list(tested.known), [b"Host: a\r\n", b"Date: new\r\n", b"Date: newer\r\n"])

    def test_entries_are_bounded(self) -> None:
        """Beyond 4096 lines everything is forgotten, and learnt anew."""
        tested = memo()
        for number in range(4096):
            tested.classify(b"N%d: %d\r\n" % (number // 64, number))
        self.assertEqual(len(tested.known), 4096)
        tested.classify(b"Host: a\r\n")
        self.assertEqual(tested.known, {b"Host: a\r\n": 4})
        tested.classify(b"Host: b\r\n")
        self.assertEqual(list(tested.known), [b"Host: a\r\n", b"Host: b\r\n"])

    def test_names_are_bounded(self) -> None:
        """Names that never repeat cannot fill it: at 1024 names everything is forgotten."""
        tested = memo()
        for number in range(1025):
            tested.classify(b"N%d: a\r\n" % number)
        self.assertEqual(list(tested.known), [b"N1024: a\r\n"])

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
            line = name + colon + value + b"\r\n"
            known = tested.known.get(line, -1)
            verdict = known if known >= 0 else tested.classify(line)
            self.assertEqual(verdict, memo().classify(line))
        self.assertTrue(all(len(line) <= 258 for line in tested.known))
