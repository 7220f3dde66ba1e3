"""What publishers write into ZooKeeper, and how it is read; stated in the configuration, never guessed.

| format | where | like |
| --- | --- | --- |
| plain | data, or the node's name where there is none | `10.0.0.1:8080 weight=3` |
| serverset | data | `{"serviceEndpoint": {"host": "h", "port": 31943}, "status": "ALIVE", ...}` |
| nerve | data | `{"host": "h", "port": 1234, "weight": 10, ...}` |
| curator | data | `{"address": "10.20.30.40", "port": 1234, ...}` |
| dubbo | the node's name, escaped | `rest://127.0.0.1:20000/com.foo.Bar?weight=100&enabled=true` |

A member that says itself that it takes no requests has weight 0, and that is believed at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from gatewayd.core.addresses import Address, parse_host_port
from gatewayd.core.endpoints import MAX_WEIGHT

MAX_DATA: Final = 65536  # bytes of a node: an address with what people put beside it is far smaller
_MAX_REASON: Final = 300  # characters of a reason, which quotes what it found
_DUBBO_WEIGHT: Final = 100  # a dubbo provider's own default
_HTTP_FAMILY: Final = ("http", "rest", "hessian", "webservice")  # dubbo's own protocol is none


class Unreadable(ValueError):
    """A node that names no member; says why, for the log."""


def read_member(form: str, name: str, data: bytes, endpoint: str = "") -> tuple[Address, int]:
    """Read one node.

    Args:
        form: one of FORMATS.
        name: of the node, without its path.
        data: of the node.
        endpoint: serverset: one of additionalEndpoints instead of serviceEndpoint.

    Returns:
        (address, weight); the host may be a name.

    Raises:
        Unreadable: it names no member.
    """
    if len(data) > MAX_DATA:
        raise Unreadable(f"{len(data)} bytes of data, over {MAX_DATA}")
    try:
        return _READERS[form](name, data, endpoint)
    except Unreadable as error:
        raise Unreadable(str(error)[:_MAX_REASON]) from error
    except KeyError as error:
        raise Unreadable(f"no {form} member: {error} is missing") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"no {form} member: {error}"[:_MAX_REASON]) from error


def reads_data(form: str) -> bool:
    """Whether a format needs the nodes' data; else the names tell all."""
    return form != "dubbo"


def _address(host: Any, port: Any) -> Address:
    if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int):
        raise Unreadable(f"host {host!r} and port {port!r} are no text and number")
    return parse_host_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _weight(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Unreadable(f"weight {value!r} is no number from 0 upwards")
    if not value:
        return 0
    return max(1, min(MAX_WEIGHT, round(value)))


def _json(data: bytes) -> dict[str, Any]:
    found = json.loads(data.decode("utf-8"))
    if not isinstance(found, dict):
        raise Unreadable("the data is no JSON object")
    return found


def _plain(name: str, data: bytes, endpoint: str) -> tuple[Address, int]:
    words = (data.decode("utf-8").strip() or name).split()
    weight = 1
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key != "weight" or not equals or not (value.isascii() and value.isdigit()):
            raise Unreadable(f"{word!r} is no weight=NUMBER")
        weight = _weight(int(value))
    if not words:
        raise Unreadable("no address")
    return parse_host_port(words[0]), weight


def _serverset(name: str, data: bytes, endpoint: str) -> tuple[Address, int]:
    member = _json(data)
    place = member["additionalEndpoints"][endpoint] if endpoint else member["serviceEndpoint"]
    return _address(place["host"], place["port"]), 1 if member.get("status") == "ALIVE" else 0


def _nerve(name: str, data: bytes, endpoint: str) -> tuple[Address, int]:
    member = _json(data)
    weight = member.get("weight")
    return _address(member["host"], member["port"]), 1 if weight is None else _weight(weight)


def _curator(name: str, data: bytes, endpoint: str) -> tuple[Address, int]:
    member = _json(data)
    enabled = member.get("enabled", True)
    return _address(member["address"], member["port"]), 1 if enabled is not False else 0


def _dubbo(name: str, data: bytes, endpoint: str) -> tuple[Address, int]:
    parts = urlsplit(unquote(name))
    if parts.scheme not in _HTTP_FAMILY:
        raise Unreadable(f"the scheme {parts.scheme!r} is none of {', '.join(_HTTP_FAMILY)}")
    query = parse_qs(parts.query)
    weight = _weight(int(query.get("weight", [str(_DUBBO_WEIGHT)])[0]))
    enabled = query.get("enabled", ["true"])[0].lower() != "false"
    return _address(parts.hostname, parts.port), weight if enabled else 0


_READERS: Final[dict[str, Callable[[str, bytes, str], tuple[Address, int]]]] = {
    "plain": _plain,
    "serverset": _serverset,
    "curator": _curator,
    "nerve": _nerve,
    "dubbo": _dubbo,
}
FORMATS: Final = tuple(_READERS)
