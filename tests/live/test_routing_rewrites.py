"""Which route takes a request, and what it makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    Response,
    ScriptedUpstream,
    answer,
    configuration,
    free_port,
)


@dataclass
class House:
    """A gateway whose routes say their names in X-Route."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def taken(self, target: str, host: str = "h", *lines: str, **options: str) -> str:
        """The name of the route that took a request, else the status."""
        response = self.ask(target, host, *lines, **options)
        return response.get("X-Route") or str(response.status)

    def ask(
        self, target: str, host: str = "h", *lines: str, method: str = "GET", listener: str = "web"
    ) -> Response:
        """One request."""
        head = [f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
        with RawClient(self.daemon.address_of(listener)) as client:
            return client.ask("\r\n".join(head).encode("latin-1"))

    def seen(self, target: str, host: str = "h", *lines: str) -> Recorded:
        """What the upstream got of a request."""
        before = len(self.upstream.requests)
        assert self.ask(target, host, *lines).status == 200
        (request,) = self.upstream.requests[before:]
        return request


def route(name: str, match: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A route that says its name."""
    return {
        "name": name,
        "match": match or {},
        "upstream": "u",
        "response_headers": {"set": {"X-Route": name}},
        **more,
    }


MATCHING = [
    # Hosts.
    route("exact", {"hosts": ["exact.example", "*.wild.example"], "path_prefix": "/both"}),
    route("wild", {"hosts": ["*.wild.example"]}),
    route("deeper", {"hosts": ["*.deep.wild.example"]}),
    route("apex", {"hosts": ["apex.example"], "path_prefix": "/only"}),
    route("apex-wild", {"hosts": ["*.apex.example"]}),
    route("six", {"hosts": ["[::1]"]}),
    # Paths, on a host of their own.
    route("path-exact", {"hosts": ["paths"], "path": "/exact"}),
    route("path-prefix", {"hosts": ["paths"], "path_prefix": "/api"}),
    route("path-longer", {"hosts": ["paths"], "path_prefix": "/api/v1"}),
    route("path-exact-in-prefix", {"hosts": ["paths"], "path": "/api/v1/exact"}),
    route("path-regex", {"hosts": ["paths"], "path_regex": r"^/v\d+/"}),
    route("path-regex-2", {"hosts": ["paths"], "path_regex": r"^/v\d+/x"}),
    route("path-regex-loses-to-exact", {"hosts": ["paths"], "path_regex": "^/exact"}),
    route("path-slash", {"hosts": ["paths"], "path_prefix": "/dir/"}),
    route("path-escaped", {"hosts": ["paths"], "path": "/a%2Fb"}),
    # Methods.
    route("get", {"hosts": ["methods"], "path_prefix": "/m", "methods": ["GET", "HEAD"]}),
    route("post", {"hosts": ["methods"], "path_prefix": "/m", "methods": ["POST"]}),
    # Scheme.
    route("secure", {"hosts": ["scheme"], "scheme": "https"}),
    route("plain", {"hosts": ["scheme"], "scheme": "http"}),
    # Conditions.
    route("none", {"hosts": ["conditions"]}),
    route("canary", {"hosts": ["conditions"], "headers": {"x-canary": "yes"}}),
    route("present", {"hosts": ["conditions"], "headers": {"X-Present": ""}}),
    route("regex", {"hosts": ["conditions"], "headers": {"X-Version": r"~^2\."}}),
    route("both", {"hosts": ["conditions"], "headers": {"x-canary": "yes", "x-present": ""}}),
    route("debug", {"hosts": ["conditions"], "query": {"debug": "1"}}),
    route("query-present", {"hosts": ["conditions"], "query": {"there": ""}}),
    route("query-regex", {"hosts": ["conditions"], "query": {"id": r"~^\d+$"}}),
    # A rung that fails hands on.
    route("rung-exact", {"hosts": ["rungs"], "path": "/a/b", "headers": {"x-go": "yes"}}),
    route("rung-prefix", {"hosts": ["rungs"], "path_prefix": "/a"}),
    # Priority and file order.
    route("low", {"hosts": ["priority"], "path": "/x"}),
    route("high", {"hosts": ["priority"], "path_prefix": "/x"}, priority=10),
    route("first", {"hosts": ["order"], "path_prefix": "/x"}),
    route("second", {"hosts": ["order"], "path_prefix": "/x"}),
    # Listeners.
    route("elsewhere", {"hosts": ["listeners"]}, listeners=["other"]),
    # No host.
    route("any", {"path_prefix": "/any"}),
]


@pytest.fixture(scope="module")
def house(module_daemon: StartDaemon, module_upstream: StartUpstream) -> House:
    upstream = module_upstream()
    document = configuration(
        {"u": [upstream.endpoint]},
        routes=MATCHING,
        listener={"trusted_proxies": ["127.0.0.1/32"]},
    )
    document["listeners"]["other"] = {"address": f"127.0.0.1:{free_port()}"}
    document["listeners"]["strict"] = {
        "address": f"127.0.0.1:{free_port()}",
        "host_fallthrough": False,
        "path": {"merge_slashes": False, "encoded_slash": "reject"},
    }
    return House(module_daemon(document), upstream)


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        ("exact.example", "/both", "exact"),
        ("EXACT.Example", "/both", "exact"),
        ("exact.example.", "/both", "exact"),
        ("exact.example:8080", "/both", "exact"),
        ("exact.example.:8080", "/both", "exact"),
        ("exact.example", "/", "404"),
        ("x.wild.example", "/both", "exact"),
        ("x.wild.example", "/", "wild"),
        ("y.x.wild.example", "/", "wild"),
        ("wild.example", "/", "404"),
        ("xwild.example", "/", "404"),
        ("x.deep.wild.example", "/", "deeper"),
        ("deep.wild.example", "/", "wild"),
        ("x.deep.wild.example", "/both", "deeper"),
        ("apex.example", "/only", "apex"),
        ("apex.example", "/any", "any"),
        ("apex.example", "/", "404"),
        ("x.apex.example", "/only", "apex-wild"),
        ("[::1]", "/", "six"),
        ("[::1]:80", "/", "six"),
        ("h", "/any", "any"),
        ("h", "/", "404"),
        ("exact.example", "/any", "any"),
    ],
)
def test_hosts(house: House, host: str, target: str, name: str) -> None:
    """Exact, then the longest wildcard, then none; compared without case, port and last dot."""
    assert house.taken(target, host) == name


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/exact", "path-exact"),
        ("/exact?q", "path-exact"),
        ("/exact/", "path-regex-loses-to-exact"),
        ("/exactly", "path-regex-loses-to-exact"),
        ("/api", "path-prefix"),
        ("/api/", "path-prefix"),
        ("/api/x", "path-prefix"),
        ("/api;v=1", "path-prefix"),
        ("/api?x", "path-prefix"),
        ("/apis", "404"),
        ("/api%2Fx", "404"),
        ("/api/v1", "path-longer"),
        ("/api/v1/x", "path-longer"),
        ("/api/v12", "path-prefix"),
        ("/api/v1/exact", "path-exact-in-prefix"),
        ("/v1/", "path-regex"),
        ("/v23/x", "path-regex"),
        ("/v/", "404"),
        ("/dir/", "path-slash"),
        ("/dir/x", "path-slash"),
        ("/a%2fb", "path-escaped"),
        ("/a/b", "404"),
        # One normal form, used for matching too.
        ("/%61pi", "path-prefix"),
        ("//api//x", "path-prefix"),
        ("/x/../api", "path-prefix"),
        ("/api/../exact", "path-exact"),
        ("/api/%2e%2e/exact", "path-exact"),
        ("/x/..//exact", "path-exact"),
        ("/API", "404"),
    ],
)
def test_paths(house: House, target: str, name: str) -> None:
    """Exact, then regex in file order, then the longest prefix on segment borders."""
    assert house.taken(target, "paths") == name


def test_a_method_that_fails_alone_is_405_with_allow(house: House) -> None:
    assert house.taken("/m", "methods") == "get"
    assert house.ask("/m", "methods", method="HEAD").status == 200
    assert house.taken("/m", "methods", method="POST") == "post"
    response = house.ask("/m", "methods", method="DELETE")
    assert response.status == 405
    allowed = {item.strip() for item in str(response.get("Allow")).split(",")}
    assert allowed >= {"GET", "HEAD", "POST"}
    entry = house.daemon.access(lambda item: item["host"] == "methods" and item["status"] == 405)
    assert entry["reason"] == "no_method"


def test_no_route_is_404(house: House) -> None:
    response = house.ask("/nowhere?secret", "h")
    assert response.status == 404
    entry = house.daemon.access(lambda item: item["path"] == "/nowhere")
    assert (entry["reason"], entry["status"]) == ("no_route", 404)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html", "text/plain; charset=utf-8"),
        ("application/json", "application/problem+json"),
        ("application/problem+json", "application/problem+json"),
        ("text/html, application/json;q=0.9", "application/problem+json"),
        ("application/json;q=0", "text/plain; charset=utf-8"),
    ],
)
def test_own_answers_are_problem_json_where_json_is_accepted(
    house: House, accept: str | None, kind: str
) -> None:
    """RFC 9457; with X-Request-Id, and with nothing of the inside."""
    response = house.ask("/nowhere", "h", *([f"Accept: {accept}"] if accept else []))
    assert response.status == 404
    assert response.get("Content-Type") == kind
    assert response.get("X-Request-Id")
    if kind == "application/problem+json":
        document = json.loads(response.body)
        assert document["status"] == 404
        assert document["title"]


@pytest.mark.parametrize("method", ["get", "Get"])
def test_methods_are_case_sensitive(house: House, method: str) -> None:
    assert house.ask("/m", "methods", method=method).status == 405


def test_scheme(house: House) -> None:
    """A trusted X-Forwarded-Proto counts, an untrusted one does not."""
    assert house.taken("/", "scheme") == "plain"
    assert house.taken("/", "scheme", "X-Forwarded-Proto: https") == "secure"
    assert house.taken("/", "scheme", "X-Forwarded-Proto: https", listener="other") == "plain"


@pytest.mark.parametrize(
    ("target", "lines", "name"),
    [
        ("/", (), "none"),
        ("/", ("X-Canary: yes",), "canary"),
        ("/", ("x-CANARY: yes",), "canary"),
        ("/", ("X-Canary: no",), "none"),
        ("/", ("X-Canary: yes!",), "none"),
        ("/", ("X-Canary: no", "X-Canary: yes"), "canary"),
        ("/", ("X-Present: ",), "present"),
        ("/", ("X-Present: 5",), "present"),
        ("/", ("X-Version: 2.1",), "regex"),
        ("/", ("X-Version: 12.1",), "none"),
        ("/", ("X-Canary: yes", "X-Present: 1"), "both"),
        ("/?debug=1", (), "debug"),
        ("/?a=b&debug=1&c", (), "debug"),
        ("/?debug=10", (), "none"),
        ("/?xdebug=1", (), "none"),
        ("/?debug", (), "none"),
        ("/?there", (), "query-present"),
        ("/?there=", (), "query-present"),
        ("/?there=x", (), "query-present"),
        ("/?id=42", (), "query-regex"),
        ("/?id=x", (), "none"),
        ("/?%64ebug=%31", (), "debug"),
    ],
)
def test_conditions(house: House, target: str, lines: tuple[str, ...], name: str) -> None:
    assert house.taken(target, "conditions", *lines) == name


def test_a_rung_whose_conditions_fail_hands_on(house: House) -> None:
    assert house.taken("/a/b", "rungs", "X-Go: yes") == "rung-exact"
    assert house.taken("/a/b", "rungs") == "rung-prefix"


def test_priority_before_all_other_rules(house: House) -> None:
    assert house.taken("/x", "priority") == "high"


def test_file_order_at_last(house: House) -> None:
    assert house.taken("/x", "order") == "first"


def test_routes_of_listeners(house: House) -> None:
    assert house.taken("/", "listeners", listener="other") == "elsewhere"
    assert house.taken("/", "listeners") == "404"


def test_without_fallthrough_a_named_host_is_alone(house: House) -> None:
    assert house.taken("/any", "apex.example", listener="strict") == "404"
    assert house.taken("/any", "h", listener="strict") == "any"


def test_encoded_slashes_and_doubled_slashes_as_told(house: House) -> None:
    assert house.taken("/a%2fb", "paths", listener="strict") == "400"
    assert house.taken("//api", "paths", listener="strict") == "404"
    assert house.taken("/api//x", "paths", listener="strict") == "path-prefix"
    assert house.upstream.requests[-1].target == "/api//x"


@pytest.mark.parametrize(
    "host", ["h:80", "h", "H.", "[::1]", "[::1]:2000", "127.0.0.1", "a-b.c:65535", "x_y.example"]
)
def test_no_form_of_host_crashes_the_match(house: House, host: str) -> None:
    """Of the course gateway: a Host without a port did."""
    assert house.taken("/any", host) == ("six" if host.startswith("[") else "any")


def test_match_and_forward_use_one_form(house: House) -> None:
    """What was matched is what goes on, whatever was written."""
    assert house.seen("/%61pi/./x//y/../z?a=/../b", "paths").target == "/api/x/z?a=/../b"


def test_absolute_form_is_matched_by_its_own_host(house: House) -> None:
    response = house.ask("http://paths/api", "exact.example")
    assert response.get("X-Route") == "path-prefix"
    assert house.upstream.requests[-1].get("Host") == "paths"


# Rewrites and edits.

REWRITING = [
    route("strip", {"path_prefix": "/strip"}, rewrite={"strip_prefix": "/strip"}),
    route("strip-deep", {"path_prefix": "/a/b"}, rewrite={"strip_prefix": "/a"}),
    route("regex", {"path_prefix": "/dir"}, rewrite={"regex": "^/dir(.*)", "replace": r"\1"}),
    route(
        "groups",
        {"path_prefix": "/g"},
        rewrite={"regex": r"^/g/([^/]+)/([^/]+)$", "replace": r"/\2/\1"},
    ),
    route("climbs", {"path_prefix": "/climb"}, rewrite={"regex": "^/climb", "replace": "/.."}),
    route("based", {"path_prefix": "/based"}, upstream="based"),
    route(
        "based-strip",
        {"path_prefix": "/bs"},
        upstream="based",
        rewrite={"strip_prefix": "/bs"},
    ),
    route("slashed", {"path_prefix": "/slashed"}, upstream="slashed"),
    route("own-host", {"path_prefix": "/own-host"}, preserve_host=False),
    route("eighty", {"path_prefix": "/eighty"}, preserve_host=False, upstream="eighty"),
    route(
        "edits",
        {"path_prefix": "/edits"},
        request_headers={
            "set": {"X-Env": "prod", "X-Replaced": "ours"},
            "add": {"X-More": "2"},
            "remove": ["Cookie", "x-gone"],
        },
        response_headers={
            "set": {"X-Route": "edits", "Cache-Control": "no-store"},
            "add": {"X-More": "2"},
            "remove": ["Server"],
        },
    ),
    route(
        "moved",
        {"path_prefix": "/moved", "scheme": "http"},
        redirect={"to": "https://{host}{path}{query}", "status": 308},
    ),
    route("found", {"path_prefix": "/found"}, redirect={"to": "/elsewhere{query}", "status": 302}),
    route("ported", {"path_prefix": "/ported"}, redirect={"to": "http://x:{port}{path}"}),
    route("fixed", {"path_prefix": "/fixed"}, respond={"status": 404, "body": "no such page\n"}),
    route("teapot", {"path_prefix": "/teapot"}, respond={"status": 418}),
    route("nobody", {"path_prefix": "/nobody"}, upstream="nobody"),
    route("rest"),
]
for _route in REWRITING:
    if "redirect" in _route or "respond" in _route:
        del _route["upstream"]


@pytest.fixture(scope="module")
def rewriting(module_daemon: StartDaemon, module_upstream: StartUpstream) -> House:
    upstream = module_upstream()
    document = configuration(
        {
            "u": [upstream.endpoint],
            "based": {"endpoints": [upstream.endpoint], "base_path": "/base"},
            "slashed": {"endpoints": [upstream.endpoint], "base_path": "/base/"},
            "eighty": {"endpoints": ["127.0.0.1:80"]},
            "nobody": {"endpoints": [{"address": upstream.endpoint, "weight": 0}]},
        },
        routes=REWRITING,
    )
    return House(module_daemon(document), upstream)


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/strip/x/y?q=1", "/x/y?q=1"),
        ("/strip", "/"),
        ("/strip?q", "/?q"),
        ("/strip/", "/"),
        ("/strip//x", "/x"),
        ("/strip/%2e%2e/strip/x", "/x"),
        ("/a/b/c", "/b/c"),
        ("/dir/x", "/x"),
        ("/dir", "/"),
        ("/dir/x?q=/dir/", "/x?q=/dir/"),
        ("/g/one/two", "/two/one"),
        ("/g/one", "/g/one"),
        ("/g/%2f/b", "/b/%2F"),
        ("/based/x", "/base/based/x"),
        ("/based", "/base/based"),
        ("/bs", "/base/"),
        ("/bs/x", "/base/x"),
        ("/slashed/x?q", "/base/slashed/x?q"),
        ("/plain?", "/plain?"),
        ("/plain?a=b&a=c", "/plain?a=b&a=c"),
    ],
)
def test_rewrites(rewriting: House, target: str, seen: str) -> None:
    """The query goes untouched; joins have exactly one slash."""
    assert rewriting.seen(target).target == seen


def test_a_rewrite_above_the_root_is_500(rewriting: House) -> None:
    before = len(rewriting.upstream.requests)
    assert rewriting.ask("/climb/x").status == 500
    entry = rewriting.daemon.access(lambda item: item["path"] == "/climb/x")
    assert entry["reason"] == "bad_rewrite"
    assert rewriting.upstream.requests[before:] == []


def test_preserve_host(rewriting: House) -> None:
    assert rewriting.seen("/plain", "Public.example:81").get("Host") in (
        "Public.example:81",
        "public.example:81",
    )
    request = rewriting.seen("/own-host", "public.example:81")
    assert request.get("Host") == rewriting.upstream.endpoint
    assert request.get("X-Forwarded-Host") == "public.example:81"


def test_request_edits(rewriting: House) -> None:
    """Remove, set, add, after the gateway's own fields."""
    lines = [
        "X-Env: dev",
        "X-Replaced: 1",
        "X-Replaced: 2",
        "X-More: 1",
        "Cookie: a=b",
        "X-Gone: 1",
    ]
    request = rewriting.seen("/edits", "h", *lines)
    assert request.all("X-Env") == ["prod"]
    assert request.all("X-Replaced") == ["ours"]
    assert request.all("X-More") == ["1", "2"]
    assert request.all("Cookie") == request.all("X-Gone") == []


def test_response_edits(rewriting: House) -> None:
    headers = [("Server", "x"), ("Cache-Control", "public"), ("X-More", "1")]
    rewriting.upstream.on("/edits/response", answer(headers=headers))
    response = rewriting.ask("/edits/response")
    assert response.all("Server") == []
    assert response.all("Cache-Control") == ["no-store"]
    assert response.all("X-More") == ["1", "2"]


def test_response_edits_reach_own_answers(rewriting: House) -> None:
    response = rewriting.ask("/nobody")
    assert response.status == 503
    assert response.get("X-Route") == "nobody"


@pytest.mark.parametrize(
    ("target", "host", "status", "location"),
    [
        ("/moved/x?q=1", "h", 308, "https://h/moved/x?q=1"),
        ("/moved", "h:8080", 308, "https://h/moved"),
        ("/moved//x", "h", 308, "https://h/moved/x"),
        ("//moved/x", "h", 308, "https://h/moved/x"),
        ("/moved/%0d%0aSet-Cookie:x", "h", 308, "https://h/moved/%0D%0ASet-Cookie:x"),
        ("/found?a=b", "h", 302, "/elsewhere?a=b"),
        ("/found", "h", 302, "/elsewhere"),
        ("/moved", "[::1]:80", 308, "https://[::1]/moved"),
    ],
)
def test_redirects(rewriting: House, target: str, host: str, status: int, location: str) -> None:
    response = rewriting.ask(target, host)
    assert (response.status, response.get("Location")) == (status, location)
    assert response.get("X-Request-Id")


def test_redirect_with_port(rewriting: House) -> None:
    response = rewriting.ask("/ported", "h:81")
    assert response.get("Location") in (
        "http://x:81/ported",
        f"http://x:{rewriting.daemon.address[1]}/ported",
    )
    assert 300 <= response.status < 400


def test_respond(rewriting: House) -> None:
    response = rewriting.ask("/fixed/x")
    assert (response.status, response.body) == (404, b"no such page\n")
    assert response.get("X-Request-Id")
    assert rewriting.ask("/teapot").status == 418
    assert rewriting.ask("/fixed", method="HEAD").status == 404


def test_own_answers_to_head_have_no_body(rewriting: House) -> None:
    with rewriting.daemon.client() as client:
        for target in ("/fixed", "/moved", "/nobody"):
            client.ask(f"HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert client.ask(b"GET /fixed HTTP/1.1\r\nHost: h\r\n\r\n").status == 404


def test_one_upstream_without_routes_gets_everything(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Under the name default, for any method and host."""
    upstream = start_upstream()
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    assert daemon.get("/anything", "whoever.example").status == 200
    assert daemon.ask(b"PURGE /x HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    entry = daemon.access(lambda item: item["path"] == "/anything")
    assert (entry["route"], entry["upstream"]) == ("default", "u")
