"""What is done for one task without arrays is what is done for many: every short cut against the plain way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from evsim.aggregation.buffered import Buffered
from evsim.base import rng
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray
from evsim.cost.model import CostModel
from evsim.cost.network import IndependentLinks
from evsim.cost.pricing import Pricing, SinglePrices
from evsim.cost.work import Work
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import smallest_keys
from evsim.testing.timeline import TinyWorld
from evsim.timeline.digest import TimelineHash
from evsim.timeline.feedback import FeedbackDesk
from evsim.timeline.ledger import _COLUMNS, Ledger
from evsim.timeline.manager import ClientManager
from evsim.timeline.refills import Refills
from evsim.timeline.sessions import Sessions
from evsim.timeline.world import NoLearning
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from tests.laws import examples
from tests.laws.test_buffered import policies
from tests.laws.test_timeline import HORIZON, traces, worlds

SIXTY_FOUR = st.integers(0, 2**64 - 1)


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(SIXTY_FOUR, st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_draw_of_one_is_the_draw_of_an_array(base: int, client: int, nth: int) -> None:
    begun = int(rng.hash64(base, client))
    assert rng.mix(base ^ client) == begun
    assert rng.uniform_one(begun, nth) == rng.uniform(base, client, nth)


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(SIXTY_FOUR, st.integers(0, 9000), st.integers(0, 300))
def test_hashes_of_a_range_are_those_of_its_numbers(base: int, start: int, count: int) -> None:
    expected = rng.hash64(base, np.arange(start, start + count))
    assert rng.hashes(base, start, start + count).tolist() == expected.tolist()


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(st.integers(0, 2**63), st.integers(-5, 2**40))
def test_numbered_keys_are_the_keys_of_the_names(seed: int, number: int) -> None:
    assert rng.numbered(seed, "select", 3)(number) == rng.key(seed, "select", 3, number)


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 2.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0, 1, 1_000_000]),
    st.sampled_from([0.25, 1.0]),
)
def test_the_price_of_one_task_is_the_price_in_a_cohort(
    seed: int, compute_jitter: float, network_jitter: float, size: int, scale: float
) -> None:
    draw, n = np.random.default_rng(seed), 300
    speed = DeviceSpeed(
        compute_ms_per_sample=draw.lognormal(0, 3, n),
        download_kbps=draw.lognormal(8, 2, n),
        upload_kbps=draw.lognormal(7, 2, n),
        compute_jitter=compute_jitter,
        network_jitter=network_jitter,
    )
    pricing = Pricing(CostModel(sample_scale=scale), speed, seed)
    samples = draw.integers(0, 50, n)
    work = Work(samples, samples // 2)
    prices = SinglePrices(pricing, work, (size, 2 * size))
    everyone, nth = np.arange(n), draw.integers(0, 1000, n)
    sizes = np.full(n, size), np.full(n, 2 * size)
    bulk = pricing.price(everyone, nth, work, sizes, 7)
    columns = bulk.download_ms, bulk.compute_ms, bulk.upload_ms, bulk.charged_samples
    expected = list(zip(*(column.tolist() for column in columns), strict=True))
    assert [prices.of(client, k) for client, k in zip(everyone.tolist(), nth.tolist(), strict=True)] == expected


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(traces(), st.integers(0, 5000))
def test_the_next_check_in_of_one_device_is_that_of_all(trace: AvailabilityTrace, at: int) -> None:
    devices = np.arange(trace.n_devices)
    one_by_one = [trace.next_check_in_of(device, at) for device in devices.tolist()]
    assert one_by_one == trace.next_check_in(devices, at).tolist()


def test_a_device_that_is_always_online_never_checks_in() -> None:
    assert AvailabilityTrace.always(2).next_check_in_of(1, 99) == FOREVER


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(traces(), st.lists(st.integers(0, 400), max_size=30), st.integers(1, 5))
def test_replay_in_steps_of_any_length_sees_every_edge_and_the_check_ins_ahead(
    trace: AvailabilityTrace, steps: list[int], count: int
) -> None:
    replay, now = Sessions(trace), 0
    edges = trace.edges(1, 20_000)
    instants, nothing = edges.at, (np.empty(0, np.int64),) * 3
    begins = instants[edges.check_in]
    for step in steps:
        before, now = now, now + step
        happened = replay.take(now)
        at, clients, check_in = happened or nothing
        seen = (instants > before) & (instants <= now)
        assert at.tolist() == instants[seen].tolist()
        assert clients.tolist() == edges.device[seen].tolist()
        assert check_in.tolist() == edges.check_in[seen].tolist()
        until = now + 900
        ahead = begins[(begins > now) & (begins <= until)][:count]
        assert replay.next_check_ins(count, until).tolist() == ahead.tolist()
        online = trace.is_online(np.arange(trace.n_devices), now)
        ends = trace.online_until(np.arange(trace.n_devices), now)
        assert replay.online_until[online].tolist() == ends[online].tolist()


def test_rows_survive_growth_and_release_of_a_book() -> None:
    book, row = Ledger(0), dict.fromkeys(_COLUMNS, 0)
    for task in range(3000):
        book.add_one(row | {"client": task, "outcome": int(task < 1500), "known_at": FOREVER})
    rows = book.release(9)
    assert rows is not None
    assert rows["client"].tolist() == list(range(1500))
    assert [book.cell("client", task) for task in range(1500, 3000)] == list(range(1500, 3000))
    assert book.add_one(row | {"client": 7}) == 3000
    assert book.cell("client", 3000) == 7


def test_a_row_has_the_same_digest_alone_and_among_others() -> None:
    rows = np.arange(18).reshape(3, 6) - 4
    together, alone = TimelineHash(), TimelineHash()
    together.add(*rows.T)
    for row in rows.tolist():
        alone.add_one(*row)
    assert together.hexdigest() == alone.hexdigest() != TimelineHash().hexdigest()


@final
class Dispatches:
    """A dry learning side that writes down what it is told of tasks."""

    def __init__(self) -> None:
        self.dispatches: list[tuple[int, ...]] = []
        self.discarded: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(NoLearning(), name)

    def dispatched(self, *columns: IntArray) -> None:
        self.dispatches.extend(zip(*(column.tolist() for column in columns), strict=True))

    def discard(self, tasks: Iterable[int]) -> None:
        known = {task for task, *_ in self.dispatches}
        assert known.issuperset(tasks)
        self.discarded.extend(tasks)


@final
@dataclass(frozen=True)
class Listening(Selector[None]):
    """Chooses at random and writes down what it is told."""

    told: list[list[object]] = field(default_factory=list)

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        self.told.append([view.now, view.round, "select"])
        return smallest_keys(view.idle, n, key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        columns = reports.clients, reports.at, reports.round, reports.outcome, reports.duration_ms, reports.samples
        self.told.extend(list(row) for row in zip(*(column.tolist() for column in columns), strict=True))


def test_feedback_is_told_in_the_order_in_which_it_was_due() -> None:
    """By instant of the decision, then rank, then tie; what the server decides in one instant in its own order."""
    ledger, selector = Ledger(0), Listening()
    row = dict.fromkeys(_COLUMNS, 1) | {"outcome": 0, "dispatched_at": 4, "loss_by": 99}
    for client, known in enumerate([9, 9, 9, 7, 9]):
        ledger.add_one(row | {"client": client, "known_at": known})
    desk = FeedbackDesk(ledger, ClientManager(selector, 5, 0))
    desk.decided(np.array([2]), 1, np.array([0.5]), at=9)
    desk.decided(np.array([1, 0]), np.array([2, 3]), at=9)
    desk.decided(np.array([3]), 5)
    desk.before_selection()
    assert [(told[0], told[3]) for told in selector.told] == [(3, 5), (2, 1), (1, 2), (0, 3)]
    desk.before_selection()
    assert len(selector.told) == 4


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_a_selector_hears_the_same_of_tasks_entered_one_by_one(world: TinyWorld, policy: Buffered) -> None:
    fast, plain = Listening(), Listening()
    one_by_one = replace(world, selector=fast).run(policy, until=HORIZON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndependentLinks, "is_constant", False)
        in_bulk = replace(world, selector=plain).run(policy, until=HORIZON)
    assert fast.told == plain.told
    pd.testing.assert_frame_equal(one_by_one.tasks, in_bulk.tasks)


@st.composite
def busy_worlds(draw: st.DrawFn) -> TinyWorld:
    """More clients than slots, so that slots are refilled at once; some instants coincide."""
    seed, n, day = draw(st.integers(0, 10**6)), draw(st.integers(12, 40)), 4_000
    numbers = np.random.default_rng(seed)
    edges = np.sort(numbers.integers(0, day, size=(n, 4)), axis=1)
    trace = AvailabilityTrace.from_intervals(
        np.repeat(np.arange(n), 2), edges[:, 0::2].ravel(), edges[:, 1::2].ravel(), n_devices=n, period=day
    )
    speed = DeviceSpeed(
        compute_ms_per_sample=numbers.lognormal(2.0, 0.7, n),
        download_kbps=numbers.uniform(50, 400, n),
        upload_kbps=numbers.uniform(50, 400, n),
        compute_jitter=draw(st.sampled_from([0.0, 0.4])),
    )
    samples = numbers.integers(0, 12, n) if draw(st.booleans()) else None
    return TinyWorld(trace=trace, speed=speed, samples=samples, seed=seed)


SLOTS = st.builds(
    Buffered,
    concurrency=st.integers(1, 6),
    buffer_size=st.integers(1, 9),
    max_staleness=st.sampled_from([None, 0, 1]),
    task_timeout=st.sampled_from([None, 150, 400]),
    period=st.sampled_from([None, 700]),
)


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(busy_worlds(), SLOTS)
def test_slots_refilled_ahead_of_the_clock_are_refilled_as_at_their_instants(
    world: TinyWorld, policy: Buffered
) -> None:
    heard, in_turn = Dispatches(), Dispatches()
    fast = replace(world, learning=heard).run(policy, until=9_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Refills, "run", lambda *_: -1)
        plain = replace(world, learning=in_turn).run(policy, until=9_000)
    assert fast.timeline_hash == plain.timeline_hash
    pd.testing.assert_frame_equal(fast.tasks, plain.tasks)
    pd.testing.assert_frame_equal(fast.server_steps, plain.server_steps)
    assert heard.dispatches == in_turn.dispatches
    assert sorted(heard.discarded) == sorted(in_turn.discarded)


def test_most_slots_are_refilled_ahead_of_the_clock() -> None:
    n = 40
    speed = DeviceSpeed.uniform(n, compute_ms_per_sample=1.0, download_kbps=80.0, upload_kbps=80.0)
    world = TinyWorld(trace=AvailabilityTrace.always(n), speed=replace(speed, compute_jitter=1.0))
    ahead, run = [], Refills.run

    def counted(self: Refills, *given: Any) -> int:
        before = len(self._server.ledger)
        idle = run(self, *given)
        ahead.append(len(self._server.ledger) - before)
        return idle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Refills, "run", counted)
        log = world.run(Buffered(concurrency=10, buffer_size=20), server_steps=20)
    assert sum(ahead) > 0.8 * len(log.tasks)
