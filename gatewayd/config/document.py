"""YAML text as a tree of nodes that know their place, with ${...} filled in.

YAML 1.2's core schema: `on`, `yes` and `22:22` are text, and so is every key. Interpolation happens in
scalars after parsing, so that a value from the environment can never change the document's structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as Environ
from typing import Final, NamedTuple

import yaml

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}|\Z)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLAIN: Final = (  # yaml.org/spec/1.2.2 §10.3.2
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")),
)
_MAX_NODES: Final = 1_000_000  # aliases within aliases must not unfold for ever


class Place(NamedTuple):
    """Where something stands in the file, both from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """Something wrong in a configuration."""

    place: Place
    path: str  # of the key, as in routes[0].match; empty for the file as a whole
    message: str

    def show(self, file: str) -> str:
        """As `gatewayd check` prints it."""
        where = f"{file}:{self.place.line}:{self.place.column}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


class _TooMany(Exception):
    """Aliases within aliases unfold without end."""


class ConfigError(Exception):
    """A configuration that cannot be used, with all that is wrong in it."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        """Args: file: its name. problems: at least one."""
        self.file = file
        self.problems = sorted(problems)
        super().__init__("\n".join(problem.show(file) for problem in self.problems))


class Scalar:
    """A single value."""

    def __init__(self, place: Place, text: str, kind: str, source: str) -> None:
        """Args:
        text: after interpolation.
        kind: `null`, `bool`, `int`, `float` or `str`; `lost` if what was to be filled in is not there.
        source: as written where something was filled in, else empty.
        """
        self.place = place
        self.text = text
        self.kind = kind
        self.source = source


class Sequence:
    """A list."""

    def __init__(self, place: Place, items: list[Node]) -> None:
        """Args: items: in order."""
        self.place = place
        self.items = items


class Mapping:
    """Keys with their values, in order."""

    def __init__(self, place: Place, items: dict[str, tuple[Place, Node]]) -> None:
        """Args: items: by key, with the key's own place."""
        self.place = place
        self.items = items


Node = Scalar | Sequence | Mapping


def read_document(
    text: str,
    environ: Environ[str, str],
    read_file: Callable[[str], str],
    problems: list[Problem],
) -> Node | None:
    """Parse a document.

    Args:
        text: of the file.
        environ: for ${NAME}.
        read_file: for ${file:PATH}; raises OSError or ValueError.
        problems: what is wrong is added here.

    Returns:
        Its root; None if it is no YAML at all.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
        problems.append(Problem(place, "", f"not YAML: {error.problem or error}"))
        return None
    except yaml.YAMLError as error:
        above = text[: getattr(error, "position", 0)]
        place = Place(above.count("\n") + 1, len(above) - above.rfind("\n"))
        problems.append(Problem(place, "", f"not YAML: {str(error).splitlines()[0]}"))
        return None
    except RecursionError:
        problems.append(Problem(Place(1, 1), "", "nested too deeply"))
        return None
    if root is None:
        return Mapping(Place(1, 1), {})
    try:
        return _Builder(environ, read_file, problems).build(root, "", ())
    except (RecursionError, _TooMany):
        problems.append(Problem(Place(1, 1), "", "aliases unfold to far too much"))
        return None


class _Builder:
    """Turns PyYAML's nodes into ours."""

    def __init__(
        self,
        environ: Environ[str, str],
        read_file: Callable[[str], str],
        problems: list[Problem],
    ) -> None:
        self._environ = environ
        self._read_file = read_file
        self._problems = problems
        self._built = 0

    def build(self, node: yaml.Node, path: str, above: tuple[int, ...]) -> Node:
        mark = node.start_mark
        place = Place(mark.line + 1, mark.column + 1)
        self._built += 1
        if self._built > _MAX_NODES:
            raise _TooMany
        if id(node) in above:
            self._problems.append(Problem(place, path, "an alias that contains itself"))
            return Scalar(place, "", "null", "")
        above = (*above, id(node))
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.build(item, f"{path}[{index}]", above) for index, item in enumerate(node.value)
            ]
            return Sequence(place, items)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, path, above)
        return self._scalar(node, place, path)

    def _mapping(
        self, node: yaml.MappingNode, place: Place, path: str, above: tuple[int, ...]
    ) -> Node:
        items: dict[str, tuple[Place, Node]] = {}
        for key, value in node.value:
            key_place = Place(key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self._problems.append(Problem(key_place, path, "a key must be plain text"))
                continue
            name = str(key.value)
            below = f"{path}.{name}" if path else name
            if name in items:
                self._problems.append(Problem(key_place, below, "written twice"))
                continue
            items[name] = (key_place, self.build(value, below, above))
        return Mapping(place, items)

    def _scalar(self, node: yaml.Node, place: Place, path: str) -> Scalar:
        written = str(node.value)
        plain = getattr(node, "style", None) is None
        if "${" not in written:
            return Scalar(place, written, _kind(written) if plain else "str", "")

        known = len(self._problems)

        def fill(match: re.Match[str]) -> str:
            if match.group(1) is None:
                return "${"
            if not match.group(2):
                message = f"{match.group()} has no end; write $${{ for a plain ${{"
                self._problems.append(Problem(place, path, message))
                return ""
            return self._look_up(match.group(1), place, path)

        text = _REFERENCE.sub(fill, written)
        kind = _kind(text) if plain else "str"
        if len(self._problems) > known:
            kind = "lost"
        elif kind == "null":
            kind = "str"  # only the document itself says that there is nothing
        return Scalar(place, text, kind, written)

    def _look_up(self, reference: str, place: Place, path: str) -> str:
        if reference.startswith("file:"):
            name = reference[5:]
            try:
                return self._read_file(name).removesuffix("\n")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._problems.append(Problem(place, path, f"{name} cannot be read: {reason}"))
                return ""
        name, default_mark, default = reference.partition(":-")
        if _NAME.match(name) is None:
            message = f"${{{reference}}} is no reference; write ${{NAME}}, or $${{ for a plain ${{"
            self._problems.append(Problem(place, path, message))
            return ""
        found = self._environ.get(name)
        if found is None and not default_mark:
            message = f"the environment has no {name}; set it, or write ${{{name}:-default}}"
            self._problems.append(Problem(place, path, message))
            return ""
        return default if found is None else found


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _PLAIN if pattern.match(text) is not None), "str")
