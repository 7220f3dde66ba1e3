"""core.balancers: consistent hashing keeps keys where they are, whatever the membership does."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core import balancers, rings
from gatewayd.core.balancers import Balancer, ConsistentHash, compile_balancer
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.slices import finish
from tests.unit.balancing import counted, endpoints, within

quick = settings(deadline=None, database=None, max_examples=40)
KEYS = [b"client-%d" % number for number in range(2_000)]
MOST_POINTS = 262_144


def made(members: list[Endpoint], previous: Balancer | None = None) -> ConsistentHash:
    """A balancer compiled in slices, from the one before if there was one."""
    balancer = finish(compile_balancer(ConsistentHash, members, Random(1), previous))
    assert isinstance(balancer, ConsistentHash)
    return balancer


def owners(balancer: ConsistentHash) -> dict[bytes, str]:
    """Where each key goes."""
    return {key: str(balancer.pick(key).label) for key in KEYS}  # type: ignore[union-attr]


def points(balancer: ConsistentHash) -> dict[str, int]:
    """How many points each endpoint owns."""
    return dict(Counter(owner.label for owner in balancer.ring.owners.values()))


class StickyTests(SynchronousTestCase):
    """One membership."""

    def test_same_everywhere(self) -> None:
        """Any gateway of a fleet, and any of its workers, sends a key to the same endpoint."""
        members = endpoints([1, 2, 3])
        one = owners(ConsistentHash(members, random=Random(1)))
        other = owners(ConsistentHash(endpoints([1, 2, 3])[::-1], random=Random(2)))
        self.assertEqual(one, other)

    def test_same_tomorrow(self) -> None:
        """It depends on addresses alone: a new release or process changes nothing."""
        found = owners(ConsistentHash(endpoints([1] * 4), random=Random(1)))
        self.assertEqual([found[key][7] for key in KEYS[:12]], list("132233132302"))

    def test_explained(self) -> None:
        """explain names the very endpoint, before or after the pick; without a key the shares."""
        members = endpoints([1, 3])
        balancer = ConsistentHash(members, random=Random(1))
        for key in KEYS[:50]:
            peeked = balancer.peek(key)
            self.assertEqual(peeked, [(balancer.pick(key), 1.0)])
            self.assertEqual(balancer.peek(key), peeked)
        self.assertEqual(balancer.peek(None), [(members[0], 0.25), (members[1], 0.75)])

    def test_shares(self) -> None:
        """Keys spread by weight, as evenly as 128 points for each unit of it make them."""
        members = endpoints([1, 2, 4, 9])
        balancer = ConsistentHash(members, random=Random(1))
        found = counted(balancer, 40_000, [b"%d" % number for number in range(40_000)])
        off = {
            member.label: found[member.label] / (2_500 * member.weight)
            for member in members
            if not 0.7 < found[member.label] / (2_500 * member.weight) < 1.3
        }
        self.assertEqual(off, {})

    def test_no_key(self) -> None:
        """A request without the header or cookie goes anywhere, by chance and by weight."""
        members = endpoints([1, 15])
        balancer = ConsistentHash(members, random=Random(1))
        found = counted(balancer, 4_000)
        self.assertEqual(set(found), {member.label for member in members})
        self.assertTrue(120 < found[members[0].label] < 400, found)
        self.assertEqual(balancer._memo, {})

    def test_memo(self) -> None:
        """What is remembered is bounded in keys and in bytes, and answers as before."""
        members = endpoints([1] * 3)
        balancer = ConsistentHash(members, random=Random(1))
        before = {key: balancer.pick(key) for key in KEYS}
        for number in range(70_000):
            balancer.pick(b"%d" % number)
        self.assertLessEqual(len(balancer._memo), 65_536)
        long = b"x" * 60_000
        self.assertIs(balancer.pick(long), balancer.pick(long))
        self.assertLessEqual(max(map(len, filter(None, balancer._memo))), 256)
        self.assertEqual({key: balancer.pick(key) for key in KEYS}, before)

    def test_wraps_around(self) -> None:
        """A key behind the last point belongs to the first one, over empty stretches too."""
        balancer = ConsistentHash(endpoints([1]), random=Random(1))
        ring = balancer.ring
        every = sorted(point for bucket in ring.buckets for point in bucket)
        self.assertEqual(len(every), 128)
        self.assertLess(len([bucket for bucket in ring.buckets if bucket]), 128)
        (owner,) = set(ring.owners.values())
        asked = [0, 2**64 - 1, every[-1] + 1, every[0], every[-1]]
        self.assertEqual([ring.find(point) for point in asked], [owner] * 5)

    def test_first_point_at_or_after(self) -> None:
        """A plain search over all points gives the same owner."""
        balancer = ConsistentHash(endpoints([1, 2, 1]), random=Random(1))
        ring = balancer.ring
        every = sorted(ring.owners)
        random = Random(5)
        asked = [random.getrandbits(64) for _ in range(500)] + every[:50]
        expected = [
            ring.owners[min((p for p in every if p >= point), default=every[0])] for point in asked
        ]
        self.assertEqual([ring.find(point) for point in asked], expected)


changes = st.lists(
    st.dictionaries(st.integers(0, 9), st.integers(1, 5), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
)


class ChangeTests(SynchronousTestCase):
    """From one membership to the next."""

    def moved(self, before: ConsistentHash, after: ConsistentHash) -> dict[tuple[str, str], int]:
        """How many keys went from whom to whom."""
        then, now = owners(before), owners(after)
        return dict(Counter((then[key], now[key]) for key in KEYS if then[key] != now[key]))

    @quick
    @given(
        st.lists(st.integers(1, 4), min_size=2, max_size=20), st.integers(1, 4), st.integers(0, 99)
    )
    def test_joins_and_leaves(self, weights: list[int], weight: int, first: int) -> None:
        """Who joins takes its share and from nobody more; when it leaves, its keys go back."""
        members = endpoints(weights, first)
        new = endpoints([weight], first + len(weights))[0]
        before = made(members)
        joined = made([*members, new], before)
        moved = self.moved(before, joined)
        self.assertEqual({to for _, to in moved} - {new.label}, set(), "only to the new one")
        share = weight / (sum(weights) + weight)
        self.assertLess(sum(moved.values()) / len(KEYS), share * 1.7 + 0.02)
        back = made(members, joined)
        self.assertEqual({gone for gone, _ in self.moved(joined, back)} - {new.label}, set())
        self.assertEqual(owners(back), owners(before))

    @quick
    @given(st.lists(st.integers(2, 5), min_size=2, max_size=10), st.data())
    def test_weight(self, weights: list[int], data: st.DataObject) -> None:
        """A changed weight moves keys to or from that endpoint alone, and few of them."""
        members = endpoints(weights)
        before = made(members)
        which = data.draw(st.sampled_from(members))
        step = data.draw(st.sampled_from([-1, 1]))
        which.weight += step
        moved = self.moved(before, made(members, before))
        ends = {pair[step > 0] for pair in moved}
        self.assertEqual(ends - {which.label}, set())
        self.assertLess(sum(moved.values()) / len(KEYS), 1.7 / sum(weights) + 0.03)

    @quick
    @given(changes)
    def test_history(self, history: list[dict[int, int]]) -> None:
        """A ring changed step by step is the ring built from scratch, whatever the way."""
        known = endpoints([1] * 10)
        balancer: ConsistentHash | None = None
        for step in history:
            members = [known[number] for number in step]
            for number, weight in step.items():
                known[number].weight = weight
            balancer = made(members, balancer)
            scratch = ConsistentHash(members, random=Random(1))
            self.assertEqual(balancer.ring.buckets, scratch.ring.buckets)
            self.assertEqual(balancer.ring.owners, scratch.ring.owners)
            self.assertEqual(balancer.ring.points, scratch.ring.points)
            self.assertEqual(balancer.ring.points, {known[n]: 128 * w for n, w in step.items()})

    def test_comes_back_as_another(self) -> None:
        """An address that leaves and comes back as a new object owns what it owned."""
        before = made(endpoints([1, 1, 1]))
        again = endpoints([1, 1, 1])
        after = made(again, before)
        self.assertEqual(owners(after), owners(before))
        self.assertEqual(set(after.ring.owners.values()), set(again))

    def test_old_one_serves_on(self) -> None:
        """Compiling changes nothing of the ring that serves meanwhile."""
        members = endpoints([1] * 4)
        serving = made(members)
        then = owners(serving)
        for _ in compile_balancer(ConsistentHash, members[:2], Random(1), serving):
            serving._memo.clear()
            self.assertEqual(serving.pick(KEYS[0]).label, then[KEYS[0]])  # type: ignore[union-attr]
        serving._memo.clear()
        self.assertEqual(owners(serving), then)

    def test_other_policy_before(self) -> None:
        """A change of policy builds from scratch."""
        members = endpoints([1, 2])
        before = finish(compile_balancer(balancers.RoundRobin, members, Random(1)))
        self.assertEqual(owners(made(members, before)), owners(made(members)))


class BoundTests(SynchronousTestCase):
    """Large rings: bounded in all, still by weight, still steady."""

    def test_points(self) -> None:
        """Ten thousand members of any weights stay within the bound, each has a point at least."""
        random = Random(1)
        cases = {
            "plain": [1] * 10_000,
            "mixed": [random.randint(1, 256) for _ in range(10_000)],
            "one light": [256] * 9_999 + [1],
            "few and heavy": [256] * 9,
            "just fits": [1] * 2_032,
        }
        found = {}
        for name, weights in cases.items():
            wanted = rings.points_wanted(endpoints(weights))
            self.assertGreaterEqual(min(wanted.values()), 1, name)
            found[name] = sum(wanted.values()) <= MOST_POINTS
        self.assertEqual(found, dict.fromkeys(cases, True))
        self.assertEqual(set(wanted.values()), {128})

    def test_threshold(self) -> None:
        """The member that brings the bound into force moves about its share, not half of all keys."""
        members = endpoints([100] * 21)
        before, after = made(members[:20]), made(members)
        then, now = owners(before), owners(after)
        self.assertEqual(len(before.ring.owners), 20 * 100 * 128)
        self.assertLess(len(after.ring.owners), MOST_POINTS)
        moved = sum(then[key] != now[key] for key in KEYS) / len(KEYS)
        self.assertLess(moved, 2.5 / 21)

    def test_bounded_history(self) -> None:
        """Where the bound is in force a ring changed step by step is one built from scratch, too."""
        members = endpoints([256] * 8 + [1, 90])
        ring = made(members, made(members[:9], made(members[1:]))).ring
        scratch = ConsistentHash(members, random=Random(1)).ring
        self.assertEqual((ring.buckets, ring.points), (scratch.buckets, scratch.points))

    def test_slices(self) -> None:
        """No slice hashes much, whether members are many or heavy; a change hashes the changed alone."""
        digests = [0]

        def counting(*args: Any, **kwargs: Any) -> Any:
            digests[0] += 1
            return blake2b(*args, **kwargs)

        self.patch(rings, "blake2b", counting)

        def work(
            members: list[Endpoint], before: Balancer | None = None
        ) -> tuple[Balancer, int, int]:
            """The balancer, all digests, and the most within a slice."""
            slices = compile_balancer(ConsistentHash, members, Random(1), before)
            most = total = 0
            while True:
                digests[0] = 0
                try:
                    next(slices)
                except StopIteration as stop:
                    return stop.value, total + digests[0], max(most, digests[0])
                total, most = total + digests[0], max(most, digests[0])

        many, heavy = endpoints([1] * 3_000), endpoints([256] * 6)
        for members in (many, heavy):
            _, total, most = work(members)
            self.assertGreater(total, 20_000)
            self.assertLess(most, 300)
        balancer, total, _ = work(many[:1_000])
        self.assertEqual(total, 16_000)
        balancer, total, most = work(many[:1_001], balancer)
        self.assertEqual((total, most), (16, 16))
        balancer, total, most = work(many[:700], balancer)
        self.assertEqual(total, 301 * 16)
        self.assertLess(most, 300)
        self.assertEqual(work(many[:300], balancer)[1], 300 * 16, "most go: those who stay, anew")
        self.assertEqual(work([], balancer)[1], 0)


class ChanceTests(SynchronousTestCase):
    """Keyless picks once more, as chance goes."""

    def test_equal(self) -> None:
        """With many points everybody's chance is near his share."""
        members = endpoints([64] * 4)
        found = counted(ConsistentHash(members, random=Random(3)), 4_000)
        self.assertEqual(within(found, members, sigmas=8.0), [], found)
