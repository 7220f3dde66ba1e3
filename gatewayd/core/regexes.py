"""Which regular expressions are safe to run on what strangers send.

Python's engine backtracks: some patterns take time exponential in their input. Rather than guard
each match with a timer, such patterns are refused when the configuration is read, by a walk over
the parsed pattern. The rules err on the safe side; what they refuse can be written otherwise.
What is let through is at worst quadratic, and never sees more than LIMIT bytes.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

LIMIT: Final = 4096  # bytes that a pattern ever sees; longer input never matches
_MANY: Final = 32  # a repeat that may run so much longer than its least counts as unbounded
_ALL: Final = frozenset(range(256))
_parser: Any = importlib.import_module("re._parser")


def compile_safe(pattern: str) -> re.Pattern[bytes]:
    """Compile a pattern for paths, header values or query values.

    Args:
        pattern: in Python's syntax; matched against bytes.

    Raises:
        ValueError: it does not compile, or could take too long; says which part and why.
    """
    try:
        compiled = re.compile(pattern.encode())
        parsed = _parser.parse(pattern.encode())
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    _Walk(bool(parsed.state.flags & re.IGNORECASE)).sequence(list(parsed), repeated=False)
    return compiled


def search(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    """`re.search`, but that input over LIMIT never matches."""
    return pattern.search(text) if len(text) <= LIMIT else None


class _Walk:
    """One pass over a parsed pattern."""

    def __init__(self, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def sequence(self, items: list[Any], *, repeated: bool) -> None:
        """Check items that follow one another; `repeated`: within an unbounded repeat."""
        open_sets: list[frozenset[int]] = []  # of unbounded repeats that may still be eating
        for operator, argument in self._flat(items):
            name = str(operator)
            if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
                low, high, body = argument
                inner = list(body)
                unbounded = int(high) - int(low) > _MANY
                if unbounded and repeated:
                    raise ValueError("a repeat within a repeat can take exponential time")
                self.sequence(inner, repeated=repeated or int(high) > _MANY)
                eaten = self._bytes_of(inner)
                if unbounded:
                    if any(eaten & before for before in open_sets):
                        raise ValueError(
                            "two repeats side by side that can eat the same text take too long"
                        )
                    open_sets = [*open_sets, eaten] if int(low) == 0 else [eaten]
                elif int(low) > 0:
                    open_sets = []
            elif name == "BRANCH":
                self._branches([list(branch) for branch in argument[1]], repeated)
                open_sets = []
            elif name in ("GROUPREF", "GROUPREF_EXISTS"):
                raise ValueError("backreferences can take exponential time")
            elif name in ("ASSERT", "ASSERT_NOT"):
                raise ValueError("lookahead and lookbehind are not supported here")
            elif name == "ATOMIC_GROUP":
                self.sequence(list(argument), repeated=repeated)
                open_sets = []
            elif name != "AT":
                open_sets = []

    def _flat(self, items: list[Any]) -> list[Any]:
        """Groups that are not repeated are nothing but their content."""
        flat: list[Any] = []
        for operator, argument in items:
            if str(operator) == "SUBPATTERN":
                flat += self._flat(list(argument[3]))
            else:
                flat.append((operator, argument))
        return flat

    def _branches(self, branches: list[list[Any]], repeated: bool) -> None:
        seen: frozenset[int] = frozenset()
        for branch in branches:
            self.sequence(branch, repeated=repeated)
            first = self._first_of(branch)
            if repeated and (not first or first & seen):
                raise ValueError(
                    "alternatives within a repeat that can begin alike take exponential time"
                )
            seen |= first

    def _first_of(self, items: list[Any]) -> frozenset[int]:
        """Bytes that a sequence can begin with; empty if it can be empty."""
        first: frozenset[int] = frozenset()
        for item in self._flat(items):
            if str(item[0]) == "AT":
                continue
            first |= self._bytes_of([item])
            if not (str(item[0]).endswith("REPEAT") and int(item[1][0]) == 0):
                return first
        return frozenset()

    def _bytes_of(self, items: list[Any]) -> frozenset[int]:
        """Bytes that any of the items can match."""
        found: set[int] = set()
        for operator, argument in self._flat(items):
            name = str(operator)
            if name == "LITERAL":
                found.add(int(argument))
            elif name == "NOT_LITERAL":
                found |= _ALL - {int(argument)}
            elif name == "ANY":
                found |= _ALL
            elif name == "IN":
                found |= self._class(argument)
            elif name.endswith("REPEAT"):
                found |= self._bytes_of(list(argument[2]))
            elif name == "BRANCH":
                for branch in argument[1]:
                    found |= self._bytes_of(list(branch))
            elif name == "ATOMIC_GROUP":
                found |= self._bytes_of(list(argument))
        if self._ignore_case:
            found |= {ord(chr(byte).swapcase()) & 255 for byte in found if byte < 128}
        return frozenset(found)

    def _class(self, argument: list[Any]) -> frozenset[int]:
        members: set[int] = set()
        negated = False
        for operator, value in argument:
            name = str(operator)
            if name == "NEGATE":
                negated = True
            elif name == "LITERAL":
                members.add(int(value))
            elif name == "RANGE":
                members |= set(range(value[0], value[1] + 1))
            else:
                members |= _category(str(value))
        return _ALL - members if negated else frozenset(members)


def _category(name: str) -> frozenset[int]:
    pattern = {"DIGIT": rb"\d", "SPACE": rb"\s", "WORD": rb"\w"}[name.rpartition("_")[2]]
    members = frozenset(byte for byte in range(256) if re.match(pattern, bytes((byte,))))
    return _ALL - members if "_NOT_" in name else members
