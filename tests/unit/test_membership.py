"""core.membership: a registry's list is doubted where it would cost healthy members, and obeyed else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address
from gatewayd.core.membership import (
    HELD,
    LAST_RESORT,
    LISTED,
    Known,
    Membership,
    Refused,
    Rules,
    accepted,
    doubted,
    is_last_resort,
    listed,
    next_change,
    passed,
    permitted,
    restored,
)

quick = settings(deadline=None, database=None, max_examples=200)
RULES = Rules(removal_grace=15.0, max_shrink=0.5, hold_for=3600.0)
TEN = range(10)


def at(number: int) -> Address:
    """The address of a member."""
    return Address("tcp", f"10.0.0.{number}", 80)


def names(numbers: object, weight: int = 1) -> dict[Address, int]:
    """A list as a registry answers it."""
    assert isinstance(numbers, range | list | set | tuple | frozenset)
    return {at(number): weight for number in numbers}


def start(numbers: object = TEN, now: float = 0.0) -> Membership:
    """A first list, believed."""
    return listed(Membership(), names(numbers), RULES, now, steady=False)


def shown(membership: Membership) -> dict[int, str]:
    """Standings by number."""
    return {
        int(address.host.rpartition(".")[2]): known.standing
        for address, known in membership.members.items()
    }


def all_are(standing: str, numbers: object) -> dict[int, str]:
    """Standings where everybody's is the same."""
    assert isinstance(numbers, range | list | set | tuple)
    return dict.fromkeys(numbers, standing)


class Additions(SynchronousTestCase):
    """Whoever joins is a member at once."""

    def test_first(self) -> None:
        """The first list is believed as it is, by whatever session."""
        for steady in (False, True):
            first = listed(Membership(), names([1, 2], 7), RULES, 5.0, steady=steady)
            self.assertEqual({at(1): Known(7), at(2): Known(7)}, first.members)
            self.assertEqual((names([1, 2]).keys(), 5.0), (first.accepted, first.read_at))

    def test_empty_at_first(self) -> None:
        """There is nothing to hold."""
        self.assertEqual({}, start([]).members)

    def test_later_ones(self) -> None:
        """Steady or not, and also beside a loss that is held."""
        for steady in (False, True):
            more = listed(start(), names(range(30)), RULES, 20.0, steady=steady)
            self.assertEqual(all_are(LISTED, range(30)), shown(more))
        held = listed(start(), names([0, 77]), RULES, 20.0, steady=True)
        self.assertEqual({0: LISTED, 77: LISTED, **all_are(HELD, range(1, 10))}, shown(held))

    def test_the_journal_first(self) -> None:
        """What it knows is what a list is measured by, and it is as old as it is."""
        known = restored(names(TEN, 3), 100.0, age=60.0)
        self.assertEqual((40.0, names(TEN).keys()), (known.read_at, known.accepted))
        self.assertEqual(all_are(LISTED, TEN), shown(known))
        after = listed(known, {}, RULES, 101.0, steady=False)
        self.assertEqual(all_are(HELD, TEN), shown(after))
        after = listed(known, names(range(2, 12)), RULES, 101.0, steady=False)
        self.assertEqual(
            {**all_are(LISTED, range(2, 12)), 0: LAST_RESORT, 1: LAST_RESORT}, shown(after)
        )


class Removals(SynchronousTestCase):
    """At once, as a last resort, or held."""

    def test_by_size_and_session(self) -> None:
        """Ten members, so many of which vanish at once."""
        table = {
            # lost: (in a steady session, else)
            1: ({}, LAST_RESORT),
            5: ({}, LAST_RESORT),
            6: (HELD, HELD),
            9: (HELD, HELD),
            10: (HELD, HELD),
        }
        for lost, outcomes in table.items():
            for steady, outcome in zip((True, False), outcomes, strict=True):
                after = listed(start(), names(range(lost, 10)), RULES, 20.0, steady=steady)
                gone = all_are(str(outcome), range(lost)) if outcome else {}
                self.assertEqual(
                    {**gone, **all_are(LISTED, range(lost, 10))}, shown(after), (lost, steady)
                )
                self.assertEqual(lost if outcome == HELD else 0, after.held)

    def test_max_shrink(self) -> None:
        """A share of the list; all of them are held even at 100%."""
        for share, lost, is_held in ((0.0, 1, True), (0.3, 3, False), (0.3, 4, True)):
            rules = Rules(max_shrink=share)
            after = listed(start(), names(range(lost, 10)), rules, 20.0, steady=True)
            self.assertEqual(is_held, after.held > 0, (share, lost))
        rules = Rules(max_shrink=1.0)
        self.assertEqual(0, listed(start(), names([9]), rules, 20.0, steady=True).held)
        self.assertEqual(10, listed(start(), {}, rules, 20.0, steady=True).held)

    def test_the_only_one(self) -> None:
        """A list of one that becomes empty is held, too."""
        self.assertEqual({1: HELD}, shown(listed(start([1]), {}, RULES, 20.0, steady=True)))

    def test_who_takes_nothing(self) -> None:
        """Weight 0 is believed at once, in any session and of any number; then it may go."""
        for steady in (False, True):
            after = listed(start(), names(TEN, 0), RULES, 20.0, steady=steady)
            self.assertEqual(names(TEN, 0), {a: k.weight for a, k in after.members.items()})
            self.assertEqual({}, listed(after, {}, RULES, 21.0, steady=steady).members)
            most = listed(after, names([9], 0), RULES, 21.0, steady=steady)
            self.assertEqual({9: LISTED}, shown(most))

    def test_who_took_nothing_is_no_loss(self) -> None:
        """Nor does it count later, when somebody else leaves."""
        drained = {**names(range(6), 0), **names(range(6, 10))}
        after = listed(start(), drained, RULES, 20.0, steady=True)
        after = listed(after, names(range(6, 10)), RULES, 21.0, steady=True)
        after = listed(after, names(range(7, 10)), RULES, 22.0, steady=True)
        self.assertEqual(all_are(LISTED, range(7, 10)), shown(after))

    def test_weights_at_once(self) -> None:
        """Of listed, held and last resort members; those are listed again."""
        for lost in (1, 9):
            after = listed(start(), names(range(lost, 10)), RULES, 20.0, steady=False)
            after = listed(after, names(TEN, 5), RULES, 21.0, steady=False)
            self.assertEqual(names(TEN, 5), {a: k.weight for a, k in after.members.items()})
            self.assertEqual(all_are(LISTED, TEN), shown(after))

    def test_the_same_list(self) -> None:
        """It changes nothing, and says how fresh the knowledge is."""
        again = listed(start(), names(TEN), RULES, 20.0, steady=True)
        self.assertEqual((start().members, 20.0), (again.members, again.read_at))


class SumOfLosses(SynchronousTestCase):
    """Many small losses are as bad as a large one."""

    def lose(self, times: list[float], each: int, *, steady: bool) -> Membership:
        """Lose some of ten at each of these times."""
        after = start()
        for number, now in enumerate(times, 1):
            left = names(range(each * number, 10))
            after = listed(after, left, RULES, now, steady=steady)
        return after

    def test_within_a_grace_period(self) -> None:
        """The sixth of ten is one too many, wherever the period begins."""
        for first in (20.0, 20.5, 34.0, 1000.0):
            times = [first + 2 * number for number in range(6)]
            self.assertEqual(
                {5: HELD, **all_are(LISTED, range(6, 10))}, shown(self.lose(times, 1, steady=True))
            )
        self.assertEqual(1, self.lose([100.0, 101.0], 4, steady=True).held // 4)

    def test_over_a_longer_time(self) -> None:
        """What is older than the grace period has been believed."""
        times = [20.0 + 16 * number for number in range(9)]
        self.assertEqual({9: LISTED}, shown(self.lose(times, 1, steady=True)))
        after = self.lose([100.0, 110.0, 1000.0], 2, steady=True)
        self.assertEqual(all_are(LISTED, range(6, 10)), shown(after))

    def test_never_believed_in_trouble(self) -> None:
        """While the session is not steady they add up without end."""
        times = [20.0 + 16 * number for number in range(6)]
        after = self.lose(times, 1, steady=False)
        self.assertEqual(6, after.held)

    def test_less_new_ones(self) -> None:
        """Replacing one after the other is no loss: the new ones serve before the next is gone."""
        after = start()
        for step in range(10):
            after = listed(after, names(range(step, 11 + step)), RULES, 20.0 + step, steady=True)
            after = listed(
                after, names(range(step + 1, 11 + step)), RULES, 20.5 + step, steady=True
            )
        self.assertEqual(all_are(LISTED, range(10, 20)), shown(after))

    def test_new_ones_that_do_not_serve_yet(self) -> None:
        """All are replaced in one list: the old ones stay until the new ones serve."""
        new = range(20, 30)
        after = listed(start(), names(new), RULES, 20.0, steady=True)
        self.assertEqual({**all_are(HELD, TEN), **all_are(LISTED, new)}, shown(after))
        self.assertEqual(21.0, next_change(after, 20.0))
        after = listed(after, names(new), RULES, 21.0, steady=True, serves=lambda address: False)
        self.assertEqual(10, after.held)
        after = listed(after, names(new), RULES, 22.0, steady=True, serves=lambda address: True)
        self.assertEqual({**all_are(LAST_RESORT, TEN), **all_are(LISTED, new)}, shown(after))
        self.assertEqual(all_are(LISTED, new), shown(passed(after, 37.0, away=False)))

    def test_new_ones_that_go_again(self) -> None:
        """They are a loss like any other, of the list that was believed last."""
        after = listed(start([1, 2]), names([2]), RULES, 20.0, steady=True)
        after = listed(after, names(range(2, 10)), RULES, 21.0, steady=True)
        after = listed(after, names([2]), RULES, 22.0, steady=True)
        self.assertEqual(7, after.held)

    def test_new_ones_alone(self) -> None:
        """Where all of the old list is confirmed gone, the new ones are the list."""
        after = listed(start([1]), names([2, 3]), RULES, 20.0, steady=True)
        after = listed(after, names([2]), RULES, 21.0, steady=True)
        self.assertEqual({1: HELD, 2: LISTED, 3: HELD}, shown(after))
        after = doubted(after, at(1), last_usable=False)
        after = listed(after, names([2]), RULES, 22.0, steady=True)
        self.assertEqual({2: LISTED, 3: LAST_RESORT}, shown(after))

    def test_a_held_loss_does_not_grow_old(self) -> None:
        """Long after the grace period another list is still measured by the one before the loss."""
        after = listed(start(), names([9]), RULES, 20.0, steady=True)
        after = listed(after, names([9], 4), RULES, 500.0, steady=True)
        self.assertEqual({**all_are(HELD, range(9)), 9: LISTED}, shown(after))
        self.assertEqual(3620.0, after.members[at(0)].until)


class LastResorts(SynchronousTestCase):
    """Gone while the session was in trouble."""

    def setUp(self) -> None:
        self.after = listed(start(), names(range(3, 10)), RULES, 20.0, steady=False)

    def test_its_time(self) -> None:
        """It leaves after removal_grace, whether ZooKeeper is there or not."""
        self.assertEqual(35.0, next_change(self.after, 20.0))
        for away in (False, True):
            self.assertIs(self.after, passed(self.after, 34.9, away=away))
            self.assertEqual(
                all_are(LISTED, range(3, 10)), shown(passed(self.after, 35.0, away=away))
            )

    def test_its_time_is_not_prolonged(self) -> None:
        """Further lists do not name it either."""
        again = listed(self.after, names(range(3, 10)), RULES, 30.0, steady=False)
        self.assertEqual(35.0, again.members[at(0)].until)

    def test_back(self) -> None:
        """It registers anew and is a member like any other."""
        self.assertEqual(
            all_are(LISTED, TEN), shown(listed(self.after, names(TEN), RULES, 30.0, steady=False))
        )

    def test_its_first_failure(self) -> None:
        """It is gone, and no loss any more; unless it is the last."""
        self.assertIs(self.after, doubted(self.after, at(0), last_usable=True))
        after = self.after
        for number in range(3):
            after = doubted(after, at(number), last_usable=False)
        self.assertEqual(all_are(LISTED, range(3, 10)), shown(after))
        after = listed(after, names(range(6, 10)), RULES, 21.0, steady=True)
        self.assertEqual(all_are(LISTED, range(6, 10)), shown(after))

    def test_nobody_else_is_usable(self) -> None:
        """It serves on after its time, through any list, and is looked at each second."""

        def usable(address: Address) -> bool:
            return address == at(0)

        after = passed(self.after, 35.0, away=False, usable=usable)
        self.assertEqual({0: LAST_RESORT, **all_are(LISTED, range(3, 10))}, shown(after))
        self.assertEqual(36.0, next_change(after, 35.0))
        self.assertIs(after, passed(after, 36.0, away=False, usable=usable))
        after = listed(after, names(range(3, 10), 9), RULES, 36.0, steady=True)
        self.assertEqual({0: LAST_RESORT, **all_are(LISTED, range(3, 10))}, shown(after))
        after = passed(after, 37.0, away=False)
        self.assertEqual(all_are(LISTED, range(3, 10)), shown(after))

    def test_weightless_others_do_not_serve(self) -> None:
        """Who takes nothing is nobody to rely on."""
        after = listed(start([1, 2]), names([2], 0), RULES, 20.0, steady=False)
        self.assertEqual({1: LAST_RESORT, 2: LISTED}, shown(after))
        self.assertEqual({1: LAST_RESORT, 2: LISTED}, shown(passed(after, 99.0, away=False)))

    def test_more_are_lost(self) -> None:
        """Then all of them are held."""
        after = listed(self.after, names(range(6, 10)), RULES, 21.0, steady=False)
        self.assertEqual({**all_are(HELD, range(6)), **all_are(LISTED, range(6, 10))}, shown(after))


class Held(SynchronousTestCase):
    """Gone with too many others."""

    def setUp(self) -> None:
        self.after = listed(start(), {}, RULES, 20.0, steady=True)

    def test_picked_as_before(self) -> None:
        """A held member is no last resort."""
        self.assertEqual(10, self.after.held)
        self.assertFalse(any(is_last_resort(k, 20.0) for k in self.after.members.values()))

    def test_back(self) -> None:
        """Who registers anew is listed; of the others few enough are lost then."""
        after = listed(self.after, names(range(4)), RULES, 21.0, steady=True)
        self.assertEqual({**all_are(LISTED, range(4)), **all_are(HELD, range(4, 10))}, shown(after))
        after = listed(after, names(range(6)), RULES, 22.0, steady=True)
        self.assertEqual(
            {**all_are(LISTED, range(6)), **all_are(LAST_RESORT, range(6, 10))}, shown(after)
        )

    def test_confirmed(self) -> None:
        """Those that fail leave, but for the last; then they are no loss any more."""
        after = self.after
        for number in range(9):
            after = doubted(after, at(number), last_usable=False)
        self.assertEqual({9: HELD}, shown(doubted(after, at(9), last_usable=True)))
        self.assertEqual(frozenset([at(9)]), after.accepted)
        after = listed(after, names(range(20, 30)), RULES, 23.0, steady=True)
        after = listed(after, names(range(21, 30)), RULES, 40.0, steady=True)
        self.assertNotIn(20, shown(after))

    def test_accepted(self) -> None:
        """An operator's word: the list counts as it is, and further losses from there."""
        after = listed(start(), names([8, 9]), RULES, 20.0, steady=True)
        after = accepted(after)
        self.assertEqual({8: LISTED, 9: LISTED}, shown(after))
        self.assertEqual(names([8, 9]).keys(), after.accepted)
        self.assertEqual({9: LISTED}, shown(listed(after, names([9]), RULES, 21.0, steady=True)))
        self.assertEqual({}, accepted(self.after).members)

    def test_accepted_beside_a_last_resort(self) -> None:
        """It is not on the list: its going is no loss."""
        after = listed(start(), names(range(3, 10)), RULES, 20.0, steady=False)
        self.assertEqual(names(range(3, 10)).keys(), accepted(after).accepted)

    def test_hold_for(self) -> None:
        """They leave after it: not while ZooKeeper is away, and not the last that can serve."""
        after = listed(start(), names([9]), RULES, 20.0, steady=True)
        self.assertEqual(3620.0, next_change(after, 20.0))
        self.assertIs(after, passed(after, 3619.9, away=False))
        self.assertIs(after, passed(after, 9999.0, away=True))
        gone = passed(after, 3620.0, away=False)
        self.assertEqual({9: LISTED}, shown(gone))
        only = passed(self.after, 3620.0, away=False, usable=lambda address: address == at(4))
        self.assertEqual({4: HELD}, shown(only))
        self.assertEqual(3621.0, next_change(only, 3620.0))

    def test_after_hold_for_it_is_no_loss(self) -> None:
        """The next removal of one is one."""
        after = listed(start(), names(range(6, 10)), RULES, 20.0, steady=True)
        after = passed(after, 3620.0, away=False)
        after = listed(after, names(range(7, 10)), RULES, 3630.0, steady=True)
        self.assertEqual(all_are(LISTED, range(7, 10)), shown(after))

    def test_doubts_of_others(self) -> None:
        """A failure of a listed member, or of none, is not the membership's business."""
        self.assertIs(self.after, doubted(self.after, at(99), last_usable=False))
        first = start()
        self.assertIs(first, doubted(first, at(1), last_usable=False))


class Flapping(SynchronousTestCase):
    """A member that comes and goes is damped."""

    def flap(self, times: int, *, steady: bool, every: float = 2.0) -> list[str]:
        """What becomes of member 1 with each coming and going."""
        after, said, now = start([1, 2, 3, 4]), [], 20.0
        for number in range(times):
            present = [2, 3, 4] if number % 2 == 0 else [1, 2, 3, 4]
            after = listed(after, names(present), RULES, now, steady=steady)
            known = after.members.get(at(1))
            said.append(
                "gone" if known is None else "damped" if is_last_resort(known, now) else "in"
            )
            now += every
        return said

    def test_in_a_steady_session(self) -> None:
        """Three times it is believed; after that it is a last resort when it goes and comes."""
        self.assertEqual(
            ["gone", "in", "gone", "in", "gone", "in", "damped", "damped", "damped", "damped"],
            self.flap(10, steady=True),
        )

    def test_else(self) -> None:
        """The same where it is a last resort anyway."""
        self.assertEqual(
            ["damped", "in", "damped", "in", "damped", "in", "damped", "damped"],
            self.flap(8, steady=False),
        )

    def test_slowly(self) -> None:
        """Three joins a minute are no flapping."""
        self.assertEqual(["gone", "in"] * 10, self.flap(20, steady=True, every=25.0))

    def test_how_long(self) -> None:
        """Ten seconds after each further join; then it is a member like any other."""
        damped = Known(1, LISTED, until=30.0)
        self.assertEqual((True, False), (is_last_resort(damped, 29.9), is_last_resort(damped, 30)))
        membership = Membership({at(1): damped})
        self.assertEqual(30.0, next_change(membership, 20.0))
        self.assertEqual(float("inf"), next_change(membership, 30.0))
        self.assertIs(membership, passed(membership, 99.0, away=False))

    def test_memory_is_bounded(self) -> None:
        """Who has not come back for a minute is forgotten, and of joins the last four are known."""
        after, now = start(range(100, 150)), 20.0
        for number in range(200):
            present = {*range(100, 150), 150 + number % 100}
            after = listed(after, names(present), RULES, now, steady=True)
            now += 1
        self.assertEqual((51, 59), (len(after.members), len(after.left)))
        for _ in range(30):
            after = listed(after, names([1]), RULES, now, steady=False)
            after = listed(after, names([1, 2]), RULES, now, steady=False)
        self.assertEqual(4, len(after.members[at(2)].joins))


class Permitted(SynchronousTestCase):
    """Who may be a member at all."""

    def test_table(self) -> None:
        """Neither the gateway itself nor a network that is left out; the first of one address."""
        own, inside, outside = at(1), at(2), Address("tcp", "192.0.2.1", 80)
        self.assertEqual(
            (
                {inside: 3},
                [
                    Refused(own, "it is the gateway's own address"),
                    Refused(outside, "it is not in members_allow"),
                ],
            ),
            permitted(
                [(own, 1), (inside, 3), (outside, 2), (inside, 9)],
                lambda host: host.startswith("10."),
                lambda address: address == own,
            ),
        )


members = st.sets(st.integers(1, 12), max_size=12)


class Properties(SynchronousTestCase):
    """What holds of every list, whatever came before."""

    @quick
    @given(members, st.lists(st.tuples(members, st.booleans()), max_size=6), members, st.booleans())
    def test_a_list(
        self, first: set[int], between: list[tuple[set[int], bool]], last: set[int], steady: bool
    ) -> None:
        """All who are named are listed with their weight; who is not goes by the rules."""
        was, now = start(first), 0.0
        for numbers, was_steady in between:
            now += 3.0
            was = listed(was, names(numbers), RULES, now, steady=was_steady)
        after = listed(was, names(last, 2), RULES, now + 3, steady=steady)
        standing = shown(after)
        self.assertEqual(all_are(LISTED, last), {n: s for n, s in standing.items() if s == LISTED})
        self.assertEqual({2}, {after.members[at(n)].weight for n in last} | {2})
        self.assertEqual(set(), set(standing) - set(shown(was)) - last)
        vanished = set(shown(was)) - last
        if vanished - set(standing):
            self.assertTrue(steady and last, "only a steady session's list takes anybody away")
        if was.members:
            self.assertTrue(after.members)
        if was.members and not last:
            self.assertEqual(all_are(HELD, vanished), standing)
        # The loss of one list alone is over max_shrink, and nobody new was there before it.
        lost = {a for a, k in was.members.items() if k.standing == LISTED} - names(last).keys()
        if not was.gone and len(lost) > len(was.accepted) / 2:
            self.assertEqual({HELD}, {after.members[a].standing for a in lost})

    @quick
    @given(members, members, members, st.booleans(), st.booleans())
    def test_time(
        self, first: set[int], last: set[int], able: set[int], steady: bool, away: bool
    ) -> None:
        """It takes no listed member, no usable one who is the last, none at all before its time."""
        was = listed(start(first), names(last), RULES, 20.0, steady=steady)
        self.assertIs(was, passed(was, 34.9, away=away))
        for now in (35.0, 3620.0):
            after = passed(was, now, away=away, usable=lambda a: a in names(able))
            self.assertTrue(set(last) <= set(shown(after)))
            if names(able).keys() & was.members.keys():
                self.assertTrue(names(able).keys() & after.members.keys())
            if away:
                self.assertEqual(was.held, after.held)
            self.assertEqual(
                after, passed(after, now, away=away, usable=lambda a: a in names(able))
            )
