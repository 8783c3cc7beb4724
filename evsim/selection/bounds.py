"""Bounds to hold other selectors against: the fastest devices, and those that will be there longest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import PolicyError, Problem, require
from evsim.base.units import MS_PER_MINUTE, Duration
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import largest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.base.vocabulary import IntArray

_MOST = 30  # doublings of a minute are two thousand years


@final
@dataclass(frozen=True, kw_only=True)
class Fastest(Selector[None]):
    """The idle clients whose device class promises the shortest task; unknown ones last, ties at random.

    No real server should: slow devices never take part, and their data are never learnt. It bounds how short rounds
    can be.
    """

    memoryless: ClassVar[bool] = True

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        idle = view.idle
        return largest(idle, -np.nan_to_num(view.declared_ms[idle], nan=np.inf), n, key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None


@final
@dataclass(frozen=True, kw_only=True)
class LongestStay(Selector[None]):
    """The idle clients that are forecast to stay longest; with `predictor = "oracle"`, a bound on drop-outs.

    A stay is measured in doubling steps: the score is the sum over j of P(online throughout now + step 2^j).

    Attributes:
        step: the shortest stay that is told apart, ms.
        doublings: how many steps; eleven from a minute reach 17 hours.
    """

    forecasts: ClassVar[bool] = True

    memoryless: ClassVar[bool] = True

    step: Duration = MS_PER_MINUTE
    doublings: int = 11

    def __post_init__(self) -> None:
        require(self.step >= 1, "step must be >= 1", step=self.step)
        require(1 <= self.doublings <= _MOST, f"1 <= doublings <= {_MOST} must hold", doublings=self.doublings)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        yield from needs_forecasts(self, "longest_stay")

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        idle, forecasts = view.idle, forecasts_of(view, "longest_stay")
        scores = np.zeros(len(idle))
        for j in range(self.doublings):
            scores += forecasts.stays_online(idle, view.now, view.now + (self.step << j))
        return largest(idle, scores, n, key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None


def needs_forecasts(selector: Selector[Any], kind: str) -> Iterator[Problem]:
    """A problem for a selector that asks for forecasts and has no predictor."""
    from evsim.selection.forecast import NoForecast

    if selector.predictor is None or isinstance(selector.predictor, NoForecast):
        yield Problem(
            "selection.predictor",
            f"selection {kind} without a predictor",
            "one that forecasts who stays",
            'set selection.predictor = "daily", or "oracle" for a bound',
        )


def forecasts_of(view: ClientView, kind: str) -> Any:
    """The view's forecasts.

    Raises:
        PolicyError: if it has none.
    """
    if view.predictor is None:
        raise PolicyError(f'selection {kind}: there is no predictor; give it one, such as predictor = "daily"')
    return view.predictor
