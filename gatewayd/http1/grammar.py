"""What a field line may look like, and the memo that makes asking twice cheap.

A line here and everywhere is with its CRLF, as it came and as it goes on: so a head is read in one
pass that looks for nothing but the next LF, and joined without separators.

Classifying a line strictly costs about a microsecond, and clients repeat themselves: the same Host,
User-Agent and Accept lines come with every request. So a line that was once found good is
remembered with its kind. Strictness is in the classification, the memo only repeats its verdicts.

The memo must stay small and useful under hostile traffic. Lines over 256 bytes, cookies and
credentials never enter. A name may own SLOTS lines; once they are taken, its further lines are
classified each time, and after REFUSALS of them its lines are forgotten and it begins anew, so that
a Date that changes each second stays remembered and a trace id that never repeats stays out. Of names
whose lines stay out the kind is remembered instead, so that only their values are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from gatewayd.core.errors import GatewayError
from gatewayd.core.octets import only

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 §5.6.2
# RFC 9110 §5.5: visible, blank and obs-text bytes; no CR, LF, NUL, other control or DEL. No space
# stands before the colon (RFC 9112 §5.1), and a line that begins with one (obs-fold) has no token.
_CONTENT: Final = only((9, *range(0x20, 0x7F), *range(0x80, 0x100)))
is_token: Final = re.compile(TOKEN + rb"\Z").match
_BLANK_LINE: Final = b"\r\n\r\n"
_BARE_NEWLINE: Final = re.compile(rb"(?<!\r)\n").search

_SECRET: Final = frozenset((b"cookie", b"authorization", b"proxy-authorization", b"set-cookie"))
LONGEST_KNOWN: Final = 258  # bytes of a line with its end
_ENTRIES: Final = 4096
_SLOTS: Final = 64
_REFUSALS: Final = 4096


def head_ended(data: bytes | bytearray, seen: int, complaint: GatewayError) -> bool:
    """Whether the blank line that ends a head has come.

    Args:
        data: what came so far.
        seen: how much of it was looked at already.
        complaint: raised, as a copy, where a line ends in a bare LF: waiting for a CRLF would be in
            vain. A copy, since an exception raised again and again keeps all its tracebacks.
    """
    if data.find(_BLANK_LINE, max(0, seen - 3)) >= 0:
        return True
    if _BARE_NEWLINE(data, max(0, seen - 1)) is not None:
        raise type(complaint)(complaint.detail)
    return False


class LineMemo:
    """Remembers the kinds of good lines; one for requests and one for responses in a process."""

    def __init__(self, kind_of: Callable[[bytes], int]) -> None:
        """Args: kind_of: a lower-case name's kind (core.messages)."""
        self.known: dict[bytes, int] = {}
        self._kind_of = kind_of
        self._owned: dict[bytes, list[bytes]] = {}
        self._out: dict[
            bytes, list[int]
        ] = {}  # names as spelt: their kind, lines until they may enter

    def classify(self, line: bytes) -> int:
        """The kind of a line that the memo does not know, or -1 if it is malformed or has no CRLF."""
        name, colon, value = line.partition(b":")
        content = value[:-2]
        if not colon or line[-2:] != b"\r\n" or content.translate(_CONTENT) != content:
            return -1
        out = self._out.get(name)
        if out is not None:
            out[1] -= 1
            if not out[1]:
                self._let_in(name)
            return out[0]
        if is_token(name) is None:
            return -1
        lower = name.lower()
        kind = self._kind_of(lower)
        if lower in _SECRET:
            self._keep_out(name, kind, -1)
        elif len(line) <= LONGEST_KNOWN:
            self._remember(name, lower, line, kind)
        return kind

    def _keep_out(self, name: bytes, kind: int, lines: int) -> None:
        if len(self._out) >= _ENTRIES // 4:
            self._out.clear()
        self._out[name] = [kind, lines]

    def _let_in(self, name: bytes) -> None:
        """A name's lines have been refused for long enough: its slots are free again."""
        del self._out[name]
        for old in self._owned.pop(name.lower(), ()):
            self.known.pop(old, None)

    def _remember(self, spelt: bytes, name: bytes, line: bytes, kind: int) -> None:
        owned = self._owned.get(name)
        if owned is None:
            if len(self._owned) >= _ENTRIES // 4:
                self._forget_all()
            owned = self._owned[name] = []
        if len(owned) >= _SLOTS:
            self._keep_out(spelt, kind, _REFUSALS)
            return
        if len(self.known) >= _ENTRIES:
            self._forget_all()
            owned = self._owned[name] = []
        owned.append(line)
        self.known[line] = kind

    def _forget_all(self) -> None:
        self.known.clear()
        self._owned.clear()
        self._out.clear()
