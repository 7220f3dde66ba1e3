"""Sections: mappings whose keys are the fields of a dataclass.

A field carries its kind and its text for people in its metadata, so that config.schema is the only
list of keys: the reader, the JSON Schema, /config and the man page all come from it.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar

from gatewayd.config.document import Mapping, Node, Scalar
from gatewayd.config.kinds import LATER, Kind, Reader, did_you_mean

T = TypeVar("T")
_REQUIRED = object()


def key(kind: Kind[Any], default: Any = _REQUIRED, doc: str = "", *, name: str = "") -> Any:
    """Declare a key.

    Args:
        kind: of its value.
        default: while it is not written; without one the key is required.
        doc: one line for people.
        name: in the file, where it is none in Python.
    """
    metadata = {"kind": kind, "doc": doc, "name": name}
    if default is _REQUIRED:
        return field(metadata=metadata)
    if default is dict or is_dataclass(default):  # mutable, or made anew: a class stands for it
        factory: Any = default
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def later(doc: str = "") -> Any:
    """Declare a key whose function is not there yet."""
    return key(LATER, None, doc)


class SectionOf(Kind[T]):
    """A mapping that becomes a dataclass."""

    def __init__(self, section: type[T]) -> None:
        """Args: section: a dataclass whose fields were declared by `key`."""
        self.section = section
        self.fallback = None

    def read(self, node: Node, path: str, reader: Reader) -> T:
        """As Kind."""
        reader.places.setdefault(path, node.place)
        if isinstance(node, Scalar) and node.kind == "null":
            node = Mapping(node.place, {})
        if not isinstance(node, Mapping):
            reader.refuse(node.place, path, "expected a mapping of keys to values")
            return self._without(path, {})
        known = {key_name(each): each for each in fields(self.section)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for name, (place, value) in node.items.items():
            below = f"{path}.{name}" if path else name
            reader.places[below] = place
            declared = known.get(name)
            if declared is None:
                reader.refuse(place, below, "no such key" + did_you_mean(name, known))
                continue
            values[declared.name] = declared.metadata["kind"].read(value, below, reader)
        for name, declared in known.items():
            if is_required(declared) and declared.name not in values:
                reader.refuse(node.place, f"{path}.{name}" if path else name, "required")
        return self._without(path, values)

    def _without(self, path: str, values: dict[str, Any]) -> T:
        """The section, its missing required keys filled with what stands for the unreadable."""
        for each in fields(self.section):  # type: ignore[arg-type]
            if each.name not in values and is_required(each):
                values[each.name] = each.metadata["kind"].fallback
        return self.section(**values)

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for each in fields(self.section):  # type: ignore[arg-type]
            kind = each.metadata["kind"]
            if kind is LATER:
                continue
            described = dict(kind.schema())
            if each.metadata["doc"]:
                described["description"] = each.metadata["doc"]
            shown = default_of(each)
            if shown is not None:
                described["default"] = shown
            properties[key_name(each)] = described
            if is_required(each):
                required.append(key_name(each))
        found: dict[str, Any] = {
            "type": "object" if required else ["object", "null"],
            "properties": properties,
            "additionalProperties": False,
        }
        return {**found, "required": required} if required else found

    def show(self, value: T) -> Any:
        """As Kind."""
        if value is None:
            return None
        return {
            key_name(each): shown
            for each in fields(self.section)  # type: ignore[arg-type]
            if (shown := each.metadata["kind"].show(getattr(value, each.name))) is not None
        }

    def made(self, value: Any) -> bool:
        """As Kind."""
        return isinstance(value, self.section)


def key_name(declared: Field[Any]) -> str:
    """A field's key in the file."""
    return str(declared.metadata["name"] or declared.name)


def is_required(declared: Field[Any]) -> bool:
    """Whether a key has no default."""
    return declared.default is MISSING and declared.default_factory is MISSING


def default_of(declared: Field[Any]) -> Any:
    """A key's default as JSON, None if it is required or off."""
    if declared.default is not MISSING:
        value = declared.default
    elif declared.default_factory is not MISSING:
        value = declared.default_factory()
    else:
        return None
    return declared.metadata["kind"].show(value)
