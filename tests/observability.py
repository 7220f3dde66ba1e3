"""Whether dashboard, rules and metrics belong together.

Run as `python -m tests.observability`. promtool judges rules, expressions and metrics; a real gateway with
the demo's configuration is asked for its metrics, and every name and label that a panel, a variable or a
rule uses must be among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

from gatewayd import demo
from gatewayd.core.endpoints import STATES
from gatewayd.core.errors import REASONS
from gatewayd.discovery.session import STATES as STATES_OF_SESSION
from tests.live.harness.daemon import Daemon, free_port
from tests.live.harness.upstream import (
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    refused_port,
)
from tests.live.harness.waiting import eventually

HERE: Final = Path(__file__).resolve().parent.parent
RULES: Final = HERE / "etc/prometheus/gatewayd.rules.yml"
TESTS: Final = HERE / "etc/prometheus/gatewayd.rules.test.yml"
DASHBOARD: Final = HERE / "etc/grafana/gatewayd.json"

# What promtool says of our metrics, and why it stays so.
ALLOWED: Final[dict[str, str]] = {}

# Prometheus itself adds these.
OF_TARGETS: Final = frozenset({"job", "instance"})
OF_PROMETHEUS: Final[dict[str, frozenset[str]]] = {"up": frozenset()}

# In /metrics only after a worker has died.
OF_DEAD_WORKERS: Final = {"gatewayd_worker_restarts_total": frozenset({"cause"})}

# Values that a rule may compare with, where the code has a list of them.
VALUES: Final[dict[tuple[str, str], Iterable[str]]] = {
    ("gatewayd_upstream_endpoints", "state"): STATES,
    ("gatewayd_gateway_answers_total", "reason"): REASONS,
    ("gatewayd_zookeeper_state", "state"): STATES_OF_SESSION,
}

Known = dict[str, frozenset[str]]  # labels by metric


# --- what an expression uses


class Use(NamedTuple):
    """A metric in an expression, with the labels that the expression wants of it."""

    metric: str
    labels: set[str]
    compared: dict[str, str]  # by label: the value or regex that it is matched with


class Used(NamedTuple):
    """All that an expression uses."""

    metrics: list[Use]
    grouped: set[str]  # labels in by (...): all that is left of the others
    matched: set[str]  # labels in on (...), which both sides have
    carried: set[str]  # labels in group_left (...), which one side has

    def labels_left(self, known: Known) -> set[str]:
        """The labels of its result, or a few more."""
        if self.grouped:
            return (self.grouped | self.carried) - {"le"}
        return {*OF_TARGETS, *(label for use in self.metrics for label in known[use.metric])}


_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_:][\w:]*|[=!]~|[=!]=|\d[\w.]*|\S')
_NAME: Final = re.compile(r"[A-Za-z_:]")
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


class _Expression:
    """Reads a PromQL expression; it knows as much of the language as our files use."""

    def __init__(self, text: str) -> None:
        self.used = Used([], set(), set(), set())
        self._tokens = _TOKEN.findall(text)
        self._at = 0
        self._read("")

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _until(self, end: str) -> list[str]:
        """What stands between the bracket that is next and its end."""
        begin = self._at + 1
        self._at = self._tokens.index(end, begin) + 1
        return [token for token in self._tokens[begin : self._at - 1] if token != ","]

    def _read(self, end: str) -> None:
        while token := self._next():
            if token == "[":
                self._until("]")
                continue
            self._at += 1
            if token == end:
                return
            if token == "(":
                self._read(")")
            elif token == "by":
                self._group(self._until(")"))
            elif token == "on":
                self.used.matched.update(self._until(")"))
            elif token == "group_left":
                self.used.carried.update(self._until(")"))
            elif token in ("without", "ignoring", "group_right"):
                raise ValueError(f"name the labels that stay, instead of {token} (...)")
            elif _NAME.match(token) and token not in _WORDS and self._next() not in ("(", "by"):
                self._metric(token)

    def _group(self, labels: list[str]) -> None:
        """by (...) wants its labels of all metrics within the parentheses that follow."""
        if self._next() != "(":
            raise ValueError("write by (...) before what it groups")
        self._at += 1
        before = len(self.used.metrics)
        self._read(")")
        for use in self.used.metrics[before:]:
            use.labels.update(labels)
        self.used.grouped.update(labels)

    def _metric(self, name: str) -> None:
        matchers = self._until("}") if self._next() == "{" else []
        values = [value.strip('"') for value in matchers[2::3]]
        compared = dict(zip(matchers[::3], values, strict=True))
        self.used.metrics.append(Use(name, set(compared), compared))


def used_by(expression: str) -> Used:
    """Find the metrics and labels of an expression.

    Raises:
        ValueError: it is written in a way that this reader does not know.
    """
    return _Expression(expression).used


def missing(expression: str, known: Known) -> Iterator[str]:
    """What an expression uses and nobody brings."""
    used = used_by(expression)
    if not used.metrics:
        yield "it uses no metric"
    labels_of: list[frozenset[str]] = []
    for use in used.metrics:
        labels = known.get(use.metric)
        if labels is None:
            yield f"there is no metric {use.metric}"
            continue
        labels_of.append(labels | OF_TARGETS)
        for label in sorted(use.labels - labels - OF_TARGETS):
            yield f"{use.metric} has no label {label}"
        for label, value in use.compared.items():
            if (use.metric, label) in VALUES:
                for each in sorted(set(value.split("|")) - set(VALUES[use.metric, label])):
                    yield f"{label} of {use.metric} is never {each}"
    for label in sorted(used.matched):
        if sum(label in labels for labels in labels_of) < 2:
            yield f"on ({label}): not on both sides"
    for label in sorted(used.carried):
        if not any(label in labels for labels in labels_of):
            yield f"group_left ({label}): on neither side"


# --- where expressions stand


class Query(NamedTuple):
    """An expression with the labels that its legend or text names."""

    place: str
    expression: str
    named: frozenset[str]


def _in_braces(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"{{\s*(\w+)\s*}}", text))


def panels_of(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels but the rows' titles."""
    for panel in dashboard["panels"]:
        yield from (each for each in (panel, *panel.get("panels", ())) if each["type"] != "row")


def queries_of_dashboard(dashboard: dict[str, Any]) -> Iterator[Query]:
    """Of panels and variables."""
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            named = _in_braces(target.get("legendFormat", ""))
            yield Query(f"panel {panel['title']}", target["expr"], named)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            if match is None:
                raise ValueError(f"variable {variable['name']} is no label_values(METRIC, LABEL)")
            yield Query(f"variable {variable['name']}", match[1], frozenset({match[2]}))


def queries_of_rules(rules: list[dict[str, Any]]) -> Iterator[Query]:
    """Of alerts and recording rules."""
    for rule in rules:
        texts = " ".join(rule.get("annotations", {}).values())
        named = frozenset(re.findall(r"\$labels\.(\w+)", texts))
        yield Query(f"rule {rule.get('alert') or rule['record']}", rule["expr"], named)


def recorded(rules: Iterable[dict[str, Any]]) -> Known:
    """What recording rules bring."""
    return {
        rule["record"]: frozenset(used_by(rule["expr"]).grouped - {"le"} - OF_TARGETS)
        for rule in rules
        if "record" in rule
    }


def names_missing(queries: Iterable[Query], known: Known) -> Iterator[str]:
    """What queries use and nobody brings."""
    for query in queries:
        found = list(missing(query.expression, known))
        if not found:
            left = used_by(query.expression).labels_left(known)
            found = [f"the result has no label {label}" for label in sorted(query.named - left)]
        yield from (f"{query.place}: {problem}" for problem in found)


# --- a real gateway


def known_from(text: str) -> Known:
    """The metrics of an exposition with their labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: frozenset(labels) for name, labels in found.items()}


def below_zero(text: str) -> Iterator[str]:
    """Figures that no count, share or time can be."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.value < 0:
                yield f"{sample.name} {sample.labels} is {sample.value:g}"


def _never_answers(connection: UpstreamConnection, request: Recorded) -> None:
    connection.wait_end()


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[Daemon]:
    """The demo's gateway on ports of its own, with what the demo does not have switched on."""
    with contextlib.ExitStack() as stack:
        upstreams = [stack.enter_context(ScriptedUpstream(name)) for name in "abc"]
        for upstream in upstreams:
            upstream.on("/slow", _never_answers)
        ports = {2003 + index: upstream.port for index, upstream in enumerate(upstreams)}
        ports[2009] = stack.enter_context(refused_port())
        text = re.sub(
            r"127\.0\.0\.1:(\d+)",
            lambda match: f"127.0.0.1:{ports.get(int(match[1])) or free_port()}",
            demo.CONFIG.read_text(),
        )
        document = yaml.safe_load(text)
        document["upstreams"]["three"] |= {"circuit_breaker": {}, "health_check": {"tcp": True}}
        # ZooKeeper need not be there for its metrics.
        document["upstreams"]["registered"] = {
            "endpoints": [upstreams[0].endpoint],
            "zookeeper": {"path": "/services/registered", "format": "plain"},
        }
        document["routes"].append(
            {
                "name": "registered",
                "match": {"path": "/registered"},
                "upstream": "registered",
                "rate_limit": {"rate": "1/m"},
            }
        )
        document["zookeeper"] = {
            "hosts": f"127.0.0.1:{free_port()}",
            "connect_timeout": "500ms",
            "journal": str(folder / "membership.json"),
        }
        document["admin"] = {"address": f"127.0.0.1:{free_port()}", "ready": "listeners"}
        daemon = Daemon(folder, document)
        stack.callback(daemon.stop)
        yield daemon


REQUESTS: Final = (
    ("/", 200),
    ("/sticky", 200),
    ("/weighted", 200),
    ("/canary", 200),
    ("/api/v1/users", 200),
    ("/old/books", 200),
    ("/edited", 200),
    ("/crowded", 200),
    ("/registered", 200),
    ("/registered", 429),
    ("/slow", 504),
    ("/failing", 502),
    ("/post-only", 405),
    ("/moved", 302),
    ("/teapot", 418),
    ("/nowhere", 404),
)


def send(daemon: Daemon) -> Iterator[str]:
    """Traffic of all kinds; what was answered otherwise than meant."""
    for target, status in REQUESTS:
        answered = daemon.get(target).status
        if answered != status:
            yield f"{target} is answered {answered}, not {status}"
    if daemon.ask(b"GET / HTTP/1.1\r\n\r\n").status != 400:
        yield "a request without Host is not answered 400"


# --- promtool


def promtool(*arguments: str | Path, given: str | None = None) -> tuple[int, str]:
    """Run promtool; its exit code, and what it said."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def judged_by_promtool(queries: Iterable[Query], metrics: str) -> Iterator[str]:
    """What promtool finds wrong."""
    for verb, file in (("check", RULES), ("test", TESTS)):
        code, said = promtool(verb, "rules", file)
        if code:
            yield f"promtool {verb} rules: {said}"
    with tempfile.TemporaryDirectory() as folder:
        rules = [
            {"record": f"query:{index}", "expr": _filled(query.expression)}
            for index, query in enumerate(queries)
        ]
        file = Path(folder) / "dashboard.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        code, said = promtool("check", "rules", file)
        if code:
            yield f"promtool check rules, of the dashboard's expressions: {said}"
    code, said = promtool("check", "metrics", given=metrics)
    for complaint in said.splitlines():
        if complaint not in ALLOWED:
            yield f"promtool check metrics: {complaint}"
    if code and not said:
        yield f"promtool check metrics left with {code}"


def _filled(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m")


# --- documents


def in_documents(rules: Iterable[dict[str, Any]], dashboard: dict[str, Any]) -> Iterator[str]:
    """What people need: a runbook that is there, a test for each alert, a word for each panel."""
    tests = TESTS.read_text()
    for rule in rules:
        if "alert" not in rule:
            continue
        name = rule["alert"]
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        if anchor not in _anchors(HERE / file):
            yield f"{name}: {file} has no section #{anchor}"
        if f'alertname="{name}"' not in tests:
            yield f"{name}: no test lets it fire"
    seen: set[int] = set()
    for panel in panels_of(dashboard):
        if not panel.get("description", "").endswith("."):
            yield f"panel {panel['title']}: a sentence must say what to do when it looks bad"
        if panel["id"] in seen:
            yield f"panel {panel['title']}: its id {panel['id']} is another one's too"
        seen.add(panel["id"])


def _anchors(file: Path) -> set[str]:
    """A document's sections, as GitHub names them."""
    headings = re.findall(r"^#+ +(.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def main() -> int:
    """Check all of it; 1 if anything is wrong."""
    problems: list[str] = []

    def check(what: str, found: Iterable[str]) -> None:
        wrong = list(found)
        problems.extend(wrong)
        print(f"observability: {what}: {'fine' if not wrong else f'{len(wrong)} WRONG'}")

    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    dashboard = json.loads(DASHBOARD.read_text())
    shown = list(queries_of_dashboard(dashboard))
    queries = [*shown, *queries_of_rules(rules)]
    given: Known = {**OF_PROMETHEUS, **OF_DEAD_WORKERS, **recorded(rules)}

    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder)) as daemon:
        check(f"{len(REQUESTS) + 1} requests to a gateway", send(daemon))
        metrics = _settled(
            daemon, lambda text: names_missing(queries, {**given, **known_from(text)})
        )
    check(
        f"names and labels of {len(queries)} expressions in its /metrics",
        names_missing(queries, {**given, **known_from(metrics)}),
    )
    check("no figure below zero", below_zero(metrics))
    check("runbooks, tests and panels", in_documents(rules, dashboard))
    if shutil.which("promtool"):
        check(
            "promtool on rules, their tests, panels and metrics", judged_by_promtool(shown, metrics)
        )
    elif os.environ.get("CI"):
        problems.append("promtool is not installed; Debian has it in prometheus")
    else:
        print("observability: promtool (Debian: prometheus) is not installed; rules NOT CHECKED")

    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return 1 if problems else 0


def _settled(daemon: Daemon, lacks: Callable[[str], Iterable[str]]) -> str:
    """/metrics once nothing lacks, or after ten seconds: some figures take a moment to be known."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: not list(lacks(daemon.metrics())), 10)
    return daemon.metrics()


if __name__ == "__main__":
    sys.exit(main())
