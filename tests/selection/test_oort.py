"""Oort as a whole: who can be chosen, how probably, what feedback teaches, the corners of the public code."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from itertools import combinations
from math import log, sqrt
from typing import Any

import numpy as np
import pytest

from evsim.base import rng
from evsim.base.vocabulary import FloatArray, IntArray, Outcome
from evsim.selection.base import Outcomes
from evsim.selection.oort import Oort
from evsim.selection.oort_state import OortState
from evsim.timeline.manager import ClientManager
from tests.selection.laws_of_draws import assert_follows, successive

EXPLOIT_ONLY: dict[str, Any] = {"exploration": 0.0, "exploration_min": 0.0}
#: FedScale's rules from the very first selection on.
FEDSCALE: dict[str, Any] = {"preset": "fedscale", "random_first": False}


def reports(
    clients: list[int],
    utility: list[float] | float = 1.0,
    *,
    number: int = 0,
    outcome: Outcome = Outcome.AGGREGATED,
    duration: list[int] | int = 100,
    samples: int = 1,
) -> Outcomes:
    k = len(clients)
    return Outcomes(
        clients=np.array(clients, np.int64),
        at=np.zeros(k, np.int64),
        round=np.full(k, number, np.int64),
        outcome=np.full(k, outcome, np.int8),
        duration_ms=np.broadcast_to(np.asarray(duration, np.int64), (k,)).copy(),
        samples=np.full(k, samples, np.int64),
        utility=np.broadcast_to(np.asarray(utility, np.float64), (k,)).copy(),
    )


def manager_of(selector: Oort, n: int, seed: int = 0, declared: FloatArray | None = None) -> ClientManager:
    manager = ClientManager(selector, n, seed)
    manager.register_client(np.arange(n), 0, samples=np.full(n, 10), declared_ms=declared)
    return manager


def state_of(manager: ClientManager) -> OortState:
    state: OortState = manager._state
    return state


def frequencies(selector: Oort, told: list[Outcomes], n: int, size: int, **kwargs: Any) -> Counter[tuple[int, ...]]:
    """How often each set is chosen, over 3,000 seeds."""
    template = manager_of(selector, n, **kwargs)
    for report in told:
        template.register_feedback(report)
    seen: Counter[tuple[int, ...]] = Counter()
    state = template._state
    for seed in range(3000):
        template._state, template.round, template._seed = deepcopy(state), 0, seed
        seen[tuple(sorted(template.select_clients(size, 0).tolist()))] += 1
    return seen


def as_sets(law: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    sets: dict[tuple[int, ...], float] = {}
    for order, p in law.items():
        sets[tuple(sorted(order))] = sets.get(tuple(sorted(order)), 0.0) + p
    return sets


# -- exploitation ------------------------------------------------------------------------------------------------------


def test_exploitation_draws_among_the_admitted_in_proportion_to_their_scores() -> None:
    """First selection: ln 1 = 0, so a score is the clipped utility; 0.9 x the 2nd largest (6) admits 10, 6, 6, 5.5."""
    utility = [10.0, 6.0, 6.0, 5.5, 5.0, 1.0]
    seen = frequencies(Oort(cut_off=0.9, clip=1.0, **EXPLOIT_ONLY), [reports(list(range(6)), utility)], 6, 2)
    assert_follows(seen, as_sets(successive({0: 10.0, 1: 6.0, 2: 6.0, 3: 5.5}, 2)))


def test_utilities_are_clipped_before_the_draw() -> None:
    """Nearest rank of 60 % of five: the third smallest, 3; the two largest count as 3."""
    seen = frequencies(
        Oort(cut_off=0.0, clip=0.6, **EXPLOIT_ONLY), [reports(list(range(5)), [1.0, 2.0, 3.0, 50.0, 900.0])], 5, 1
    )
    assert_follows(seen, successive({0: 1.0, 1: 2.0, 2: 3.0, 3: 3.0, 4: 3.0}, 1))


def test_slow_clients_are_penalized_by_the_preferred_duration_over_theirs_squared() -> None:
    told = reports([0, 1, 2], [8.0, 8.0, 8.0], duration=[50, 100, 400])
    seen = frequencies(Oort(cut_off=0.0, pacer_delta=100, **EXPLOIT_ONLY), [told], 3, 1)
    assert_follows(seen, successive({0: 8.0, 1: 8.0, 2: 8.0 / 16}, 1))


def test_without_a_given_duration_t_covers_the_next_w_times_n_fastest_clients() -> None:
    told = reports([0, 1, 2, 3], 8.0, duration=[400, 100, 200, 800])
    seen = frequencies(Oort(cut_off=0.0, pacer_window=2, **EXPLOIT_ONLY), [told], 4, 1)  # W x n = 2: T = 200
    assert_follows(seen, successive({1: 1.0, 2: 1.0, 0: 1 / 4, 3: 1 / 16}, 1))


def test_fedscale_scores_are_scaled_by_the_range_of_idle_clients_unexplored_ones_included() -> None:
    """Client 3 is unexplored and credited with its size 10: with 2, 4, 8 the range is 0.999 x 2 to 10."""
    policy = Oort(clip=1.0, **FEDSCALE, **EXPLOIT_ONLY)
    seen = frequencies(policy, [reports([0, 1, 2], [2.0, 4.0, 8.0])], 4, 1)
    span = 10 - 1.998
    assert_follows(seen, successive({0: 0.002 / span, 1: 2.002 / span, 2: 6.002 / span}, 1))


def test_fedscale_prefers_a_percentile_of_all_known_durations_declared_ones_included() -> None:
    """Durations 100 (seen), 300 (seen), 200 and 400 (declared): index int(4 x 0.3) = 1 is T = 200."""
    policy = Oort(clip=1.0, **FEDSCALE, **EXPLOIT_ONLY)
    told = reports([0, 1], [4.0, 4.0], duration=[100, 300])
    declared = np.array([999.0, 999.0, 200.0, 400.0])
    seen = frequencies(policy, [told], 4, 1, declared=declared)
    assert_follows(seen, successive({0: 1.0, 1: (200 / 300) ** 2}, 1))


def test_uncertainty_lets_old_clients_back_in() -> None:
    """Third selection, utilities 0: scores are sqrt(0.1 ln 3 / L) with L = 1 and 2."""
    policy = Oort(cut_off=0.0, **EXPLOIT_ONLY)
    manager = manager_of(policy, 2)
    manager.register_feedback(reports([0], 0.0, number=0))
    manager.register_feedback(reports([1], 0.0, number=1))
    seen: Counter[tuple[int, ...]] = Counter()
    state = manager._state
    for seed in range(3000):
        manager._state, manager.round, manager._seed = deepcopy(state), 2, seed
        seen[tuple(manager.select_clients(1, 0).tolist())] += 1
    scores = {client: sqrt(0.1 * log(3) / last) for client, last in ((0, 1), (1, 2))}
    assert_follows(seen, successive(scores, 1))


# -- exploration -------------------------------------------------------------------------------------------------------


def test_the_paper_explores_in_proportion_to_declared_speed_and_unknown_speed_counts_as_average() -> None:
    declared = np.array([100.0, 200.0, 400.0, np.nan])
    seen = frequencies(Oort(exploration=1.0), [], 4, 1, declared=declared)
    speeds = [1 / 100, 1 / 200, 1 / 400]
    assert_follows(seen, successive({0: speeds[0], 1: speeds[1], 2: speeds[2], 3: sum(speeds) / 3}, 1))


def test_a_late_report_teaches_the_speed_of_a_client_that_stays_unexplored() -> None:
    late = reports([0], np.nan, outcome=Outcome.LATE, duration=800)
    seen = frequencies(Oort(exploration=1.0), [late], 2, 1, declared=np.array([100.0, 200.0]))
    assert_follows(seen, successive({0: 1 / 800, 1: 1 / 200}, 1))


def test_an_aborted_task_took_at_least_as_long_as_it_ran() -> None:
    policy = Oort()
    state = policy.feedback(policy.init(2), reports([0, 1], np.nan, outcome=Outcome.ABORTED, duration=500))
    state = policy.feedback(state, reports([0], np.nan, outcome=Outcome.ABORTED, duration=300))
    assert state.duration_ms.tolist() == [500.0, 500.0]


def test_fedscale_explores_among_the_largest_in_proportion_to_size_times_penalty() -> None:
    """Window 1 x 2: only the two best of four; T is index int(4 x 0.3) = 1 of the durations: 200."""
    policy = Oort(exploration=1.0, exploration_decay=1.0, exploration_window=2.0, **FEDSCALE)
    manager = ClientManager(policy, 4, 0)
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        manager = ClientManager(policy, 4, seed)
        declared = np.array([100.0, 200.0, 400.0, 400.0])
        manager.register_client(np.arange(4), 0, samples=np.array([10, 3, 20, 8]), declared_ms=declared)
        seen[tuple(manager.select_clients(1, 0).tolist())] += 1
    assert_follows(seen, successive({0: 10.0, 2: 20.0 / 4}, 1))


def test_the_number_of_explorers_is_right_on_average_and_fedscale_truncates_it() -> None:
    told = reports(list(range(50)))
    explored: dict[str, list[int]] = {"paper": [], "fedscale": []}
    for preset, counts in explored.items():
        for seed in range(400):
            policy = Oort(preset=preset, random_first=False, exploration=0.55, exploration_decay=1.0)
            manager = manager_of(policy, 100, seed)
            manager.register_feedback(told)
            counts.append(int((manager.select_clients(7, 0) >= 50).sum()))
    assert set(explored["fedscale"]) == {3}  # int(7 x 0.55)
    assert set(explored["paper"]) == {3, 4}
    assert abs(np.mean(explored["paper"]) - 3.85) < 5 * sqrt(0.85 * 0.15 / 400)  # five standard errors: 6e-7


# -- feedback ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.DROPPED, Outcome.ABORTED, Outcome.LATE, Outcome.SURPLUS, Outcome.INVALID])
@pytest.mark.parametrize("preset", ["paper", "fedscale"])
def test_what_was_not_used_is_no_success(outcome: Outcome, preset: str) -> None:
    policy = Oort(preset=preset)
    state = policy.feedback(policy.init(3), reports([0], 7.0))
    state = policy.feedback(state, reports([0, 1], np.nan, number=0, outcome=outcome))
    credited = preset == "fedscale" and outcome in (Outcome.LATE, Outcome.SURPLUS)
    assert np.isfinite(state.utility[1]) == credited
    assert state.utility[0] == 7.0


def test_fedscale_credits_stragglers_with_the_mean_utility_of_their_round() -> None:
    policy = Oort(preset="fedscale")
    state = policy.feedback(policy.init(4), reports([0, 1], [2.0, 6.0], samples=10))
    state = policy.feedback(state, reports([2], np.nan, outcome=Outcome.SURPLUS, duration=900))
    assert (state.utility[2], state.duration_ms[2]) == (40.0, 900.0)
    state = policy.feedback(state, reports([3], np.nan, number=1, outcome=Outcome.SURPLUS))
    assert np.isnan(state.utility[3])  # nobody of its round was heard: nothing to credit


def test_a_kept_late_report_with_a_utility_teaches_it() -> None:
    policy = Oort()
    state = policy.feedback(policy.init(1), reports([0], 3.0, outcome=Outcome.LATE, samples=2))
    assert state.utility[0] == 6.0


def test_a_utility_that_is_not_finite_is_no_utility() -> None:
    policy = Oort()
    state = policy.feedback(policy.init(2), reports([0, 1], [np.inf, np.nan]))
    assert np.isnan(state.utility).all()


def test_noise_is_relative_never_negative_and_named_by_client_and_round() -> None:
    policy = Oort(noise=2.0)
    clients = list(range(4000))
    one = policy.feedback(policy.init(4000), reports(clients, 3.0)).utility
    again = policy.feedback(policy.init(4000), reports(clients[::-1], 3.0)).utility
    assert np.array_equal(one, again)
    z = rng.normal(0, np.arange(4000), np.zeros(4000, np.int64))
    assert np.allclose(one, 3.0 * np.maximum(1 + 2 * z, 0), rtol=1e-12)
    assert 0.25 < np.mean(one == 0) < 0.37  # P(z < -1/2) = 0.309


def test_the_policy_is_a_value_and_its_state_belongs_to_the_run() -> None:
    policy = Oort(clip=0.9)
    assert policy == Oort(clip=0.9)
    assert hash(policy) == hash(Oort(clip=0.9))
    policy.feedback(policy.init(2), reports([0]))
    assert np.isnan(policy.init(2).utility).all()


# -- pacer -------------------------------------------------------------------------------------------------------------


def paced(policy: Oort, utilities: list[float]) -> list[float]:
    """The pace after each selection, when every round's only report brings the next utility."""
    manager = manager_of(policy, 4)
    path = []
    for number, utility in enumerate(utilities):
        manager.select_clients(1, 0)
        path.append(state_of(manager).pace)
        state_of(manager).exploited[0] = True
        manager.register_feedback(reports([0], utility, number=number))
    return path


def test_the_papers_pacer_relaxes_t_whenever_the_last_window_achieved_less() -> None:
    """W = 2: looks first at selection 5, at rounds 3 + 4 against 1 + 2; then 4 + 5 against 2 + 3, ..."""
    utilities = [5.0, 5.0, 4.0, 5.0, 6.0, 6.0, 1.0, 0.0]
    assert paced(Oort(pacer_window=2, pacer_delta=10), utilities) == [1, 1, 1, 1, 2, 2, 2, 3]


def test_fedscales_pacer_moves_the_percentile_once_a_window() -> None:
    """W = 2: at selections 4, 6, 8 with means of rounds (2, 3) against (0, 1), and so on."""
    flat = paced(Oort(pacer_window=2, pacer_every=2, **FEDSCALE), [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    assert flat == [30, 30, 30, 30, 30, 35, 35]  # at 4 the change from 0 + 5 to 5 + 5 is neither flat nor sharp
    sharp = paced(Oort(pacer_window=2, pacer_every=2, **FEDSCALE), [1.0, 1.0, 1.0, 60.0, 60.0, 60.0, 60.0])
    assert sharp == [30, 30, 30, 30, 30, 25, 25]


def test_a_first_round_that_is_not_counted_shifts_the_pacer_by_one_round() -> None:
    """The second time it looks is the seventh round: at its rounds (5, 6) against (3, 4)."""
    flat = paced(Oort(preset="fedscale", pacer_window=2, pacer_every=2), [5.0] * 8)
    assert flat == [30, 30, 30, 30, 35, 35, 40, 40]  # at 5: rounds 3 + 4 against 1 + 2, all exploited in this test


def test_the_percentile_stays_between_one_step_and_all() -> None:
    high = paced(Oort(preset="fedscale", preferred_percentile=97.0, pacer_window=1, pacer_every=1), [5.0] * 5)
    assert high[-1] == 100.0
    low = paced(
        Oort(preset="fedscale", preferred_percentile=7.0, pacer_window=1, pacer_every=1), [10.0**k for k in range(6)]
    )
    assert low[-1] == 5.0


# -- the corners of the public code ------------------------------------------------------------------------------------


def everyone(n: int) -> list[int]:
    return list(range(n))


CORNERS: dict[str, tuple[dict[str, Any], list[Outcomes], int]] = {
    "all explored": ({}, [reports(everyone(20), np.arange(20.0).tolist())], 8),
    "none explored": ({}, [], 8),
    "exactly as many explored as exploited": (EXPLOIT_ONLY, [reports(everyone(8))], 8),
    "fewer explored than exploited": (EXPLOIT_ONLY, [reports(everyone(3))], 8),
    "all clipped": ({"clip": 0.0}, [reports(everyone(20), np.arange(20.0).tolist())], 8),
    "zero rewards": ({}, [reports(everyone(20), 0.0)], 8),
    "tiny rewards": ({}, [reports(everyone(20), 1e-300)], 8),
    "huge rewards": ({}, [reports(everyone(20), 1e300)], 8),
    "one reward among zeros": ({}, [reports(everyone(20), [5.0] + [0.0] * 19)], 8),
    "fewer idle than wanted": ({}, [reports(everyone(10))], 500),
    "everyone blacklisted": ({"participation_cap": 1, "blacklist_share": 1.0}, [reports(everyone(20))], 8),
    "half blacklisted": ({"participation_cap": 1, "blacklist_share": 0.5}, [reports(everyone(20))], 8),
    "feedback for a stranger": ({}, [reports([25, 26])], 8),
    "duplicates": ({}, [reports([3, 3, 3], [1.0, 2.0, 3.0])], 8),
    "feedback from the future": ({}, [reports(everyone(20), number=99)], 8),
    "all lost": ({}, [reports(everyone(20), np.nan, outcome=Outcome.DROPPED)], 8),
    "all late": ({}, [reports(everyone(20), np.nan, outcome=Outcome.LATE)], 8),
    "nobody wanted": ({}, [reports(everyone(20))], 0),
}


@pytest.mark.parametrize("preset", ["paper", "fedscale"])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners_of_the_public_code_give_a_full_cohort_of_idle_clients(corner: str, preset: str) -> None:
    fields, told, n = CORNERS[corner]
    manager = ClientManager(Oort(**{"preset": preset, **fields}), 30, 0)
    manager.register_client(np.arange(20), 0, samples=np.full(20, 10))
    if "blacklisted" in corner:
        for _ in range(3):
            manager.assign(manager.idle)
            manager.release(np.arange(20))
    for report in told:
        manager.register_feedback(report)
    for _ in range(50):  # past two windows of the pacer
        clients = manager.select_clients(n, 0)
        assert len(set(clients.tolist())) == min(n, 20)
        assert (clients < 20).all()


def test_duplicates_in_one_batch_count_the_last_and_all_of_them_for_the_pacer() -> None:
    policy = Oort()
    state = policy.feedback(policy.init(5), reports([3, 3, 3], [1.0, 2.0, 3.0]))
    assert state.utility[3] == 3.0
    assert state.achieved.total(1, 2) == 6.0


def test_offline_clients_are_not_picked_again_once_nothing_is_left_to_explore() -> None:
    manager = manager_of(Oort(preset="fedscale"), 10)
    chosen = manager.select_clients(5, 0)
    manager.register_feedback(reports(everyone(10)))
    manager.deregister_client(chosen, 0)
    assert not set(manager.select_clients(5, 0).tolist()) & set(chosen.tolist())


def test_a_capped_client_is_not_exploited_while_others_are_left() -> None:
    manager = manager_of(Oort(participation_cap=2, **EXPLOIT_ONLY), 10)
    manager.register_feedback(reports(everyone(10), [9.0] * 3 + [1.0] * 7))
    for _ in range(3):
        manager.assign(np.arange(3))
        manager.release(np.arange(3))
    assert sorted(manager.select_clients(7, 0).tolist()) == [3, 4, 5, 6, 7, 8, 9]
    assert {0, 1, 2} & set(manager.select_clients(8, 0).tolist())


def test_the_blacklist_takes_the_most_selected_first_and_no_more_than_its_share() -> None:
    manager = manager_of(Oort(participation_cap=1, blacklist_share=0.2, **EXPLOIT_ONLY), 10)
    manager.register_feedback(reports(everyone(10)))
    for times in (np.arange(10), np.arange(10), np.array([4, 7])):
        manager.assign(times)
        manager.release(times)
    assert sorted(manager.select_clients(8, 0).tolist()) == [0, 1, 2, 3, 5, 6, 8, 9]


def test_all_pairs_are_possible_when_everything_is_equal() -> None:
    seen = frequencies(Oort(**EXPLOIT_ONLY), [reports(everyone(5))], 5, 2)
    assert_follows(seen, dict.fromkeys(combinations(range(5), 2), 0.1))


def test_a_selector_never_sees_more_than_the_view() -> None:
    """Oort with a view that has nothing but the protocol."""

    class View:
        now, round, n_clients, n_idle = 0, 0, 4, 3
        idle = np.array([0, 2, 3])
        samples = np.array([4, 4, 4, 4])
        declared_ms = np.full(4, np.nan)
        selected = np.zeros(4, np.int64)

        def is_idle(self, clients: IntArray) -> Any:
            return np.isin(clients, self.idle)

    for preset in ("paper", "fedscale"):
        policy = Oort(preset=preset)
        clients, _ = policy.select(policy.init(4), View(), 2, key=5)  # type: ignore[arg-type]
        assert set(clients.tolist()) <= {0, 2, 3}


def test_selections_for_one_round_count_as_one() -> None:
    """An asynchronous server refills slot by slot: neither exploration nor the pacer may run ahead of its rounds."""
    manager = manager_of(Oort(pacer_window=1, pacer_delta=10), 10)
    for number, utility in enumerate([5.0, 4.0, 3.0, 2.0]):
        for _ in range(7):
            manager.select_clients(1, 0, number)
        assert (manager.round, state_of(manager).selection) == (number, number + 1)
        manager.register_feedback(reports([0], utility, number=number))
    assert state_of(manager).pace == 3.0  # relaxed once in each of the selections of rounds 2 and 3
