"""What a new configuration changes, by name: the plan of a reload.

Sections are compared by value, so that a file that was only reformatted changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, NamedTuple

from gatewayd.config.schema import Config, Listener
from gatewayd.config.sections import key_name

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"
# What only the start of a process can do; the rest of the file is not applied either.
_AT_START: Final = ("workers", "admin.address")
# Keys that a connection to an endpoint bears: with others, kept ones would be wrong.
_OF_CONNECTIONS: Final = ("timeouts.", "max_header_bytes")


class Change(NamedTuple):
    """One thing that is added, removed or changed."""

    what: str  # listener, route, upstream, or a section of its own
    name: str  # empty for a section
    change: str
    keys: tuple[str, ...]  # that differ, where it is changed
    effect: str  # on what is being served

    def __str__(self) -> str:
        named = f"{self.what} {self.name}" if self.name else self.what
        keys = f" {', '.join(self.keys)}" if self.keys else ""
        return f"{named}: {self.change}{keys}: {self.effect}"

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {**self._asdict(), "keys": list(self.keys)}


def difference(old: Config, new: Config) -> list[Change]:
    """What a reload would do.

    Args:
        old, new: configurations without errors.

    Returns:
        The changes; empty if both mean the same.
    """
    found = list(_listeners(old, new))
    routes_were = {route.name: route for route in old.routes}
    routes_are = {route.name: route for route in new.routes}
    found += _named("route", routes_were, routes_are, _ROUTE)
    both = routes_were.keys() & routes_are.keys()
    if [n for n in routes_were if n in both] != [n for n in routes_are if n in both]:
        found.append(Change("routes", "", CHANGED, ("order",), "from the next request on"))
    found += _named("upstream", old.upstreams, new.upstreams, _UPSTREAM)
    for section, effect in _SECTIONS.items():
        was, now = getattr(old, section), getattr(new, section)
        if was != now:
            keys = tuple(key for key in changed_keys(was, now) if key)  # none where it is a scalar
            found.append(Change(section, "", CHANGED, keys, effect))
    return found


def refused(old: Config, new: Config) -> list[str]:
    """What a reload cannot do; each says what to do instead."""
    changed = set(changed_keys(old, new))
    return [
        f"{key} needs a restart, or `gatewayd upgrade`: its new value cannot be taken over"
        for key in _AT_START
        if any(each == key or each.startswith(key + ".") for each in changed)
    ]


def changed_keys(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The paths of the keys in which two values differ."""
    if old == new:
        return
    if is_dataclass(old) and type(old) is type(new):
        for each in fields(old):
            below = f"{path}.{key_name(each)}" if path else key_name(each)
            yield from changed_keys(getattr(old, each.name), getattr(new, each.name), below)
    else:
        yield path


def _listeners(old: Config, new: Config) -> Iterator[Change]:
    for name, was in old.listeners.items():
        now = new.listeners.get(name)
        if now is None:
            yield Change("listener", name, REMOVED, (), _leaves(was, new))
        elif now != was:
            keys = tuple(changed_keys(was, now))
            effect = "its socket and its clients stay"
            if "address" in keys:
                effect = f"listens on {now.address}; {_leaves(was, new)}"
            yield Change("listener", name, CHANGED, keys, effect)
    for name, now in new.listeners.items():
        if name not in old.listeners:
            taken = [n for n, was in old.listeners.items() if was.address == now.address]
            effect = f"on the socket of {taken[0]}" if taken else f"opens {now.address}"
            yield Change("listener", name, ADDED, (), effect)


def _leaves(was: Listener, new: Config) -> str:
    stays = any(each.address == was.address for each in new.listeners.values())
    socket = "hands its socket on" if stays else f"closes {was.address}"
    return f"{socket}; its clients finish what they began"


def _named(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], effects: Mapping[str, Any]
) -> Iterator[Change]:
    for name, was in old.items():
        if name not in new:
            yield Change(what, name, REMOVED, (), effects[REMOVED])
        elif new[name] != was:
            keys = tuple(changed_keys(was, new[name]))
            effect = effects[CHANGED]
            yield Change(what, name, CHANGED, keys, effect(keys) if callable(effect) else effect)
    for name in new:
        if name not in old:
            yield Change(what, name, ADDED, (), effects[ADDED])


def _pool_effect(keys: tuple[str, ...]) -> str:
    if any(key.startswith(_OF_CONNECTIONS) for key in keys):
        return "members and health stay; idle connections close, busy ones when they are done"
    return "members, health and connections stay"


_ROUTE: Final = {
    ADDED: "from the next request on",
    REMOVED: "what it serves goes on to its end",
    CHANGED: "from the next request on; buckets, budgets and counts stay",
}
_UPSTREAM: Final = {
    ADDED: "with a pool of its own",
    REMOVED: "its idle connections close, busy ones when they are done",
    CHANGED: _pool_effect,
}
_SECTIONS: Final = {
    "zookeeper": "a new session; members stay",
    "admin": "from the next question on",
    "logging": "from the next line on",
    "drain_timeout": "at the next stop",
    "drain_delay": "at the next stop",
}
