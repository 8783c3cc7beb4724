"""Oort's training selector: clients whose data still teach and whose devices are fast enough (OSDI 2021).

Unlike the public code it always returns exactly min(n, idle) distinct idle clients, draws from a named stream, is told
of late and lost tasks as such, and takes a client's utility over all samples of its task.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import require, suggest
from evsim.base.units import Duration
from evsim.base.vocabulary import Outcome
from evsim.selection import oort_score as score
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.oort_draws import OortSelection
from evsim.selection.oort_rules import PRESETS, OortRules
from evsim.selection.oort_state import Achieved, OortState
from evsim.selection.sampling import smallest_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class Oort(Selector[OortState]):
    """Oort with one of two presets; any field of `OortRules` that is given replaces the preset's.

    >>> Oort(preset="fedscale", clip=0.95).rules.clip
    0.95

    Attributes:
        preset: "paper" follows the paper, "fedscale" the code that FedScale ships, without its crashes.
    """

    needs_utility: ClassVar[bool] = True

    preset: Literal["paper", "fedscale"] = "paper"
    random_first: bool | None = None
    exploration: float | None = None
    exploration_decay: float | None = None
    exploration_min: float | None = None
    decay_first: bool | None = None
    whole_explorers: bool | None = None
    explore_by: Literal["speed", "size"] | None = None
    exploration_window: float | None = None
    sample_cap: int | None = None
    utility_scale: Literal["raw", "range"] | None = None
    clip: float | None = None
    penalty: float | None = None
    uncertainty: float | None = None
    preferred_percentile: float | None = None
    pacer: Literal["fell", "flat"] | None = None
    pacer_window: int | None = None
    pacer_every: int | None = None
    pacer_percentile: float | None = None
    pacer_delta: Duration | None = None
    cut_off: float | None = None
    cut_off_keep: float | None = None
    participation_cap: int | None = None
    blacklist_share: float | None = None
    straggler: Literal["nothing", "mean"] | None = None
    fairness: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, f"unknown preset; {suggest(self.preset, PRESETS)}", preset=self.preset)
        self.rules  # noqa: B018  checks every value now, not in the middle of a run

    @cached_property
    def rules(self) -> OortRules:
        """The preset with the given fields put in."""
        given = {item.name: getattr(self, item.name) for item in fields(OortRules)}
        return replace(PRESETS[self.preset], **{name: value for name, value in given.items() if value is not None})

    @override
    def init(self, n_clients: int) -> OortState:
        percentile = self.rules.preferred_percentile
        return OortState(
            utility=np.full(n_clients, np.nan),
            duration_ms=np.full(n_clients, np.nan),
            last=np.zeros(n_clients, np.int32),
            exploited=np.zeros(n_clients, np.bool_),
            achieved=Achieved.empty(2 * self.rules.pacer_window + 1),
            pace=1.0 if percentile is None else percentile,
        )

    @override
    def select(self, state: OortState, view: ClientView, n: int, key: int) -> tuple[IntArray, OortState]:
        n = min(n, view.n_idle)
        state = self._next_selection(state, view.round + 1, key)
        if self.rules.counted(state.selection) == 0:
            picked = smallest_keys(view.idle, n, rng.mix(key ^ 3))
            state.exploited[picked], state.choice = False, None
            return picked, state
        draws = OortSelection(self.rules, state, view, n, key)
        exploited, explored = draws.pick()
        state.choice = draws
        state.exploited[exploited] = True
        state.exploited[explored] = False
        picked = np.concatenate([exploited, explored])
        if len(picked) < n:  # the rest is excluded by the participation cap, but a cohort is always full
            rest = view.idle[~np.isin(view.idle, picked)]
            extra = smallest_keys(rest, n - len(picked), rng.mix(key ^ 3))
            state.exploited[extra] = False
            picked = np.concatenate([picked, extra])
        return picked, state

    @override
    def feedback(self, state: OortState, reports: Outcomes) -> OortState:
        arrived, told = reports.arrived, reports.has_utility
        state.duration_ms[reports.clients[arrived]] = reports.duration_ms[arrived]
        stopped = reports.outcome == Outcome.ABORTED
        state.took_at_least(reports.clients[stopped], reports.duration_ms[stopped])
        clients, rounds = reports.clients[told], reports.round[told]
        utility = score.statistical_utility(reports.samples[told], reports.utility[told])
        state.learn(clients, rounds, self._noisy(state, clients, rounds, utility))
        if self.rules.straggler == "mean":
            unused = arrived & ~reports.succeeded & ~told & (reports.outcome != Outcome.INVALID)
            state.credit(reports.clients[unused], reports.round[unused])
        return state

    @override
    def told(self, state: OortState, view: ClientView, chosen: IntArray) -> Mapping[str, float | FloatArray]:
        explored = np.where(state.exploited[chosen], 0.0, 1.0)
        if state.choice is None:
            return {"exploration": 1.0, "score": np.full(len(chosen), np.nan), "explored": explored}
        numbers = {"exploration": state.choice.exploration, "preferred_ms": state.choice.preferred_ms}
        return {**numbers, "score": state.choice.scores_of(chosen), "explored": explored}

    # -- inside -----------------------------------------------------------------------------------------------------

    def _next_selection(self, state: OortState, selection: int, key: int) -> OortState:
        if state.selection == 0:
            state.noise_key = rng.mix(key ^ 4)
        if selection <= state.selection:  # one more for the same round, as when an asynchronous server refills a slot
            return state
        state.achieved.advance(state.selection, selection)
        state.selection = selection
        state.pace = self._pace(state)
        return state

    def _pace(self, state: OortState) -> float:
        """The pacer: compares the utility achieved in the last window with that of the window before."""
        rules, now, window = self.rules, state.selection, self.rules.pacer_window
        counted, first = rules.counted(now), 2 * window + (rules.pacer == "fell")
        if counted < first or counted % rules.pacer_every:
            return state.pace
        utility = state.achieved.total if rules.pacer == "fell" else state.achieved.exploited_means
        before, recent = utility(now - 2 * window, now - window), utility(now - window, now)
        step = score.pace_fell(before, recent) if rules.pacer == "fell" else score.pace_flat(before, recent)
        if rules.preferred_percentile is None:
            return max(state.pace + step, 1.0)
        return min(max(state.pace + step * rules.pacer_percentile, rules.pacer_percentile), 100.0)

    def _noisy(self, state: OortState, clients: IntArray, rounds: IntArray, utility: FloatArray) -> FloatArray:
        if self.rules.noise == 0.0:
            return utility
        draws = rng.normal(state.noise_key, clients, rounds)
        return np.asarray(utility * np.maximum(1 + self.rules.noise * draws, 0.0))
