"""config.document: YAML's core schema, places, and references that never change the structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.config import document
from gatewayd.config.document import ConfigError, Node, Place, Problem, Scalar, Sequence

quick = settings(deadline=None, database=None, max_examples=200)

FILES = {"/token": "secret\n", "/two": "a\n\n", "/empty": "", "/null": "null\n"}


def read_file(name: str) -> str:
    """A file of FILES."""
    if name == "/binary":
        raise ValueError("it is not UTF-8 at byte 3")
    if name not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[name]


def read(text: str, environ: Mapping[str, str] | None = None) -> tuple[Node | None, list[str]]:
    """The root, and what was wrong, as `check` shows it."""
    problems: list[Problem] = []
    root = document.read_document(text, environ or {}, read_file, problems)
    return root, [problem.show("f") for problem in problems]


def plain(node: Node | None) -> Any:
    """A tree of dicts and lists whose scalars are `kind text`."""
    if isinstance(node, Scalar):
        return f"{node.kind} {node.text}"
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {name: plain(value) for name, (_, value) in node.items.items()} if node else None


def places(node: Node | None) -> Any:
    """A tree of dicts and lists with `line:column` for every value, and for every key before it."""
    if node is None or isinstance(node, Scalar):
        return show(node.place) if node else None
    if isinstance(node, Sequence):
        return [show(node.place), *map(places, node.items)]
    return {f"{name} {show(at)}": places(value) for name, (at, value) in node.items.items()}


def show(place: Place) -> str:
    """As in messages."""
    return f"{place.line}:{place.column}"


class CoreSchema(SynchronousTestCase):
    """YAML 1.2.2 §10.3.2: what a plain scalar is."""

    maxDiff = None

    def kinds(self, expected: dict[str, str]) -> None:
        """Each text is of this kind."""
        found = {}
        for text in expected:
            root, problems = read(f"- {text}\n")
            assert isinstance(root, Sequence) and not problems
            (item,) = root.items
            assert isinstance(item, Scalar)
            found[text] = item.kind
        self.assertEqual(expected, found)

    def test_what_yaml_1_1_took_for_something_else(self) -> None:
        """`on` is no truth, `22:22` no number in base sixty, a date no date."""
        texts = [
            "on",
            "off",
            "yes",
            "no",
            "Yes",
            "NO",
            "y",
            "n",
            "On",
            "22:22",
            "1:30",
            "190:20:30",
        ]
        texts += [
            "2001-12-14",
            "1_000",
            "0b11",
            "=",
            "<<",
            "tRUE",
            "nULL",
            "0x",
            "0o8",
            "0X1F",
            "1,2",
        ]
        texts += [".inf", ".nan", "+0x1", "1.2.3", "127.0.0.1:80", "5s", "50%", "--", "e3"]
        self.kinds(dict.fromkeys(texts, "str"))

    def test_null(self) -> None:
        """Four spellings and nothing at all."""
        self.kinds(dict.fromkeys(["null", "Null", "NULL", "~", ""], "null"))

    def test_booleans(self) -> None:
        """true and false in three cases each."""
        self.kinds(dict.fromkeys(["true", "True", "TRUE", "false", "False", "FALSE"], "bool"))

    def test_integers(self) -> None:
        """Decimal with leading zeros, octal by 0o, hexadecimal by 0x."""
        self.kinds(dict.fromkeys(["0", "12", "-3", "+4", "007", "0o17", "0x1F", "9" * 50], "int"))

    def test_floats(self) -> None:
        """With a point or an exponent."""
        self.kinds(dict.fromkeys(["1.5", ".5", "1.", "-1e3", "+2E-4", "1.5e+3"], "float"))

    def test_quotes_make_text(self) -> None:
        """Whatever stands between them; so do blocks."""
        self.kinds(dict.fromkeys(['"true"', "'1'", '""', "''", '"~"'], "str"))
        root, problems = read("a: |\n  1\nb: >\n  true\n")
        self.assertEqual({"a": "str 1\n", "b": "str true\n"}, plain(root))
        self.assertEqual([], problems)

    def test_keys_are_text(self) -> None:
        """Also those that look like something else, and as they are written."""
        root, problems = read("on: 1\n1: 2\ntrue: 3\n~: 4\n1.0: 5\n0x10: 6\n")
        self.assertEqual(["on", "1", "true", "~", "1.0", "0x10"], list(plain(root)))
        self.assertEqual([], problems)


class Structure(SynchronousTestCase):
    """What is refused, and where everything stands."""

    maxDiff = None

    def problems(self, expected: dict[str, list[str]]) -> None:
        """Each text has exactly these problems."""
        self.assertEqual(expected, {text: read(text)[1] for text in expected})

    def test_places(self) -> None:
        """Keys and values know line and column, both from 1; a block begins with its first item."""
        root, _ = read("# a comment\na: 1\nbb:\n  - x\n  - {c: d}\ne: [f]\n")
        expected = {
            "a 2:1": "2:4",
            "bb 3:1": ["4:3", "4:5", {"c 5:6": "5:9"}],
            "e 6:1": ["6:4", "6:5"],
        }
        self.assertEqual(expected, places(root))

    def test_nothing_is_an_empty_mapping(self) -> None:
        """An empty file is read; what it lacks is said elsewhere."""
        for text in ("", "\n\n", "# only a comment\n", "---\n", "---\n...\n"):
            root, problems = read(text)
            self.assertIn(plain(root), ({}, "null "), text)
            self.assertEqual([], problems)

    def test_no_yaml(self) -> None:
        """The parser's words, with the place where it stopped."""
        self.problems(
            {
                "a: [1": ["f:1:6: not YAML: expected ',' or ']', but got '<stream end>'"],
                "a: b: c": ["f:1:5: not YAML: mapping values are not allowed here"],
                "a: 1\n b: 2\n": ["f:2:3: not YAML: mapping values are not allowed here"],
                "\ta: 1": ["f:1:1: not YAML: found character '\\t' that cannot start any token"],
                "a: *nobody": ["f:1:4: not YAML: found undefined alias 'nobody'"],
                "a: 1\n---\nb: 2": ["f:2:1: not YAML: but found another document"],
                "a: 1\nb: \x01": [
                    "f:2:4: not YAML: unacceptable character #x0001: "
                    "special characters are not allowed"
                ],
                "%YAML 3.0\n---\na: 1": [
                    "f:1:1: not YAML: found incompatible YAML document (version 1.* is required)"
                ],
            }
        )

    def test_a_key_written_twice(self) -> None:
        """The first one counts; each further one is named."""
        text = "a: 1\nb:\n  c: 1\n  c: 2\n  'c': 3\na: 2\n"
        root, problems = read(text)
        self.assertEqual({"a": "int 1", "b": {"c": "int 1"}}, plain(root))
        twice = ["f:4:3: b.c: written twice", "f:5:3: b.c: written twice"]
        self.assertEqual([*twice, "f:6:1: a: written twice"], problems)

    def test_a_key_that_is_no_scalar(self) -> None:
        """It is named and passed over; the rest is read."""
        root, problems = read("a:\n  ? [x]\n  : 1\n  ? {y: z}\n  : 2\n  d: 3\n")
        self.assertEqual({"a": {"d": "int 3"}}, plain(root))
        message = "a: a key must be plain text"
        self.assertEqual([f"f:2:5: {message}", f"f:4:5: {message}"], problems)

    def test_anchors(self) -> None:
        """An alias is what its anchor is, at the anchor's place."""
        root, problems = read("a: &x {b: 5s}\nc: *x\nd: [*x, *x]\n")
        value = {"b": "str 5s"}
        self.assertEqual({"a": value, "c": value, "d": [value, value]}, plain(root))
        self.assertEqual([], problems)

    def test_merge_keys_are_only_keys(self) -> None:
        """YAML 1.2 has none; `<<` is a key that nobody knows."""
        root, _ = read("a: &x {b: 1}\nc:\n  <<: *x\n")
        self.assertEqual({"b": "int 1"}, plain(root)["c"]["<<"])

    def test_an_alias_within_itself(self) -> None:
        """It is named where it would begin anew; the rest is read."""
        message = "an alias that contains itself"
        self.problems(
            {
                "a: &x [1, *x]": [f"f:1:4: a[1]: {message}"],
                "a: &x {b: {c: *x}}\nd: 1": [f"f:1:4: a.b.c: {message}"],
                "&x\na: *x": [f"f:1:1: a: {message}"],
            }
        )
        self.assertEqual(
            {"a": ["int 1", "null "], "d": "int 1"}, plain(read("a: &x [1, *x]\nd: 1")[0])
        )

    def test_aliases_that_unfold_without_end(self) -> None:
        """A billion laughs are not laughed (the bound is lowered, to be met soon)."""
        self.patch(document, "_MAX_NODES", 1000)
        lines = ["a0: &a0 x"] + [
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)
        ]
        self.problems({"\n".join(lines): ["f:1:1: aliases unfold to far too much"]})

    def test_nesting_without_end(self) -> None:
        """A message, no stack of our own."""
        texts = ["[" * 2000, "{a: " * 2000, "- " * 2000]
        self.problems({text: ["f:1:1: nested too deeply"] for text in texts})

    def test_an_error_lists_its_problems_by_place(self) -> None:
        """However they were found; a file as a whole has no path."""
        error = ConfigError(
            "f", [Problem(Place(3, 1), "b", "two"), Problem(Place(2, 9), "", "one")]
        )
        self.assertEqual("f:2:9: one\nf:3:1: b: two", str(error))


class References(SynchronousTestCase):
    """${...} is filled in after parsing, in values."""

    maxDiff = None

    def filled(self, written: str, environ: Mapping[str, str] | None = None) -> str:
        """What a plain scalar becomes, with what is wrong."""
        root, problems = read(f"a: {written}\n", environ)
        return "; ".join(
            [plain(root)["a"], *(problem.partition(" a: ")[2] for problem in problems)]
        )

    def test_the_environment(self) -> None:
        """A name, a default, several, and within other text."""
        environ = {"NAME": "x", "EMPTY": "", "N2_": "7", "SECONDS": "5"}
        self.assertEqual(
            {
                "${NAME}": "str x",
                "a${NAME}b${NAME}": "str axbx",
                "${EMPTY}": "str ",
                "${N2_}": "int 7",
                "${SECONDS}s": "str 5s",
                "${NAME:-d}": "str x",
                "${NONE:-d}": "str d",
                "${NONE:-}": "str ",
                "${EMPTY:-d}": "str ",
                "${NONE:-a:-b}": "str a:-b",
                "'${NAME}'": "str x",
                '"${N2_}"': "str 7",
            },
            {
                text: self.filled(text, environ)
                for text in (
                    "${NAME}",
                    "a${NAME}b${NAME}",
                    "${EMPTY}",
                    "${N2_}",
                    "${SECONDS}s",
                    "${NAME:-d}",
                    "${NONE:-d}",
                    "${NONE:-}",
                    "${EMPTY:-d}",
                    "${NONE:-a:-b}",
                    "'${NAME}'",
                    '"${N2_}"',
                )
            },
        )

    def test_files(self) -> None:
        """One newline at the end is dropped, no more."""
        self.assertEqual("str secret", self.filled("${file:/token}"))
        self.assertEqual("str Bearer secret", self.filled("Bearer ${file:/token}"))
        self.assertEqual("str a\n", self.filled("${file:/two}"))
        self.assertEqual("str ", self.filled("${file:/empty}"))

    def test_a_dollar_for_itself(self) -> None:
        """$${ is ${, and a $ elsewhere is a $."""
        environ = {"A": "x"}
        expected = {
            "$${A}": "str ${A}",
            "$$${A}": "str $${A}",
            "$A": "str $A",
            "a$": "str a$",
            "$$": "str $$",
            "$${A} ${A}": "str ${A} x",
        }
        self.assertEqual(expected, {text: self.filled(text, environ) for text in expected})

    def test_what_is_filled_in_is_not_read_again(self) -> None:
        """Neither from the environment nor from a file."""
        self.assertEqual("str ${B}", self.filled("${A}", {"A": "${B}", "B": "never"}))

    def test_what_cannot_be_filled_in(self) -> None:
        """Said once, with what to do; no second complaint follows from it."""
        expected = {
            "${NONE}": "lost ; the environment has no NONE; set it, or write ${NONE:-default}",
            "${}": "lost ; ${} is no reference; write ${NAME}, or $${ for a plain ${",
            "${a b}": "lost ; ${a b} is no reference; write ${NAME}, or $${ for a plain ${",
            "${1A}": "lost ; ${1A} is no reference; write ${NAME}, or $${ for a plain ${",
            "${A-d}": "lost ; ${A-d} is no reference; write ${NAME}, or $${ for a plain ${",
            "${A": "lost ; ${A has no end; write $${ for a plain ${",
            "x${": "lost x; ${ has no end; write $${ for a plain ${",
            "${file:/none}": "lost ; /none cannot be read: No such file or directory",
            "${file:/binary}": "lost ; /binary cannot be read: it is not UTF-8 at byte 3",
            "${file:}": "lost ;  cannot be read: No such file or directory",
        }
        self.assertEqual(expected, {text: self.filled(text) for text in expected})

    def test_all_that_is_missing_is_said_at_once(self) -> None:
        """With the place of each."""
        _, problems = read("a: ${ONE} ${TWO}\nb: [1, '${THREE}']\n")
        self.assertEqual(
            [
                f"f:{where}: the environment has no {name}; set it, or write ${{{name}:-default}}"
                for where, name in (("1:4: a", "ONE"), ("1:4: a", "TWO"), ("2:8: b[1]", "THREE"))
            ],
            problems,
        )

    def test_keys_are_left_alone(self) -> None:
        """A key is the document's structure."""
        root, problems = read("${A}: 1\n", {"A": "x"})
        self.assertEqual({"${A}": "int 1"}, plain(root))
        self.assertEqual([], problems)

    def test_the_source_is_remembered(self) -> None:
        """So that /config shows the reference and not what it stands for."""
        root, _ = read("- ${A}\n- $${A}\n- b\n", {"A": "x"})
        assert isinstance(root, Sequence)
        self.assertEqual(
            ["${A}", "$${A}", ""],
            [item.source for item in root.items if isinstance(item, Scalar)],
        )

    @quick
    @given(st.text(st.characters(blacklist_categories=["Cs"])))
    def test_the_environment_never_changes_the_structure(self, value: str) -> None:
        """Whatever stands in it: a scalar stays a scalar, and nobody is left out."""
        root, problems = read("a: ${A}\nb: ['${A}', '${A}']\nc: 1\n", {"A": value})
        found = plain(root)
        self.assertEqual([], problems)
        self.assertEqual(["a", "b", "c"], list(found))
        self.assertEqual([f"str {value}", f"str {value}"], found["b"])
        kind, _, text = found["a"].partition(" ")
        self.assertEqual(value, text)
        self.assertIn(kind, ("str", "int", "float", "bool"))

    def test_what_looks_like_yaml_in_the_environment_is_text(self) -> None:
        """Null too: only the document says that there is nothing."""
        values = ["null", "~", "", "{a: b}", "[1, 2]", "&x", "*x", "a: b", "x\ny: z", "- 1", "# c"]
        self.assertEqual(
            [f"str {value}" for value in values], [self.filled("${A}", {"A": v}) for v in values]
        )
