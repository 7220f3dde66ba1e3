"""core.pooling: the ledger keeps its counts and limits through any history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.pooling import FAST, STOCK, Ledger, Slot

quick = settings(deadline=None, database=None, max_examples=200)


def ledger(max_idle: int = 8, per_endpoint: int = 4, max_open: int = 0) -> Ledger:
    """A ledger over connections that are names."""
    return Ledger(max_idle=max_idle, max_idle_per_endpoint=per_endpoint, max_open=max_open)


class LedgerTests(SynchronousTestCase):
    """One history at a time."""

    def test_life(self) -> None:
        """Opened, kept, taken again, kept, closed while idle: nothing is left behind."""
        tested = ledger()
        found: list[object] = [tested.take("a", FAST), tested.opening("a", FAST)]
        found += [tested.keep("a", FAST, "one"), repr(tested)]
        found += [tested.newest("a"), tested.take("a", FAST), repr(tested)]
        found += [tested.keep("a", FAST, "one")]
        tested.drop("a", FAST, "one")
        tested.closed("a")
        found += [tested.take("a", FAST), repr(tested), tested.slots]
        self.assertEqual(
            found,
            [
                None,
                None,
                None,
                "<Ledger open=1 idle=1 hits=0 misses=1>",
                "one",
                "one",
                "<Ledger open=1 idle=0 hits=1 misses=1>",
                None,
                None,
                "<Ledger open=0 idle=0 hits=1 misses=1>",
                {},
            ],
        )

    def test_latest_first(self) -> None:
        """The connection used last is taken first: it is the least likely to be stale."""
        tested = ledger()
        for name in ("one", "two", "three"):
            tested.opening("a", FAST)
            tested.keep("a", FAST, name)
        newest = tested.newest("a")
        taken = [tested.take("a", FAST) for _ in range(4)]
        self.assertEqual((newest, taken), ("three", ["three", "two", "one", None]))

    def test_never_mixed(self) -> None:
        """The two kinds, and endpoints, are told apart."""
        tested = ledger()
        tested.opening("a", STOCK)
        tested.keep("a", STOCK, "agent's")
        self.assertEqual((tested.take("a", FAST), tested.newest("a")), (None, None))
        self.assertEqual((tested.take("b", STOCK), tested.newest("b")), (None, None))
        self.assertEqual(tested.take("a", STOCK), "agent's")

    def test_idle_limits(self) -> None:
        """Of one endpoint and of all; both kinds count. The longest idle of the same makes place."""
        tested = ledger(max_idle=3, per_endpoint=2)
        rounds = [("a", FAST), ("a", STOCK), ("a", FAST), ("b", FAST), ("b", FAST), ("c", FAST)]
        surplus = []
        for name, (key, kind) in zip("123456", rounds, strict=True):
            tested.opening(key, kind)
            surplus.append(tested.keep(key, kind, name))
        self.assertEqual(surplus, [None, None, "1", None, "4", "6"])
        left = [tested.take("a", FAST), tested.take("a", STOCK), tested.take("b", FAST)]
        self.assertEqual((left, tested.idle), (["3", "2", "5"], 0))

    def test_lowered_limits(self) -> None:
        """Those over a limit that a reload has lowered go as they come back."""
        tested = ledger()
        for name in ("one", "two", "three"):
            tested.opening("a", FAST)
            tested.keep("a", FAST, name)
        tested.max_idle_per_endpoint = 1
        surplus = []
        for _ in range(3):
            taken = tested.take("a", FAST)
            surplus.append((taken, tested.keep("a", FAST, taken)))
        self.assertEqual(surplus, [("three", "three"), ("two", "one"), ("two", None)])

    def test_no_reuse(self) -> None:
        """max_idle* of 0 keeps nothing."""
        for max_idle, per_endpoint in [(0, 5), (5, 0)]:
            tested = ledger(max_idle, per_endpoint)
            tested.opening("a", FAST)
            self.assertEqual(tested.keep("a", FAST, "x"), "x", (max_idle, per_endpoint))

    def test_room(self) -> None:
        """At the limit only an idle connection makes room, of either kind."""
        tested = ledger(max_open=2)
        found = [tested.has_room("a")]
        tested.opening("a", FAST)
        found.append(tested.has_room("a"))
        tested.opening("a", STOCK)
        found.append(tested.has_room("a"))
        tested.keep("a", STOCK, "x")
        found.append(tested.has_room("a"))
        tested.take("a", STOCK)
        found += [tested.has_room("a"), tested.has_room("b")]
        self.assertEqual(found, [True, True, False, True, False, True])

    def test_any_number(self) -> None:
        """max_open of 0 is unlimited."""
        tested = ledger()
        for _ in range(100):
            self.assertIsNone(tested.opening("a", FAST))
        self.assertTrue(tested.has_room("a"))

    def test_evicts_other_kind(self) -> None:
        """At the limit the longest idle one of the other kind gives way."""
        tested = ledger(max_open=3)
        for kind, name in [(STOCK, "old"), (STOCK, "young"), (FAST, "fast")]:
            tested.opening("a", kind)
            tested.keep("a", kind, name)
        evicted = tested.opening("a", FAST)
        self.assertEqual((evicted, repr(tested)), ("old", "<Ledger open=3 idle=2 hits=0 misses=4>"))
        self.assertEqual([tested.take("a", STOCK), tested.take("a", FAST)], ["young", "fast"])

    def test_evicts_ours(self) -> None:
        """The Agent's door makes room the same way."""
        tested = ledger(max_open=2)
        for name in ("old", "young"):
            tested.opening("a", FAST)
            tested.keep("a", FAST, name)
        self.assertEqual(tested.opening("a", STOCK), "old")
        self.assertIsNone(tested.keep("a", STOCK, "agent's"))
        self.assertEqual((tested.open, tested.idle, tested.opening("a", STOCK)), (2, 2, "young"))

    def test_evicts_own_kind(self) -> None:
        """Who wants a fresh connection though one of its kind is idle gets it within the limit."""
        tested = ledger(max_open=1)
        tested.opening("a", FAST)
        tested.keep("a", FAST, "stale")
        evicted = tested.opening("a", FAST)
        self.assertEqual(
            (evicted, repr(tested)), ("stale", "<Ledger open=1 idle=0 hits=0 misses=2>")
        )

    def test_evicts_the_only_one(self) -> None:
        """With a limit of one, the connection that replaces the only one is counted like any other."""
        tested = ledger(max_open=1)
        tested.opening("a", STOCK)
        tested.keep("a", STOCK, "agent's")
        evicted = tested.opening("a", FAST)
        surplus = tested.keep("a", FAST, "ours")
        taken = tested.take("a", FAST)
        tested.closed("a")
        self.assertEqual((evicted, surplus, taken, tested.slots), ("agent's", None, "ours", {}))
        self.assertEqual(repr(tested), "<Ledger open=0 idle=0 hits=1 misses=2>")

    def test_over_the_limit(self) -> None:
        """Who does not ask for room is counted all the same: the repeat of a request cannot wait."""
        tested = ledger(max_open=1)
        found = [tested.opening("a", FAST), tested.opening("a", FAST)]
        self.assertEqual((found, tested.open, tested.has_room("a")), ([None, None], 2, False))
        tested.closed("a")
        self.assertFalse(tested.has_room("a"))
        tested.closed("a")
        self.assertTrue(tested.has_room("a"))

    def test_forget(self) -> None:
        """An endpoint leaves: its idle connections are given out to be closed, busy ones still count."""
        tested = ledger()
        for kind, name in [(FAST, "one"), (STOCK, "two"), (FAST, "busy"), (FAST, "three")]:
            tested.opening("a", kind)
            if name != "busy":
                tested.keep("a", kind, name)
        tested.opening("b", FAST)
        tested.keep("b", FAST, "other")
        forgotten = tested.forget("a")
        self.assertEqual(forgotten, [(FAST, "one"), (FAST, "three"), (STOCK, "two")])
        self.assertEqual((tested.idle, tested.open, tested.take("a", FAST)), (1, 5, None))
        for _ in range(4):
            tested.closed("a")
        self.assertEqual((list(tested.slots), tested.open), (["b"], 1))
        self.assertEqual(tested.forget("nobody"), [])

    def test_drop(self) -> None:
        """An idle connection that closes is given to nobody."""
        tested = ledger()
        for name in ("one", "two", "three"):
            tested.opening("a", FAST)
            tested.keep("a", FAST, name)
        tested.drop("a", FAST, "two")
        taken = [tested.take("a", FAST) for _ in range(3)]
        self.assertEqual((taken, tested.idle, tested.open), (["three", "one", None], 0, 3))

    def test_drop_busy(self) -> None:
        """Dropping what is not idle, or of nobody, changes nothing."""
        tested = ledger()
        tested.opening("a", FAST)
        tested.keep("a", FAST, "idle")
        tested.drop("a", FAST, "busy")
        tested.drop("a", STOCK, "idle")
        tested.drop("b", FAST, "idle")
        self.assertEqual((tested.idle, tested.take("a", FAST)), (1, "idle"))


STEPS = ["want", "want", "want", "fresh", "done", "done", "done", "lost", "idle lost", "forget"]


class ModelTests(SynchronousTestCase):
    """Any history, against sets of names."""

    @quick
    @given(st.integers(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.booleans())
    def test_history(
        self, seed: int, max_idle: int, each: int, max_open: int, are_slots: bool
    ) -> None:
        """Counts are those of the sets, limits hold, and nobody is given a connection twice."""
        tested = ledger(max_idle, each, max_open)
        keys: list[Hashable] = [Slot() for _ in "abc"] if are_slots else list("abc")
        busy: dict[tuple[Hashable, int], list[str]] = defaultdict(list)
        idle: dict[tuple[Hashable, int], list[str]] = defaultdict(list)
        hits = misses = 0
        random = Random(seed)
        for number in range(60):
            what, key, kind = (
                random.choice(STEPS),
                random.choice(keys),
                random.choice([FAST, STOCK]),
            )
            mine = key, kind
            if what == "want" and idle[mine]:
                taken = tested.take(key, kind)
                self.assertEqual(taken, idle[mine].pop())
                busy[mine].append(str(taken))
                hits += 1
            elif what in ("want", "fresh") and tested.has_room(key):
                if what == "want":
                    self.assertIsNone(tested.take(key, kind))
                there = [each_kind for each_kind in (1 - kind, kind) if idle[key, each_kind]]
                opened = sum(len(held[key, k]) for held in (busy, idle) for k in (FAST, STOCK))
                full = max_open and opened >= max_open
                expected = idle[key, there[0]].pop(0) if full else None
                self.assertEqual(tested.opening(key, kind), expected)
                busy[mine].append(str(number))
                misses += 1
            elif what == "done" and busy[mine]:
                connection = busy[mine].pop()
                alike = sum(len(idle[key, k]) for k in (FAST, STOCK))
                full = alike == each or sum(map(len, idle.values())) == max_idle
                idle[mine].append(connection)
                expected = idle[mine].pop(0) if full else None
                self.assertEqual(tested.keep(key, kind, connection), expected)
                if full:
                    tested.closed(key)
            elif what == "lost" and busy[mine]:
                busy[mine].pop()
                tested.closed(key)
            elif what == "idle lost" and idle[mine]:
                tested.drop(key, kind, idle[mine].pop(number % len(idle[mine])))
                tested.closed(key)
            elif what == "forget":
                forgotten = [(k, one) for k in (FAST, STOCK) for one in idle[key, k]]
                self.assertEqual(tested.forget(key), forgotten)
                for k, _ in forgotten:
                    idle[key, k].clear()
                    tested.closed(key)
            held = {
                name: sum(
                    len(kept[name, which]) for kept in (busy, idle) for which in (FAST, STOCK)
                )
                for name in keys
            }
            self.assertEqual(
                {name: slot.open for name, slot in tested.slots.items()},
                {name: count for name, count in held.items() if count},
            )
            self.assertEqual(
                {
                    name: (slot.idle, slot.idle_of(FAST), slot.idle_of(STOCK))
                    for name, slot in tested.slots.items()
                },
                {
                    name: (len(ours) + len(agents), ours, agents)
                    for name in keys
                    if held[name]
                    for ours, agents in [(idle[name, FAST], idle[name, STOCK])]
                },
            )
            self.assertEqual(
                (tested.open, tested.idle, tested.hits, tested.misses),
                (sum(held.values()), sum(map(len, idle.values())), hits, misses),
            )
            self.assertLessEqual(tested.idle, max_idle)
            for name in keys:
                self.assertLessEqual(len(idle[name, FAST]) + len(idle[name, STOCK]), each)
                if max_open:
                    self.assertLessEqual(held[name], max_open)
