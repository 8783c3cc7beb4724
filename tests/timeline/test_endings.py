"""The calendar of endings against a list that is sorted whenever somebody asks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.units import FOREVER
from evsim.timeline.endings import Endings
from evsim.timeline.fates import ARRIVES, LOST, STOPPED
from evsim.timeline.ledger import _COLUMNS, Ledger

ROW = dict.fromkeys(_COLUMNS, 5) | {"outcome": 0}
DISPATCHES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), max_size=10)


class World:
    """A ledger, its calendar, and which tasks have not been handed over."""

    def __init__(self, dispatches: list[list[int]], fates: list[int]) -> None:
        self.ledger = Ledger(3)
        self.endings = Endings(self.ledger)
        self.open: set[int] = set()
        for known in dispatches:
            many = len(known)
            fate = np.array([fates[(len(self.ledger) + place) % len(fates)] for place in range(many)])
            row = ROW | {"client": np.arange(many), "known_at": known, "ended_at": known, "fate": fate, "loss_by": 8}
            tasks = self.ledger.add(row)
            self.endings.enter(tasks)
            self.open |= set(tasks.tolist())

    def expected(self, now: int) -> list[int]:
        """By the ledger: what is due, by instant and tie."""
        tasks = np.array(sorted(self.open), np.int64)
        due = tasks[self.ledger.column("known_at", tasks) <= now]
        return self.ledger.in_order(due).tolist()

    def move(self, task: int, known: int) -> None:
        self.ledger.set("known_at", np.array([task]), known)
        self.endings.move(np.array([task]))

    def hand_over(self, tasks: list[int]) -> None:
        self.open -= set(tasks)
        assert self.endings.in_flight == len(self.open)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(DISPATCHES, st.lists(st.sampled_from([ARRIVES, LOST, STOPPED]), min_size=1, max_size=5), st.data())
def test_endings_come_in_order_however_they_are_moved_and_cancelled(
    dispatches: list[list[int]], fates: list[int], data: st.DataObject
) -> None:
    world, now = World(dispatches, fates), 0
    while world.open:
        for _ in range(data.draw(st.integers(0, 3))):
            task = data.draw(st.sampled_from(sorted(world.open)))
            if data.draw(st.integers(0, 4)):
                world.move(task, now + data.draw(st.integers(1, 6)))
            else:
                world.endings.cancel(np.array([task]))
                world.hand_over([task])
            if not world.open:
                return
        known = world.ledger.column("known_at", np.array(sorted(world.open)))
        assert world.endings.next() == known.min()
        assert world.endings.coming(3)[0] <= known.min()
        now += data.draw(st.integers(1, 4))
        expected, handed = world.expected(now), world.endings.take(now)
        assert ([] if handed is None else handed.tolist()) == expected
        world.hand_over(expected)
    assert world.endings.next() == FOREVER
    assert world.endings.take(10**9) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(DISPATCHES, st.lists(st.sampled_from([ARRIVES, LOST, STOPPED]), min_size=1, max_size=5), st.data())
def test_one_at_a_time_they_come_by_instant_rank_and_tie(
    dispatches: list[list[int]], fates: list[int], data: st.DataObject
) -> None:
    world, seen = World(dispatches, fates), []
    for task in data.draw(st.sets(st.sampled_from(sorted(world.open)))) if world.open else ():
        world.move(task, data.draw(st.integers(1, 12)))
    tasks = np.array(sorted(world.open), np.int64)
    ranks = dict(zip(tasks.tolist(), world.ledger.ranks(tasks).tolist(), strict=True))
    assert all(world.ledger.rank_of(task) == rank for task, rank in ranks.items())
    order = {task: place for place, task in enumerate(world.expected(FOREVER))}
    while (head := world.endings.head())[0] < FOREVER:
        one = world.endings.take_one(head[0])
        if one is not None:
            (task,) = one.tolist()
            seen.append((world.ledger.cell("known_at", task), ranks[task], order[task]))
            assert head == seen[-1][:2]
            world.hand_over([task])
    assert seen == sorted(seen)
    assert not world.open


def test_few_or_many_make_no_difference() -> None:
    """A dispatch of many tasks and the same tasks one by one are handed over alike."""
    for many in range(1, 33):
        known = np.random.default_rng(many).integers(1, 6, many)
        together, alone = World([known.tolist()], [ARRIVES]), World([[at] for at in known.tolist()], [ARRIVES])
        for now in range(7):
            one, two = together.endings.take(now), alone.endings.take(now)
            assert (one is None) == (two is None)
            assert one is None or one.tolist() == two.tolist()


def test_a_task_moved_away_and_back_ends_once() -> None:
    world = World([[4, 9], [5]], [ARRIVES])
    world.move(0, 7)
    world.move(0, 4)
    world.move(2, 6)
    assert world.endings.take(4).tolist() == [0]
    assert world.endings.take(5) is None
    assert world.endings.take(20).tolist() == [2, 1]
    assert world.endings.next() == FOREVER
