"""Which regular expressions are safe to run on what strangers send.

Python's engine backtracks: some patterns take time exponential in their input. Rather than guard
each match with a timer, such patterns are refused when the configuration is read, by a walk over
the parsed pattern. The rules err on the safe side; what they refuse can be written otherwise.

Two questions are asked. Within whatever is repeated, the next byte must say how to go on: then there
is one way through the repeat, however long the text. Elsewhere there may be choices, each made once:
where a search begins (without `^`), where a repeat ends that could eat what follows it, whether
something optional is there. The ways that they leave multiply, and a pattern is refused where ways
times steps are over what LIMIT bytes may cost.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final, NamedTuple

LIMIT: Final = 4096  # bytes that a pattern ever sees; longer input never matches
_MANY: Final = 32  # a repeat that may run so much longer than its least counts as unbounded
_ALL: Final = frozenset(range(256))
_NONE: Final[frozenset[int]] = frozenset()
_REPEATS: Final = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_ATOMS: Final = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_parser: Any = importlib.import_module("re._parser")

# What a step costs, in sixteenths of a step of a repeated byte or class, and what a match may cost in
# all: LIMIT * LIMIT steps of such a repeat take 70 ms, the budget 100 ms (docs/performance.md).
_STEP: Final = 16
_FOLDED_STEP: Final = 32  # without regard to case
_GROUP_STEP: Final = 80  # of a repeated group; worst with a capture in it
_BYTE: Final = 2  # a fixed byte, tried from each of a choice's ways
_CLASS: Final = 7
_BRANCH: Final = 8
_GREEDY: Final = 5  # a repeat of a byte or class, for beginning it
_LAZY: Final = 8
_GROUP: Final = 40  # a repeated or optional group, for beginning it
_BUDGET: Final = 25 * LIMIT * LIMIT


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
        flags = int(parsed.state.flags) | _scoped_flags(pattern)
        _Walk(flags).whole(list(parsed))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    return compiled


def search(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    """`re.search`, but that input over LIMIT never matches."""
    return pattern.search(text) if len(text) <= LIMIT else None


def _scoped_flags(pattern: str) -> int:
    """Flags that hold for a group alone, as in `(?i:a)`; taken as if they held for all."""
    letters = "".join(re.findall(r"\(\?([a-z]+)", pattern))
    return (re.IGNORECASE if "i" in letters else 0) | (re.MULTILINE if "m" in letters else 0)


class _Ways(NamedTuple):
    """In how many ways a place in the pattern can be reached, and what was met since the latest choice."""

    ways: int = 1
    last: int = 1  # of these by the latest choice
    since: tuple[frozenset[int], ...] = ()  # what must stand between that choice and here
    period: int = 1  # how far apart a text can repeat that
    tail: float = 0  # what checking it costs, for one way


class _Next(NamedTuple):
    """What comes after a part of the pattern."""

    first: frozenset[int] = frozenset()  # bytes that it may begin with
    begin: int = 0  # what beginning it costs beyond looking at a byte
    ends: bool = False  # nothing that could fail


class _Walk:
    """One pass over a parsed pattern."""

    def __init__(self, flags: int) -> None:
        self._ignore_case = bool(flags & re.IGNORECASE)
        self._lines = bool(flags & re.MULTILINE)
        self._at = _Ways()

    def whole(self, items: list[Any]) -> None:
        """Check a pattern."""
        items = self._flat(items)
        if not (items and self._begins(items[0])):
            self._choose(LIMIT)
        self._sequence(items, _Next(ends=True))

    # --- choices, outside of repeats

    def _choose(self, ways: int, tail: float = 0) -> None:
        self._at = _Ways(self._at.ways * ways, ways, tail=tail)

    def _spend(self, ways: int, cost: float) -> None:
        if ways * cost > _BUDGET:
            raise ValueError(
                "what it repeats can match a long text in too many ways; begin it with ^, or let "
                "what follows a repeat begin with something that the repeat cannot eat"
            )

    def _try(self, cost: float) -> None:
        """Something is tried from each of the ways that lead here."""
        self._at = self._at._replace(tail=self._at.tail + cost)
        self._spend(self._at.ways, self._at.tail)

    def _sequence(self, items: list[Any], beyond: _Next) -> None:
        """Items that follow one another, each of which is met once."""
        items = self._flat(items)
        free = len(items)  # from here on nothing can fail
        while beyond.ends and free and self._can_be_none(items[free - 1]):
            free -= 1
        eating: list[frozenset[int]] = []  # the sets of unbounded repeats that may still go on
        for number, (operator, argument) in enumerate(items):
            name = str(operator)
            rest = items[number + 1 :]
            after = _Next(
                self._first(rest, beyond.first),
                self._beginning(rest, beyond.begin),
                beyond.ends and number >= free - 1,
            )
            if name in _REPEATS:
                low, high, body = argument
                if high - low > _MANY:
                    if any(self._first(list(body), _NONE) & before for before in eating):
                        raise ValueError(
                            "two repeats side by side that can eat the same text take too long"
                        )
                    eats = self._bytes_of(list(body))
                    eating = [*eating, eats] if low == 0 else [eats]
                elif low:
                    eating = []
                self._try(self._beginning([(operator, argument)], 0) / self._at.period)
                if high < 2:
                    self._optional(low, list(body), after)
                else:
                    self._repeat(low, high, body, after)
                continue
            eating = []
            if name in _ATOMS:
                self._must(self._bytes_of([(operator, argument)]))
                price = _CLASS if name == "IN" or self._ignore_case else _BYTE
                self._try(price / self._at.period)
            elif name == "BRANCH":
                self._branch([list(branch) for branch in argument[1]], after)
            elif name == "ATOMIC_GROUP":
                self._sequence(list(argument), after)
            else:
                self._refuse_rare(name)

    def _must(self, eats: frozenset[int]) -> None:
        """A byte that has to be there."""
        since = (*self._at.since, eats)
        period = self._at.period
        while period < len(since) and any(
            one.isdisjoint(other) for one, other in zip(since, since[period:], strict=False)
        ):
            period += 1
        self._at = self._at._replace(since=since, period=period)

    def _optional(self, low: int, inner: list[Any], after: _Next) -> None:
        before = self._at
        fixed = self._is_fixed(inner)
        if not low and (self._first(inner, _NONE) & after.first or not fixed):
            self._choose(2, before.tail)
        self._sequence(inner, after)
        if not low:  # what stands in something optional need not be there
            at = before if self._at.ways == before.ways else _Ways(self._at.ways, self._at.last)
            self._at = at._replace(tail=self._at.tail)

    def _repeat(self, low: int, high: int, body: Any, after: _Next) -> None:
        inner = self._flat(list(body))
        first = self._first(inner, _NONE)
        eats = self._bytes_of(inner)
        fixed = self._is_fixed(inner)
        least, most = body.getwidth()
        if not self._is_atom(body):
            self._loop(inner, least, first, high > _MANY)
        if after.ends:
            high = low  # it can stop there, since nothing after it can fail
        step = self._step(body) + after.begin
        ways = self._at.ways
        if any(eats.isdisjoint(must) for must in self._at.since):
            # From different ends of the latest choice it eats different texts, LIMIT in all.
            ways //= self._at.last
        self._spend(ways, min(LIMIT, high * most) * step)
        if (low < high and first & after.first) if fixed else eats & after.first:
            ends = high - low + 1 if fixed else high * most - low * least + 1
            self._choose(min(LIMIT, ends), step)
        elif low:
            self._must(eats)

    def _branch(self, branches: list[list[Any]], after: _Next) -> None:
        before = self._at
        self._must(frozenset().union(*(self._first(branch, after.first) for branch in branches)))
        cost = _BRANCH / self._at.period
        self._at = before
        self._try(cost)
        before = self._at
        ways = before.ways
        for branch in branches:
            self._at = before
            self._sequence(branch, after)
            ways = max(ways, self._at.ways)
        alike = 1 + self._alike(branches)
        self._at = before
        if ways > before.ways or alike > 1:
            self._at = _Ways(ways * alike, tail=before.tail)

    # --- one way only, within repeats

    def _loop(self, items: list[Any], least: int, again: frozenset[int], many: bool) -> None:
        """What is repeated; `again`: what it begins with, `many`: so often that it counts as unbounded."""
        if not least:
            raise ValueError("a repeat of what can be empty can take exponential time")
        self._plain(items, again, many)

    def _plain(self, items: list[Any], follow: frozenset[int], many: bool) -> None:
        """Items within a repeat: the next byte must say how to go on."""
        items = self._flat(items)
        for number, (operator, argument) in enumerate(items):
            name = str(operator)
            after = self._first(items[number + 1 :], follow)
            if name in _REPEATS:
                low, high, body = argument
                if many and high - low > _MANY:
                    raise ValueError("a repeat within a repeat can take exponential time")
                first = self._first(list(body), _NONE)
                if low < high and (first & after or not body.getwidth()[0]):
                    raise ValueError(
                        "what is optional within a repeat and can begin like what follows takes "
                        "exponential time"
                    )
                if high < 2:
                    self._plain(list(body), after, many)
                else:
                    self._loop(list(body), body.getwidth()[0], first | after, many or high > _MANY)
            elif name == "BRANCH":
                branches = [list(branch) for branch in argument[1]]
                if self._alike(branches):
                    raise ValueError(
                        "alternatives within a repeat that can begin alike take exponential time"
                    )
                for branch in branches:
                    self._plain(branch, after, many)
            elif name == "ATOMIC_GROUP":
                self._plain(list(argument), after, many)
            elif name not in _ATOMS:
                self._refuse_rare(name)

    # --- what is asked of parts

    def _is_atom(self, body: Any) -> bool:
        return len(body) == 1 and str(body[0][0]) in _ATOMS

    def _can_be_none(self, item: Any) -> bool:
        return str(item[0]) in _REPEATS and not item[1][0]

    def _beginning(self, items: list[Any], beyond: int) -> int:
        """What beginning a sequence costs beyond looking at a byte."""
        cost = 0
        for operator, argument in self._flat(items):
            if str(operator) in _REPEATS:
                simple = _LAZY if str(operator) == "MIN_REPEAT" else _GREEDY
                cost += simple if self._is_atom(argument[2]) else _GROUP
            if not self._can_be_none((operator, argument)):
                return cost
        return cost + beyond

    def _step(self, body: Any) -> float:
        """What going round a repeat costs for each byte that it eats."""
        if self._is_atom(body):
            folded = self._ignore_case and self._bytes_of(list(body)) != _ALL
            return _FOLDED_STEP if folded else _STEP
        inner = [
            argument[2]
            for operator, argument in self._flat(list(body))
            if str(operator) in _REPEATS
        ]
        own = _GROUP_STEP * (1 + len(inner)) / int(body.getwidth()[0])
        return max([own, *map(self._step, inner)])

    def _refuse_rare(self, name: str) -> None:
        if name in ("GROUPREF", "GROUPREF_EXISTS"):
            raise ValueError("backreferences can take exponential time")
        if name in ("ASSERT", "ASSERT_NOT"):
            raise ValueError("lookahead and lookbehind are not supported here")

    def _begins(self, item: Any) -> bool:
        return str(item[0]) == "AT" and (
            str(item[1]) == "AT_BEGINNING_STRING"
            or (str(item[1]) == "AT_BEGINNING" and not self._lines)
        )

    def _flat(self, items: list[Any]) -> list[Any]:
        """Groups that are not repeated are nothing but their content."""
        flat: list[Any] = []
        for operator, argument in items:
            if str(operator) == "SUBPATTERN":
                flat += self._flat(list(argument[3]))
            else:
                flat.append((operator, argument))
        return flat

    def _is_fixed(self, items: list[Any]) -> bool:
        """Whether there is one way through it, and one length for each of its alternatives."""
        for operator, argument in self._flat(items):
            name = str(operator)
            if name in _REPEATS:
                low, high, body = argument
                if low < high or not self._is_fixed(list(body)):
                    return False
            elif name == "BRANCH":
                if self._alike(list(argument[1])) or not all(map(self._is_fixed, argument[1])):
                    return False
            elif name not in (*_ATOMS, "AT"):
                return False
        return True

    def _alike(self, branches: list[Any]) -> int:
        """How many branches could match where an earlier one does: none of their first bytes tells."""
        leads = [self._lead(list(branch)) for branch in branches]
        return sum(
            any(
                not any(one.isdisjoint(other) for one, other in zip(lead, before, strict=False))
                for before in leads[:number]
            )
            for number, lead in enumerate(leads)
        )

    def _lead(self, items: list[Any]) -> list[frozenset[int]]:
        """The bytes that a sequence has to begin with, as far as that is certain."""
        lead: list[frozenset[int]] = []
        for operator, argument in self._flat(items):
            name = str(operator)
            if name in _ATOMS:
                lead.append(self._bytes_of([(operator, argument)]))
            elif name != "AT":
                if name in _REPEATS and argument[0]:
                    lead.append(self._first(list(argument[2]), _NONE) or _ALL)
                break
        return lead

    def _first(self, items: list[Any], follow: frozenset[int]) -> frozenset[int]:
        """Bytes that a sequence can begin with; with `follow` too where it can be empty."""
        first: frozenset[int] = _NONE
        for operator, argument in self._flat(items):
            name = str(operator)
            if name in _REPEATS:
                first |= self._first(list(argument[2]), _NONE)
                if argument[0] and argument[2].getwidth()[0]:
                    return first
            elif name == "BRANCH":
                for branch in argument[1]:
                    first |= self._first(list(branch), _NONE)
                if all(branch.getwidth()[0] for branch in argument[1]):
                    return first
            elif name == "ATOMIC_GROUP":
                first |= self._first(list(argument), _NONE)
                if argument.getwidth()[0]:
                    return first
            elif name in _ATOMS:
                return first | self._bytes_of([(operator, argument)])
        return first | follow

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
            elif name in _REPEATS:
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
