"""A path that no disk can have is refused in words by whoever opens it, and stops nobody before."""

from __future__ import annotations

import pytest

from evsim import Scenario, Simulation
from evsim.base.errors import EvsimError


@pytest.mark.parametrize("path", ["x" * 10_000, "a/" * 5_000, "a\\u0000b"])
def test_a_path_that_cannot_be(tmp_path, path):
    with pytest.raises(EvsimError, match=r"is neither a path below|it can be no path"):
        Simulation(Scenario.load("replay", [f'population.availability="{path}"'])).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
