"""Forecasts: the oracle reads the trace, the constant nothing; the view hands over what it was given."""

from __future__ import annotations

import numpy as np

from evsim.selection.forecast import Constant, Oracle
from evsim.selection.uniform import Uniform
from evsim.timeline.manager import ClientManager
from evsim.traces.availability import AvailabilityTrace

TRACE = AvailabilityTrace.from_intervals([0, 1, 1], [0, 50, 70], [100, 60, 200], n_devices=3, period=1000)


def test_the_oracle_knows_who_stays() -> None:
    oracle = Oracle(TRACE)
    everyone = np.arange(3)
    assert oracle.stays_online(everyone, 0, 100).tolist() == [1.0, 0.0, 0.0]
    assert oracle.stays_online(everyone, 50, 61).tolist() == [1.0, 0.0, 0.0]
    assert oracle.stays_online(everyone, 70, 200).tolist() == [0.0, 1.0, 0.0]
    assert oracle.stays_online(everyone, 300, 301).tolist() == [0.0, 0.0, 0.0]


def test_the_null_forecast_tells_nobody_apart() -> None:
    assert Constant(0.3).stays_online(np.arange(2), 0, 9).tolist() == [0.3, 0.3]


def test_the_view_offers_the_predictor_it_was_given_or_none() -> None:
    oracle = Oracle(TRACE)
    assert ClientManager(Uniform(), 3, 0, predictor=oracle).predictor is oracle
    assert ClientManager(Uniform(), 3, 0).predictor is None
