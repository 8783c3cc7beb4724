"""Another class in the place of the client manager: the timeline asks of it what the port says, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import numpy as np
import pytest

from evsim.aggregation.base import Aggregator
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.selection.oort import Oort
from evsim.selection.power_of_choice import PowerOfChoice
from evsim.selection.uniform import Uniform
from evsim.testing.timeline import TinyWorld
from evsim.timeline.manager import ClientManager
from evsim.timeline.port import ManagerPort
from evsim.traces.availability import AvailabilityTrace

PORT = {name for cls in ManagerPort.__mro__ for name in vars(cls) if not name.startswith("_")}


@final
class OnlyThePort:
    """Passes on what the port has; anything else is an error."""

    def __init__(self, *given: Any) -> None:
        self._own = ClientManager(*given)

    def __getattr__(self, name: str) -> Any:
        assert name in PORT, f"{name} is not in the port"
        return getattr(self._own, name)


@pytest.mark.parametrize("by_events", [False, True])
@pytest.mark.parametrize("selector", [Uniform(), Oort(), PowerOfChoice(d=3)])
@pytest.mark.parametrize(
    "policy", [Synchronous(cohort_goal=2, reporting_deadline=60), Buffered(concurrency=3, buffer_size=2)]
)
def test_the_timeline_reaches_for_nothing_beyond_the_port(
    monkeypatch: pytest.MonkeyPatch, policy: Aggregator, selector: Any, by_events: bool
) -> None:
    trace = AvailabilityTrace.from_intervals(
        np.arange(5), np.arange(5) * 9, np.arange(5) * 9 + 60, n_devices=5, period=120
    )
    world = TinyWorld(trace=trace, selector=selector, by_events=by_events)
    plain = replace(world).run(policy, until=600)
    monkeypatch.setattr("evsim.testing.timeline.ClientManager", OnlyThePort)
    assert world.run(policy, until=600).timeline_hash == plain.timeline_hash
    assert len(plain.tasks)
