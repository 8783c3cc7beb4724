"""Intelligent participant selection: those first who are least likely to be there later.

Abdelmoniem, Sahu, Canini, Fahmy, REFL: Resource-Efficient Federated Learning, EuroSys 2023 (arXiv 2111.01108), section
4.1 and algorithm 1: for each candidate, the probability of being available in the slot between one and two round
lengths from now; the n lowest are taken, ties at random. Round lengths are a moving average,
mu <- (1 - alpha) D + alpha mu, alpha = 0.25. Clients that took part in the last 5 rounds rest, as in the authors' code.

The authors' code asks a trace whether a client is there in that slot, and keeps a random 90 % of the answers; here the
predictor of the scenario answers, and only one called oracle reads the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.units import MS_PER_MINUTE, Duration
from evsim.base.vocabulary import IntArray
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.bounds import forecasts_of, needs_forecasts
from evsim.selection.sampling import largest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.base.errors import Problem


@final
@dataclass(slots=True)
class Rounds:
    """What is remembered of the rounds so far.

    Attributes:
        length_ms: the moving average of round lengths.
        began_at: when the last round was selected for, ms; -1 before the first.
        number: of that round.
        last: the round in which each client was last selected; far in the past before that.
    """

    length_ms: float
    last: IntArray
    began_at: int = -1
    number: int = -1


@final
@dataclass(frozen=True, kw_only=True)
class ReflIps(Selector[Rounds]):
    """Takes the clients with the lowest probability of being available in one to two round lengths.

    A round's length is the time between its selection and the next round's. Resting clients are taken only if there are
    not enough others.

    Attributes:
        first_round: what the first round is expected to last, ms.
        smoothing: alpha, the weight of the past.
        rest: rounds for which a client that was selected rests.
    """

    forecasts: ClassVar[bool] = True

    first_round: Duration = 5 * MS_PER_MINUTE
    smoothing: float = 0.25
    rest: int = 5

    def __post_init__(self) -> None:
        require(self.first_round >= 1, "first_round must be >= 1", first_round=self.first_round)
        require(0 <= self.smoothing < 1, "0 <= smoothing < 1 must hold", smoothing=self.smoothing)
        require(self.rest >= 0, "rest must be >= 0", rest=self.rest)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        yield from needs_forecasts(self, "refl_ips")

    @override
    def init(self, n_clients: int) -> Rounds:
        return Rounds(float(self.first_round), np.full(n_clients, -(1 << 40), np.int64))

    @override
    def select(self, state: Rounds, view: ClientView, n: int, key: int) -> tuple[IntArray, Rounds]:
        idle, forecasts = view.idle, forecasts_of(view, "refl_ips")
        if view.round != state.number:
            if state.began_at >= 0:
                lasted = view.now - state.began_at
                state.length_ms = (1 - self.smoothing) * lasted + self.smoothing * state.length_ms
            state.began_at, state.number = view.now, view.round
        length = max(round(state.length_ms), 1)
        later = forecasts.stays_online(idle, view.now + length, view.now + 2 * length)
        resting = view.round - state.last[idle] <= self.rest
        chosen = largest(idle, -later - 2.0 * resting, n, key)
        state.last[chosen] = view.round
        return chosen, state

    @override
    def feedback(self, state: Rounds, reports: Outcomes) -> Rounds:
        return state
