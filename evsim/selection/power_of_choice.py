"""Power-of-choice: ask a few candidates for their loss, take those with the largest.

Cho, Wang, Joshi: Client Selection in Federated Learning (arXiv 2010.01243), section 3: d candidates are drawn with
probabilities proportional to their data size; of these the m with the largest loss F_k(w) train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import PolicyError, Problem, report, require
from evsim.base.units import MS_PER_MINUTE, Duration
from evsim.selection.base import NO_ANSWERS, ClientView, Outcomes, Query, Selector
from evsim.selection.sampling import largest, weighted_draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evsim.base.vocabulary import FloatArray, IntArray


_NOT_ASKED = Problem(
    "power_of_choice",
    "selection without its query",
    "the losses of the candidates",
    "call ClientManager.candidates and register_answers first, or use power_of_choice_stale, which needs no query",
)


@final
@dataclass(frozen=True, kw_only=True)
class PowerOfChoice(Selector[None]):
    """pow-d, and cpow-d with `max_samples`. The query costs a download, a forward pass and one number, on the clock.

    Candidates that left or did not answer in time are not taken; when fewer than n answered, the cohort is filled up
    with a draw among the other idle clients by data size.

    Attributes:
        d: candidates; at least as many as are wanted (d = m is a draw by data size).
        max_samples: each candidate evaluates at most so many of its samples (cpow-d: one mini-batch).
        query_timeout: the selection waits no longer for answers, ms; None: until every candidate's end is known, which
            for one that left is its next check-in.
    """

    memoryless: ClassVar[bool] = True

    d: int
    max_samples: int | None = None
    query_timeout: Duration | None = 5 * MS_PER_MINUTE

    def __post_init__(self) -> None:
        require(self.d >= 1, "d must be >= 1", d=self.d)
        for name in ("max_samples", "query_timeout"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be >= 1 or left out", **{name: value})

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def candidates(self, state: None, view: ClientView, n: int, key: int) -> Query | None:
        clients = _by_size(view, view.idle, max(self.d, n), key)
        return Query(clients, self.max_samples, self.query_timeout) if len(clients) else None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        answers = view.answers
        if answers is None:
            if view.n_idle == 0:
                return np.empty(0, np.int64), None
            raise PolicyError(report([_NOT_ASKED]))
        sound = view.is_idle(answers.clients) & np.isfinite(answers.loss)
        best = largest(answers.clients[sound], answers.loss[sound], n, rng.mix(key))
        return _filled(view, best, n, key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None

    @override
    def told(self, state: None, view: ClientView, chosen: IntArray) -> Mapping[str, float | FloatArray]:
        """The loss that each chosen client answered; NaN of those that fill the cohort up."""
        answers = view.answers or NO_ANSWERS
        known = dict(zip(answers.clients.tolist(), answers.loss.tolist(), strict=True))
        return {"score": np.array([known.get(client, np.nan) for client in chosen.tolist()])}


@final
@dataclass(frozen=True, kw_only=True)
class PowerOfChoiceStale(Selector["FloatArray"]):
    """rpow-d: candidates are ranked by the loss of their last report, those never heard first; nothing is queried.

    The server knows the root of the mean squared loss of a report, the paper takes the mean loss; the ranks differ
    little.

    Attributes:
        d: candidates; at least as many as are wanted.
    """

    needs_utility: ClassVar[bool] = True

    d: int

    def __post_init__(self) -> None:
        require(self.d >= 1, "d must be >= 1", d=self.d)

    @override
    def init(self, n_clients: int) -> FloatArray:
        return np.full(n_clients, np.inf)

    @override
    def select(self, state: FloatArray, view: ClientView, n: int, key: int) -> tuple[IntArray, FloatArray]:
        clients = _by_size(view, view.idle, max(self.d, n), key)
        return largest(clients, state[clients], n, rng.mix(key)), state

    @override
    def feedback(self, state: FloatArray, reports: Outcomes) -> FloatArray:
        told = reports.has_utility
        state[reports.clients[told]] = reports.utility[told]
        return state

    @override
    def told(self, state: FloatArray, view: ClientView, chosen: IntArray) -> Mapping[str, float | FloatArray]:
        return {"score": state[chosen]}


def _by_size(view: ClientView, clients: IntArray, n: int, key: int) -> IntArray:
    sizes = np.maximum(view.samples[clients], 0).astype(np.float64)
    return weighted_draw(clients, sizes, min(n, len(clients)), key)


def _filled(view: ClientView, chosen: IntArray, n: int, key: int) -> IntArray:
    missing = min(n, view.n_idle) - len(chosen)
    if missing == 0:
        return chosen
    idle = view.idle
    return np.concatenate([chosen, _by_size(view, idle[~np.isin(idle, chosen)], missing, key)])
