"""config.schema: the JSON Schema that editors get says what the loader says."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.cli import main
from gatewayd.config.document import Node, Problem, Scalar, Sequence, read_document
from gatewayd.config.schema import json_schema
from tests.unit.config_cases import (
    BASE,
    DEFAULTS,
    EXAMPLES,
    GOLDEN,
    LEGAL,
    LISTENERS,
    UPSTREAMS,
    WITHOUT,
    ZEROES,
    listener,
    routes,
    upstream,
    wrong,
)

try:
    import jsonschema
except ImportError:  # no dependency of ours: without it the structure alone is looked at
    jsonschema = None

# What an editor can see too; the rest needs more than a schema: references, addresses, networks, ….
STRUCTURAL = {
    "an unknown key": BASE + "listners: {}\n",
    "an unknown key below": listener("limits: {max_conections: 1}"),
    "no listeners": UPSTREAMS,
    "no address": UPSTREAMS + "listeners: {web: {}}\n",
    "no address, nor anything": UPSTREAMS + "listeners: {web: }\n",
    "no name": BASE + "routes: [{upstream: u}]\n",
    "a word for a number": listener("limits: {max_connections: many}"),
    "a number over its range": listener("limits: {max_headers: 65537}"),
    "a duration without a unit": listener("timeouts: {read: '5'}"),
    "a size in KB": listener("limits: {max_body_bytes: 1KB}"),
    "a share without percent": upstream("panic_threshold: '20'"),
    "a rate without a time": listener("limits: {min_body_rate: '240'}"),
    "on for true": listener("host_fallthrough: on"),
    "a word that is none of its kind": upstream("via: botj"),
    "a list for a mapping": listener("limits: []"),
    "a mapping for a list": BASE + "routes: {}\n",
    "a scalar for a list": listener("trusted_proxies: 10.0.0.0/8"),
    "an empty list of hosts": routes("upstream: u, match: {hosts: []}"),
    "an empty list of those who may come": routes("upstream: u, allow: []"),
    "a key that is not yet supported": listener("tls: {}"),
    "another one": routes("upstream: u, cors: {}"),
    "no format": upstream("zookeeper: {path: /x}"),
    "a word that is not yet supported": listener("protocol: tcp"),
    "no workers": BASE + "workers: 0\n",
    "a word for workers": BASE + "workers: many\n",
    "a weight over 256": LISTENERS + "upstreams: {u: {endpoints: [{address: h:1, weight: 257}]}}\n",
    "no rate": routes("upstream: u, rate_limit: {}"),
    "passive health by true": upstream("passive_health: 1"),
}


def as_json(node: Node | None) -> Any:
    """A document as an editor's YAML 1.2 parser sees it."""
    if isinstance(node, Scalar):
        if node.kind == "int":
            return int(node.text, 0) if node.text[:2] in ("0o", "0x") else int(node.text)
        if node.kind == "bool":
            return node.text.lower() == "true"
        return {"null": None, "float": 0.5}.get(node.kind, node.text)
    if isinstance(node, Sequence):
        return [as_json(item) for item in node.items]
    return {name: as_json(value) for name, (_, value) in node.items.items()} if node else None


def document(text: str) -> Any:
    """A document's values."""
    problems: list[Problem] = []
    root = read_document(text, {}, lambda name: "", problems)
    assert not problems, problems
    return as_json(root)


def sections(described: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All schemas within a schema, with their paths."""
    yield path, described
    for name, below in described.get("properties", {}).items():
        yield from sections(below, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(described.get(name), dict):
            yield from sections(described[name], f"{path}[]")
    for either in described.get("anyOf", ()):
        yield from sections(either, path)


class Structure(SynchronousTestCase):
    """What can be seen without a validator."""

    def setUp(self) -> None:
        self.sections = list(sections(json_schema()))

    def test_every_key_says_what_it_is(self) -> None:
        """An editor shows it."""
        self.assertEqual(
            [],
            [
                f"{path}.{name}"
                for path, described in self.sections
                for name, below in described.get("properties", {}).items()
                if not below.get("description")
            ],
        )

    def test_unknown_keys_are_refused_everywhere(self) -> None:
        """A section is closed; what is open is a mapping of names."""
        for path, described in self.sections:
            if "properties" in described:
                self.assertIs(False, described["additionalProperties"], path)
                self.assertLessEqual(
                    set(described.get("required", ())), set(described["properties"]), path
                )
            elif "object" in described.get("type", ()):
                self.assertIsInstance(described["additionalProperties"], dict, path)

    def test_patterns(self) -> None:
        """They are regular expressions, and defaults of theirs match them."""
        for path, described in self.sections:
            if "pattern" in described:
                pattern = re.compile(described["pattern"])
                if "default" in described:
                    self.assertRegex(str(described["default"]), pattern, path)

    def test_required(self) -> None:
        """What has no default."""
        self.assertEqual(
            {
                "": ["listeners"],
                ".listeners[]": ["address"],
                ".listeners[].proxy_protocol": ["from"],
                ".routes[]": ["name"],
                ".routes[].redirect": ["to"],
                ".routes[].rate_limit": ["rate"],
                ".upstreams[].endpoints[]": ["address"],
                ".upstreams[].zookeeper": ["path", "format"],
                ".zookeeper": ["hosts"],
                ".zookeeper.register": ["path"],
            },
            {path: each["required"] for path, each in self.sections if "required" in each},
        )

    def test_the_command(self) -> None:
        """`gatewayd schema` prints it."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self.assertEqual(0, main(["schema"]))
        self.assertEqual(json_schema(), json.loads(printed.getvalue()))
        self.assertEqual(
            ("https://json-schema.org/draft/2020-12/schema", "gatewayd.yaml"),
            (json_schema()["$schema"], json_schema()["title"]),
        )


class Validation(SynchronousTestCase):
    """The same verdicts by a validator."""

    maxDiff = None

    if jsonschema is None:
        skip = "the jsonschema package is not installed"

    def setUp(self) -> None:
        self.validator = jsonschema.Draft202012Validator(json_schema())

    def verdicts(self, documents: dict[str, str]) -> dict[str, list[str]]:
        """What the validator says of each; nothing of those that are fine."""
        return {
            intent: found
            for intent, text in documents.items()
            if (found := [each.message for each in self.validator.iter_errors(document(text))])
        }

    def test_it_is_a_schema(self) -> None:
        """By the schema of schemas."""
        jsonschema.Draft202012Validator.check_schema(json_schema())

    def test_what_the_loader_takes(self) -> None:
        """Defaults, examples, zeroes, odd forms."""
        documents = {text: text for text in (BASE, DEFAULTS, WITHOUT, EXAMPLES, *LEGAL)}
        self.assertEqual({}, self.verdicts({**documents, **ZEROES}))

    def test_what_the_loader_refuses(self) -> None:
        """As far as a schema can see."""
        self.assertEqual([], [intent for intent, text in STRUCTURAL.items() if not wrong(text)])
        self.assertEqual(set(STRUCTURAL), set(self.verdicts(STRUCTURAL)))

    def test_what_it_cannot_see_it_lets_pass(self) -> None:
        """No document that only dangles is refused for another reason."""
        seen = {
            intent: GOLDEN[group][intent][0]
            for group, intent in (
                ("TopLevel", "two upstreams and no route"),
                ("Listeners", "an address taken"),
                ("Routes", "a redirect in circles"),
                ("Routes", "two paths"),
                ("AdminAndLogs", "open to others without a token"),
            )
        }
        self.assertEqual({}, self.verdicts(seen))
