"""What a value may be: how it is read, shown, and described in JSON Schema.

A kind turns a node into a typed value or says, with the node's place, what is wrong. Containers go on
after an error, so that all are found in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Final, Generic, TypeVar

from gatewayd.config.document import Mapping, Node, Place, Problem, Scalar, Sequence

T = TypeVar("T")
_DIGITS: Final = 32  # of a number: Python refuses to read those of over 4300


class Reader:
    """Collects what reading a document found."""

    def __init__(self, problems: list[Problem]) -> None:
        """Args: problems: what is wrong is added here."""
        self.problems = problems
        self.places: dict[str, Place] = {}  # of every value by its path
        self.written: dict[str, str] = {}  # as written, where something was filled in
        self.failed: set[str] = set()  # paths whose value could not be read

    def refuse(self, place: Place, path: str, message: str) -> None:
        """Something is wrong there."""
        self.problems.append(Problem(place, path, message))
        self.failed.add(path)

    def place_of(self, path: str) -> Place:
        """Where a path's value stands, or the nearest above it that was written."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return Place(1, 1)

    def complain(self, path: str, message: str) -> None:
        """A value was read and yet is wrong beside others."""
        self.refuse(self.place_of(path), path, message)


class Invalid(Exception):
    """A scalar that its kind does not take; says what was expected."""


class Kind(Generic[T]):
    """One kind of value."""

    fallback: Any = None  # stands for a value that could not be read

    def read(self, node: Node, path: str, reader: Reader) -> T:
        """The value of a node; errors go to the reader, and the fallback is returned."""
        reader.places.setdefault(path, node.place)
        if not isinstance(node, Scalar):
            found = "a list" if isinstance(node, Sequence) else "a mapping"
            reader.refuse(node.place, path, f"expected {self.name}, found {found}")
            return self.fallback  # type: ignore[no-any-return]
        if node.source:
            reader.written[path] = node.source
        if node.kind == "lost":
            reader.failed.add(path)
            return self.fallback  # type: ignore[no-any-return]
        try:
            return self.take(node)
        except (Invalid, ValueError) as error:
            reader.refuse(node.place, path, str(error))
            return self.fallback  # type: ignore[no-any-return]

    def take(self, node: Scalar) -> T:
        """The value of a scalar.

        Raises:
            Invalid, ValueError: with what was expected.
        """
        raise Invalid(f"expected {self.name}, found {node.text!r}")

    @property
    def name(self) -> str:
        """For messages."""
        return "a value"

    def schema(self) -> dict[str, Any]:
        """In JSON Schema."""
        return {}

    def show(self, value: T) -> Any:
        """As JSON, for /config and for the documents."""
        return value

    def made(self, value: Any) -> bool:
        """Whether a value is one of this kind's."""
        return True


class Bool(Kind[bool]):
    """true or false."""

    fallback = False
    name = "true or false"

    def take(self, node: Scalar) -> bool:
        """As Kind."""
        if node.kind != "bool":
            hint = "; YAML 1.2 knows no yes, no, on or off" if node.kind == "str" else ""
            raise Invalid(f"expected true or false, found {node.text!r}{hint}")
        return node.text.lower() == "true"

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": "boolean"}


class Int(Kind[int]):
    """A whole number in a range."""

    fallback = 1

    def __init__(self, least: int = 0, most: int = 2**31 - 1) -> None:
        """Args: least, most: the range."""
        self.least = least
        self.most = most

    @property
    def name(self) -> str:
        """For messages."""
        return f"a whole number from {self.least} to {self.most}"

    def take(self, node: Scalar) -> int:
        """As Kind."""
        if node.kind != "int" or len(node.text) > _DIGITS:
            raise Invalid(f"expected {self.name}, found {node.text!r}")
        value = int(node.text, 0) if node.text[:2] in ("0o", "0x") else int(node.text)
        if not self.least <= value <= self.most:
            raise Invalid(f"expected {self.name}, found {value}")
        return value

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Unit(Kind[T]):
    """A number with a unit."""

    def __init__(
        self,
        parse: Callable[[str], T],
        show: Callable[[T], str],
        pattern: str,
        *,
        positive: bool = False,
    ) -> None:
        """Args: parse, show: from config.units. pattern: for JSON Schema. positive: 0 is refused."""
        self._parse = parse
        self._show = show
        self._pattern = pattern
        self._positive = positive
        self.fallback = parse("0") if not pattern.endswith("%$") else parse("0%")

    def take(self, node: Scalar) -> T:
        """As Kind."""
        try:
            value = self._parse(node.text)
        except ValueError as error:
            raise Invalid(f"{error}, found {node.text!r}") from error
        if self._positive and not value:
            raise Invalid("must be more than 0")
        return value

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": ["string", "integer"], "pattern": self._pattern}

    def show(self, value: T) -> Any:
        """As Kind."""
        return self._show(value)


class Text(Kind[str]):
    """Text, perhaps of a certain form."""

    fallback = ""
    name = "text"

    def __init__(
        self, check: Callable[[str], Any] | None = None, *, pattern: str = "", secret: bool = False
    ) -> None:
        """Args:
        check: raises ValueError with what is wrong.
        pattern: for JSON Schema.
        secret: never shown.
        """
        self._check = check
        self._pattern = pattern
        self._secret = secret

    def take(self, node: Scalar) -> str:
        """As Kind."""
        if node.kind == "null":
            raise Invalid('expected text, found nothing; write "" for an empty one')
        if node.kind != "str" and not node.source:
            raise Invalid(f"expected text, found {node.text}; put it in quotes")
        if self._check is not None:
            self._check(node.text)
        return node.text

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": "string", **({"pattern": self._pattern} if self._pattern else {})}

    def show(self, value: str) -> Any:
        """As Kind."""
        return "***" if self._secret and value else value


class Parsed(Kind[T]):
    """Text that stands for something else."""

    name = "text"

    def __init__(
        self, parse: Callable[[str], T], *, show: Callable[[T], str] = str, none: str = ""
    ) -> None:
        """Args:
        parse: raises ValueError with what is expected.
        show: turns it back.
        none: the word that is read as None, if there is one.
        """
        self._parse = parse
        self._show = show
        self._none = none or None

    def take(self, node: Scalar) -> T:
        """As Kind."""
        if node.kind not in ("str", "int"):
            raise Invalid(f"expected text, found {node.text!r}")
        return self._parse(node.text)

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": ["string", "integer"]}

    def show(self, value: T) -> Any:
        """As Kind."""
        return self._none if value is None else self._show(value)


class Choice(Kind[str]):
    """One of some words."""

    def __init__(self, *words: str, later: Iterable[str] = ()) -> None:
        """Args: words: that are taken. later: that will be."""
        self.words = words
        self._later = frozenset(later)
        self.fallback = words[0]

    @property
    def name(self) -> str:
        """For messages."""
        return "one of " + ", ".join(self.words)

    def take(self, node: Scalar) -> str:
        """As Kind."""
        if node.text in self._later:
            raise Invalid(f"{node.text} is not yet supported")
        if node.text not in self.words:
            raise Invalid(
                f"expected {self.name}, found {node.text!r}" + did_you_mean(node.text, self.words)
            )
        return node.text

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"enum": list(self.words)}


class Later(Kind[None]):
    """A key whose function is not there yet."""

    def read(self, node: Node, path: str, reader: Reader) -> None:
        """Refuse it, whatever it says."""
        reader.places.setdefault(path, node.place)
        reader.refuse(node.place, path, "not yet supported")


class ListOf(Kind[tuple[T, ...]]):
    """A list of one kind."""

    fallback = ()

    def __init__(self, item: Kind[T], *, some: bool = False) -> None:
        """Args: item: of each. some: an empty list is refused."""
        self._item = item
        self._some = some

    def read(self, node: Node, path: str, reader: Reader) -> tuple[T, ...]:
        """As Kind."""
        reader.places.setdefault(path, node.place)
        if not isinstance(node, Sequence):
            reader.refuse(node.place, path, "expected a list, such as [a, b]")
            return ()
        if self._some and not node.items:
            reader.refuse(node.place, path, "an empty list; leave the key out, or name something")
        return tuple(
            self._item.read(item, f"{path}[{index}]", reader)
            for index, item in enumerate(node.items)
        )

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        least: dict[str, Any] = {"minItems": 1} if self._some else {}
        return {"type": "array", "items": self._item.schema(), **least}

    def show(self, value: tuple[T, ...]) -> Any:
        """As Kind."""
        return [self._item.show(item) for item in value]


class MapOf(Kind[dict[str, T]]):
    """Names with values of one kind."""

    def __init__(self, item: Kind[T], check: Callable[[str], Any] | None = None) -> None:
        """Args: item: of each value. check: of each name; raises ValueError."""
        self._item = item
        self._check = check
        self.fallback = {}

    def read(self, node: Node, path: str, reader: Reader) -> dict[str, T]:
        """As Kind."""
        reader.places.setdefault(path, node.place)
        if not isinstance(node, Mapping):
            reader.refuse(node.place, path, "expected a mapping of names to values")
            return {}
        found: dict[str, T] = {}
        for name, (place, value) in node.items.items():
            below = f"{path}.{name}"
            reader.places[below] = place
            try:
                if self._check is not None:
                    self._check(name)
            except ValueError as error:
                reader.refuse(place, below, str(error))
            found[name] = self._item.read(value, below, reader)
        return found

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"type": "object", "additionalProperties": self._item.schema()}

    def show(self, value: dict[str, T]) -> Any:
        """As Kind."""
        return {name: self._item.show(item) for name, item in value.items()}

    def made(self, value: Any) -> bool:
        """As Kind."""
        return isinstance(value, dict)


class Either(Kind[Any]):
    """A scalar of one kind, or a mapping or list of another."""

    def __init__(self, scalar: Kind[Any], other: Kind[Any]) -> None:
        """Args: scalar, other: which one is read depends on the node."""
        self._scalar = scalar
        self._other = other
        self.fallback = scalar.fallback

    def read(self, node: Node, path: str, reader: Reader) -> Any:
        """As Kind."""
        kind = self._scalar if isinstance(node, Scalar) else self._other
        return kind.read(node, path, reader)

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"anyOf": [self._scalar.schema(), self._other.schema()]}

    def show(self, value: Any) -> Any:
        """As Kind."""
        return (self._other if self._other.made(value) else self._scalar).show(value)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint at the nearest word, or nothing."""
    near = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


LATER: Final = Later()
