"""What every predictor must do, as tests to inherit: give `make`, get the rest.

class TestMine(PredictorContract):
    def make(self):
        return Mine()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest

from evsim.base.rng import stream
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.selection.forecast import Predictor
from evsim.selection.uniform import Uniform
from evsim.timeline.manager import ClientManager
from evsim.traces.availability import AvailabilityTrace

N_CLIENTS = 24
DAYS = 4
_NOW = DAYS * MS_PER_DAY
_HORIZON = 2 * _NOW
_EVERYBODY = np.arange(N_CLIENTS)
#: Intervals that are asked for: now, later, over midnight, for days, and long ago.
ASKED = tuple(
    (int(start), int(start + length))
    for start, length in (
        (_NOW, 1),
        (_NOW, MS_PER_HOUR),
        *((_NOW + hour * MS_PER_HOUR + 1_800_000, 60_000) for hour in range(1, 9)),
        (_NOW + 5 * MS_PER_HOUR, 90 * 60_000),
        (_NOW + 23 * MS_PER_HOUR, 3 * MS_PER_HOUR),
        (_NOW, 2 * MS_PER_DAY),
        (MS_PER_HOUR, MS_PER_HOUR),
    )
)


def history(seed: int, future: int) -> AvailabilityTrace:
    """Habits of a few days up to `_NOW`, the same for one seed; what comes then depends on `future`."""
    past, later = stream(seed, "past"), stream(seed, "future", future)
    parts = [_sessions(past, 0, _NOW), _sessions(later, _NOW, _HORIZON)]
    clients, begin, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return AvailabilityTrace.from_intervals(clients, begin, end, n_devices=N_CLIENTS, period=_HORIZON)


def _sessions(draw: np.random.Generator, start: int, stop: int) -> tuple[IntArray, IntArray, IntArray]:
    """About two visits a day of each client, at hours of its own; none touches the bounds."""
    days = (stop - start) // MS_PER_DAY
    clients = np.repeat(_EVERYBODY, 2 * days)
    day = np.tile(np.repeat(np.arange(days), 2), N_CLIENTS) * MS_PER_DAY
    habit = draw.integers(1, 10, N_CLIENTS)[clients] * MS_PER_HOUR + np.tile([0, 11 * MS_PER_HOUR], N_CLIENTS * days)
    begin = start + day + habit + draw.integers(0, MS_PER_HOUR, len(clients))
    return clients, begin, begin + draw.integers(60_000, MS_PER_HOUR, len(clients))


class PredictorContract(ABC):
    """Probabilities, from the past alone, the same however the past was told; and no client is known by its id."""

    @abstractmethod
    def make(self) -> Predictor[Any]:
        """A predictor to test."""

    @pytest.mark.parametrize("seed", range(3))
    def test_forecasts_are_probabilities_for_any_interval(self, seed: int) -> None:
        for found in self._answers(history(seed, 0)):
            assert found.shape == (N_CLIENTS,)
            assert ((found >= 0) & (found <= 1)).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_worlds_that_differ_in_the_future_alone_are_the_same_to_it(self, seed: int) -> None:
        """Unless it is called an oracle: then it sees that they are not."""
        one, other = (self._answers(history(seed, future)) for future in (0, 1))
        assert np.array_equal(one, other) != self.make().reads_trace

    def test_a_client_is_known_by_what_it_did_and_not_by_its_id(self) -> None:
        turned = np.roll(_EVERYBODY, 5)
        one, other = self._answers(history(0, 0)), self._answers(history(0, 0).take(turned))
        np.testing.assert_allclose(other, one[:, turned], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("windows", [1, 7, 400])
    def test_the_past_may_be_told_in_any_windows(self, windows: int) -> None:
        trace = history(1, 0)
        np.testing.assert_allclose(self._answers(trace, windows), self._answers(trace, 50), rtol=0, atol=1e-6)

    def test_before_anything_is_seen_every_client_has_the_same_chance(self) -> None:
        if not self.make().reads_trace:
            manager = ClientManager(Uniform(predictor=self.make()), N_CLIENTS, 0)
            for start, stop in ASKED:
                assert len(set(_asked(manager, start, stop).tolist())) <= 1

    def test_a_policy_keeps_nothing_between_two_runs(self) -> None:
        predictor = self.make()
        first = _told(predictor, history(0, 0), 20)
        assert np.array_equal(first, _told(predictor, history(0, 0), 20))

    def _answers(self, trace: AvailabilityTrace, windows: int = 20) -> FloatArray:
        return _told(self.make(), trace, windows)


def _told(predictor: Predictor[Any], trace: AvailabilityTrace, windows: int) -> FloatArray:
    """What a predictor answers that was told of a trace up to now, in so many parts."""
    manager = ClientManager(Uniform(predictor=predictor), N_CLIENTS, 0, trace)
    manager.register_client(_EVERYBODY[trace.is_online(_EVERYBODY, 0)], 0)
    bounds = np.linspace(1, _NOW, windows + 1).astype(np.int64)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        edges = trace.edges(start, stop)
        manager.observe(edges.device, edges.check_in, edges.at)
    manager.select_clients(0, _NOW)
    return np.stack([_asked(manager, start, stop) for start, stop in ASKED])


def _asked(manager: ClientManager, start: int, stop: int) -> FloatArray:
    view = manager.predictor
    return np.full(N_CLIENTS, 0.5) if view is None else view.stays_online(_EVERYBODY, start, stop)
