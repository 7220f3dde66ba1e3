"""Tables of a run's figures, and the generated part of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import bodies, idle, kinds, latency, picks, plots, scaling, small, workers
from benchmarks.figures import UNITS, Figures, Series
from benchmarks.goals import BUILDS, GOALS, LOG_MUST, LOG_REACH, PUBLISHED, US, verdict
from benchmarks.machine import CHECKOUT
from benchmarks.peers.gatewayd import NO_LOG

BEGIN: Final = "<!-- benchmarks: generated from here -->"
END: Final = "<!-- benchmarks: generated to here -->"
DOCUMENT: Final = CHECKOUT / "docs" / "performance.md"
_TITLES: Final = {
    "small": small.TITLE,
    "kinds": kinds.TITLE,
    "bodies": bodies.TITLE,
    "latency": latency.TITLE,
    "scaling": scaling.TITLE,
    "idle": idle.TITLE,
    "picks": picks.TITLE,
    "workers": workers.TITLE,
}
_TABLES: Final = {  # part -> figures that get a table, with a heading
    "small": {
        "cpu": "CPU per request",
        "rate": "Requests per second",
        "load_mib": "Resident memory",
    },
    "kinds": {"cpu": "CPU per request", "rate": "Requests per second"},
    "bodies": {"cpu_gib": "CPU per GiB", "mbs": "Throughput"},
    "latency": {
        "p50": "Median",
        "p99": "99th percentile",
        "p999": "99.9th percentile",
        "late99": "The generator's own lateness, 99th percentile",
        "cpu": "CPU per request at that rate",
        "ttfb": "Time to first byte of a stream",
        "event": "Delay of a stream's event, median",
        "event99": "Delay of a stream's event, 99th percentile",
    },
    "scaling": {"cpu": "CPU per request"},
    "idle": {
        "connection_kib": "Memory per idle connection",
        "load_mib": "Resident memory with them",
    },
    "picks": {"ns": "Time per pick", "bytes": "Bytes allocated per pick"},
    "workers": {"cpu": "CPU per request", "pace": "CPU per request of the busiest process"},
}
_NOTES: Final = {
    "small": "1 KiB answers, nine request headers, 64 kept connections, three endpoints. "
    "*same*: every request alike; *varied*: cookie, trace id and query differ in each; "
    "*answers*: path and the response's head differ as well. Where a proxy did not use up its core, "
    "its requests per second are a lower bound (≥): the load, or others on the machine, set it.",
    "kinds": "As *varied* above, but for one thing. All of a kind follow each other, so that between two "
    "kinds each proxy has rested.",
    "bodies": "nginx is set to stream bodies (no temporary files), HAProxy to splice. "
    "Up to four connections at once.",
    "latency": "Open loop, Poisson arrivals, 64 kept connections; a request's time counts from when "
    "it was due. How late the generator itself was and what the way without a proxy takes show how "
    "quiet the machine was: what others did on it is in every tail.",
    "scaling": "Requests go to all hosts, prefixes and endpoints in turn. Every busy client "
    "connection holds an upstream connection too.",
    "idle": "Each connection made one request and stays. What the kernel keeps for sockets does not "
    "count.",
    "picks": "The measuring loop's turn is included. Bytes: for Go what a pick allocates, for Python "
    "what stays allocated after it.",
    "workers": "On two cores the load takes what the second worker would need. With a core for each "
    "process, the busiest one limits the throughput: its CPU per request with one worker, over the same "
    "with two, is what the second one brings.",
}


def markdown(results: dict[str, Any], plots_at: str = "") -> str:
    """All tables.

    Args:
        results: of a results file.
        plots_at: where the plots are, as the document sees it; empty = leave them out.
    """
    parts = {name: Figures.load(part["series"]) for name, part in results["parts"].items()}
    lines = [*_head(results), *_goals(parts)]
    for name in _TITLES:
        if name in parts:
            lines += ["", f"### {_TITLES[name]}", "", _NOTES[name]]
            for figure, heading in _TABLES[name].items():
                lines += _table(parts[name], figure, heading)
            if plots_at:
                lines += [""]
                lines += [f"![{alt}]({plots_at}/{file})" for file, alt in plots.names(name)]
            part = results["parts"][name]
            lines += _asides(part)
    return "\n".join(lines) + "\n"


def _head(results: dict[str, Any]) -> list[str]:
    lines = []
    machines = {name: part["machine"] for name, part in results["parts"].items()}
    for machine in {
        str(sorted(one.items())): one for one in map(_undated, machines.values())
    }.values():
        lines += ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in machine.items()), ""]
    lines.append("| part | measured | commit | rounds | peers missing |")
    lines.append("| --- | --- | --- | --- | --- |")
    for name, part in results["parts"].items():
        missing = "; ".join(f"{peer}: {_cell(why)}" for peer, why in part["missing"].items())
        quick = ", quick" if part["quick"] else ""
        machine = part["machine"]
        lines.append(
            f"| {name} | {machine['date']} | {machine['commit']} | {part['rounds']}{quick} "
            f"| {missing or 'none'} |"
        )
    return lines


def _undated(machine: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in machine.items() if key not in ("date", "commit")}


def _goals(parts: dict[str, Figures]) -> list[str]:
    head = [
        "",
        "### Goals",
        "",
        "As the source runs, and compiled, as the Debian package has it.",
        "",
        "| ratio | must | reach for | pure Python | | compiled | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines = []
    for goal in GOALS:
        found = [goal.judge(parts, build) for build in BUILDS]
        if any(found):
            cells = [_verdict(one, goal.must, goal.reach, len(goal.cases) > 1) for one in found]
            if goal.us != US:
                cells[1] = "| | "  # of neither build alone
            lines.append(f"| {goal.what} | {goal.must:.3g} | {goal.reach} {''.join(cells)}")
    lines += _published(parts.get("picks"))
    lines += _log_share(parts.get("small"))
    return head + [f"{line}|" for line in lines] if lines else []


def _verdict(found: tuple[Series, str] | None, must: float, reach: float, named: bool) -> str:
    if found is None or found[0].median is None:
        return "| | "
    ratio, case = found
    value = ratio.median or 0.0
    where = f" ({case})" if named else ""
    return f"| {value:.2f}{_noise(ratio.noise)}{where} | {verdict(value, must, reach)} "


def _published(figures: Figures | None) -> list[str]:
    lines = []
    for policy, published in PUBLISHED.items():
        ns = figures.median(f"{policy}, 3 endpoints", "ns", US) if figures else None
        if ns is not None:
            must = 3.0 if policy == "random" else 1.0
            word = verdict(ns / published, must, 1.0)
            lines.append(
                f"| pick, {policy}, against the published {published:.0f} ns "
                f"| {must} | 1.0 | {ns / published:.2f} | {word} | | "
            )
    return lines


def _log_share(figures: Figures | None) -> list[str]:
    cells = []
    for build in BUILDS:
        ratio = figures.ratio("varied", "cpu", build + NO_LOG, build) if figures else None
        if ratio is None or ratio.median is None:
            cells.append("| | ")
        else:
            share = max(0.0, 1 - ratio.median)
            word = verdict(share, LOG_MUST, LOG_REACH)
            cells.append(f"| {share:.2f}{_noise(ratio.noise)} | {word} ")
    if not any(cell.strip("| ") for cell in cells):
        return []
    return [
        f"| the access log's share of a request's CPU | {LOG_MUST} | {LOG_REACH} {''.join(cells)}"
    ]


def _table(figures: Figures, figure: str, heading: str) -> list[str]:
    cases, peers = figures.cases(figure), figures.peers(figure)
    if not cases:
        return []
    unit = UNITS[figure]
    lines = ["", f"**{heading}**, {unit}", ""]
    lines.append("| | " + " | ".join(peers) + " |")
    lines.append("| --- |" + " ---: |" * len(peers))
    for case in cases:
        cells = [_figure(figures, case, figure, peer) for peer in peers]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return lines


def _figure(figures: Figures, case: str, figure: str, peer: str) -> str:
    series = figures.get(case, figure, peer)
    if series is None or series.median is None:
        return "—"
    sign = ""
    busy = figures.median(case, "busy", peer) if figure == "rate" else None
    if busy is not None and busy < 0.9:
        sign = "≥ "
    return f"{sign}{_number(series.median)}{_noise(series.noise)}"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _noise(noise: float | None) -> str:
    return "" if noise is None else f" ±{noise * 100:.0f}%"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


def _asides(part: dict[str, Any]) -> list[str]:
    if not part["failures"]:
        return []
    counted: dict[str, int] = {}
    for failure in part["failures"]:
        counted[_cell(failure)] = counted.get(_cell(failure), 0) + 1
    lines = ["", "What failed (left out above, or counted with its errors):", ""]
    return lines + [f"- {failure} (times {count})" for failure, count in counted.items()]


def publish(results: dict[str, Any], document: Path = DOCUMENT) -> None:
    """Put tables and plots into the document, between the marks; what else stands there stays."""
    directory = document.with_suffix("")
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in results["parts"].items():
        for file, drawing in plots.draw(name, Figures.load(part["series"])).items():
            (directory / file).write_text(drawing)
    text = document.read_text() if document.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{document.name} has no marks: {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n\n{markdown(results, directory.name)}\n{END}{after}")
