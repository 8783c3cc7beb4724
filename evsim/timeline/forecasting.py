"""A predictor at work: its state, what it hears, and the check of what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.errors import PolicyError, Problem, report
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.base.user_code import user_code
from evsim.selection.forecast import NoForecast
from evsim.timeline.visits import VisitLog

_LOOKED_AT = 256  # clients

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
    from evsim.selection.base import ClientView
    from evsim.selection.forecast import Predictor, Trace


def forecasting(
    predictor: Predictor[Any] | None, view: ClientView, n_clients: int, trace: Trace | None
) -> Forecasting | None:
    """A run's forecasts, or None if the scenario has none."""
    if predictor is None or isinstance(predictor, NoForecast):
        return None
    return Forecasting(predictor, view, n_clients, trace if predictor.reads_trace else None)


@final
class Forecasting:
    """What selectors see of a predictor: `selection.forecast.Forecasts`."""

    def __init__(self, predictor: Predictor[Any], view: ClientView, n_clients: int, trace: Trace | None) -> None:
        self._predictor, self._view, self._visits = predictor, view, VisitLog(n_clients)
        self.hears = predictor.hears
        with user_code(PolicyError, slot="predictor", cls=predictor, step="init"):
            self._state = predictor.init(n_clients, trace)

    def look_at_nothing(self, n_clients: int) -> None:
        """Before anybody checked in nothing tells clients apart, and a predictor that does has other sources.

        Raises:
            PolicyError: then, unless it is an oracle.
        """
        clients = np.linspace(0, n_clients - 1, min(n_clients, _LOOKED_AT)).astype(np.int64)
        if self._predictor.reads_trace or len(clients) == 0:
            return
        for start in (0, MS_PER_HOUR, 7 * MS_PER_HOUR, 3 * MS_PER_DAY):
            found = self.stays_online(clients, start, start + MS_PER_HOUR)
            if (found != found[0]).any():
                given = "tells clients apart of which it was told nothing yet"
                expected = "forecasts from check-ins alone, or a predictor that is called an oracle"
                hint = "if it reads a trace, set reads_trace = True and put Oracle into its name"
                raise PolicyError(
                    report([Problem(f"predictor {type(self._predictor).__name__}", given, expected, hint)])
                )

    def hear(self, clients: IntArray, check_in: BoolArray, at: IntArray) -> None:
        """Check-ins and check-outs in order; the predictor is told of visits when the device is back."""
        visits = self._visits.hear(clients, check_in, at)
        if len(visits.clients):
            with user_code(PolicyError, slot="predictor", cls=self._predictor, step="checked_in"):
                self._state = self._predictor.checked_in(self._state, visits)

    def stays_online(self, clients: IntArray, start: int, stop: int) -> FloatArray:
        """Estimated probability that each client is online throughout [start, stop).

        Raises:
            PolicyError: if the predictor raises, or answers something else than a probability for each client.
        """
        if stop <= start:
            given = f"[{start}, {stop})"
            raise PolicyError(report([Problem("view.predictor.stays_online", given, "an interval: start < stop, ms")]))
        clients = np.asarray(clients, np.int64)
        with user_code(PolicyError, slot="predictor", cls=self._predictor, step="stays_online"):
            found = self._predictor.stays_online(self._state, self._view, clients, int(start), int(stop))
        fault = _fault(found, len(clients))
        if fault:
            where = f"{type(self._predictor).__name__}.stays_online"
            expected = f"an array of {len(clients)} numbers in [0, 1]"
            hint = "evsim.testing.predictors.PredictorContract tests a predictor for this"
            raise PolicyError(report([Problem(where, fault, expected, hint)]))
        return found


def _fault(found: Any, wanted: int) -> str:
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        return f"returned {type(found).__name__} {getattr(found, 'dtype', '')}".rstrip()
    if found.shape != (wanted,):
        return f"returned an array of shape {found.shape}"
    outside = ~((found >= 0) & (found <= 1))
    return f"returned {found[outside][0]}" if outside.any() else ""
