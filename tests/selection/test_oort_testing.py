"""Oort's testing selector: Hoeffding's cohort, the MILP against exhaustive search, the greedy heuristic against it."""

from __future__ import annotations

import ctypes
import os
from itertools import product
from math import ceil, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import milp

from evsim.base.errors import PolicyError
from evsim.selection import oort_testing
from evsim.selection.oort_testing import (
    Profiles,
    TestPlan,
    deviation_cohort,
    select_by_category,
    select_by_category_greedy,
)


def profiles(have: list[list[int]], pace: list[float], transfer: list[float]) -> Profiles:
    return Profiles(np.array(have), np.array(pace), np.array(transfer))


def fastest_by_enumeration(request: list[int], it: Profiles, budget: int | None) -> float:
    """The least possible end over every way to share the request; tiny cases only."""
    n, categories = it.have.shape
    best = np.inf
    options = [range(min(int(it.have[i, j]), request[j]) + 1) for i in range(n) for j in range(categories)]
    for values in product(*options):
        q = np.array(values).reshape(n, categories)
        used = q.sum(axis=1) > 0
        if (q.sum(axis=0) == request).all() and (budget is None or used.sum() <= budget):
            ends = (it.ms_per_sample * q.sum(axis=1) + it.transfer_ms)[used]
            best = min(best, float(ends.max()))
    return best


def assert_keeps_its_promises(plan: TestPlan, request: list[int], it: Profiles) -> None:
    assert plan.samples.sum(axis=0).tolist() == request
    assert (plan.samples <= it.have[plan.clients]).all()
    assert (plan.samples >= 0).all()
    ends = it.ms_per_sample[plan.clients] * plan.samples.sum(axis=1) + it.transfer_ms[plan.clients]
    assert plan.duration_ms == ends.max()


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_the_cohort_follows_hoeffding_serfling_with_the_confidence_that_is_given(confidence: float) -> None:
    expected = (5000 + 1) / (1 - 2 * 5000 / log(1 - confidence) * (8 / 120) ** 2)
    assert deviation_cohort(8, 120, 5000, confidence) == ceil(expected)


def test_more_confidence_or_less_tolerance_needs_more_clients_and_never_more_than_there_are() -> None:
    sizes = [deviation_cohort(10, 100, 1000, c) for c in (0.5, 0.9, 0.99)]
    assert sizes == sorted(set(sizes))
    assert deviation_cohort(1e-9, 100, 1000, 0.9) == 1000
    assert deviation_cohort(10, 0, 1000, 0.9) == 1


def test_the_promised_deviation_is_kept_at_least_as_often_as_promised() -> None:
    """400 draws; a true rate of 0.9 would fall below 0.9 - 5 x sqrt(0.09 / 400) with probability 3e-7."""
    stream = np.random.default_rng(0)
    sizes = np.minimum(stream.lognormal(3, 1, 2000), 200)
    n = deviation_cohort(20, float(np.ptp(sizes)), len(sizes), 0.9)
    means = np.array([stream.choice(sizes, n, replace=False).mean() for _ in range(400)])
    assert np.mean(np.abs(means - sizes.mean()) < 20) > 0.9 - 5 * np.sqrt(0.09 / 400)


@pytest.mark.parametrize(
    "arguments", [(0, 1, 10, 0.9), (1, -1, 10, 0.9), (1, 1, 0, 0.9), (1, 1, 10, 1.0), (1, 1, 10, 0.0)]
)
def test_impossible_requests_for_a_cohort_are_refused(arguments: tuple[float, float, int, float]) -> None:
    with pytest.raises(PolicyError, match="must be"):
        deviation_cohort(*arguments)


CELL = st.integers(0, 2)


@given(
    st.lists(st.tuples(CELL, CELL), min_size=3, max_size=3),
    st.tuples(st.integers(0, 3), st.integers(0, 2)),
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
    st.sampled_from([None, 1, 2]),
)
@settings(derandomize=True, max_examples=25, deadline=None)
def test_the_milp_finds_what_exhaustive_search_finds(
    have: list[tuple[int, int]], request: tuple[int, int], times: list[int], budget: int | None
) -> None:
    it = profiles([list(row) for row in have], [float(t) for t in times[:3]], [float(t) for t in times[3:]])
    wanted = list(request)
    if sum(wanted) == 0:
        return
    best = fastest_by_enumeration(wanted, it, budget)
    if best == np.inf:
        with pytest.raises(PolicyError, match="a request that can be met"):
            select_by_category(wanted, it, budget)
        return
    plan = select_by_category(wanted, it, budget)
    assert_keeps_its_promises(plan, wanted, it)
    assert plan.duration_ms == pytest.approx(best, rel=1e-6)
    assert budget is None or len(plan.clients) <= budget


def test_the_greedy_plan_keeps_its_promises_and_is_close_to_the_best() -> None:
    stream = np.random.default_rng(1)
    it = Profiles(stream.integers(0, 30, (12, 3)), stream.uniform(1, 20, 12), stream.uniform(10, 200, 12))
    request = [40, 25, 30]
    best, greedy = select_by_category(request, it), select_by_category_greedy(request, it)
    for plan in (best, greedy):
        assert_keeps_its_promises(plan, request, it)
    assert best.gap == 0.0
    assert best.duration_ms <= greedy.duration_ms <= 2 * best.duration_ms


def test_clients_that_are_not_needed_take_no_part() -> None:
    it = profiles([[5, 0], [5, 0], [0, 9]], [1.0, 100.0, 1.0], [0.0, 0.0, 0.0])
    plan = select_by_category([5, 3], it)
    assert plan.clients.tolist() == [0, 2]
    assert plan.samples.tolist() == [[5, 0], [0, 3]]
    assert plan.duration_ms == 5.0


def test_a_plan_cut_short_says_how_far_from_proven_it_is() -> None:
    stream = np.random.default_rng(1)
    it = Profiles(stream.integers(0, 30, (12, 3)), stream.uniform(1, 20, 12), stream.uniform(10, 200, 12))
    plan = select_by_category([40, 25, 30], it, gap=0.5)
    assert_keeps_its_promises(plan, [40, 25, 30], it)
    assert 0 < plan.gap <= 0.5


def test_a_category_that_nobody_has_enough_of_is_named() -> None:
    it = profiles([[5, 0], [5, 1]], [1.0, 1.0], [0.0, 0.0])
    for plan in (select_by_category, select_by_category_greedy):
        with pytest.raises(PolicyError, match=r"category 1: 2 samples, the clients have 1"):
            plan([1, 2], it)


def test_a_budget_that_is_too_small_is_refused() -> None:
    it = profiles([[5], [5], [5]], [1.0] * 3, [0.0] * 3)
    for plan in (select_by_category, select_by_category_greedy):
        with pytest.raises(PolicyError, match="ask for fewer samples or allow more clients"):
            plan([12], it, 2)
        with pytest.raises(PolicyError, match="budget must be >= 1"):
            plan([2], it, 0)


def test_requests_and_profiles_of_a_wrong_shape_are_refused() -> None:
    it = profiles([[5], [5]], [1.0] * 2, [0.0] * 2)
    for request in ([1, 2], [-1], [0]):
        with pytest.raises(PolicyError, match="request must"):
            select_by_category(request, it)
    with pytest.raises(PolicyError, match="have must be"):
        profiles([[5], [5]], [1.0], [0.0] * 2)
    with pytest.raises(PolicyError, match="have must be >= 0"):
        profiles([[-5]], [1.0], [0.0])


def test_the_solver_prints_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints some lines to the file descriptor whatever its options say, seldom in small cases: so this does."""

    def loud(*args: object, **kwargs: object) -> object:
        os.write(1, b"HighsMipSolverData\n")
        ctypes.CDLL(None).printf(b"tmpSolver.run();\n")
        return milp(*args, **kwargs)

    monkeypatch.setattr(oort_testing, "milp", loud)
    plan = select_by_category([5, 3], profiles([[5, 0], [5, 0], [0, 9]], [1.0, 100.0, 1.0], [0.0] * 3))
    ctypes.CDLL(None).fflush(None)
    assert plan.clients.tolist() == [0, 2]
    assert capfd.readouterr().out == ""
