"""What a round wants that finds few clients."""

from __future__ import annotations

import numpy as np
import pytest

from evsim.aggregation.pacing import QuantileDeadline
from evsim.aggregation.synchronous import Synchronous


@pytest.mark.parametrize(
    ("invited", "whole", "share"), [(26, 20, 20), (25, 20, 20), (13, 13, 10), (12, 12, 10), (3, 3, 3), (2, 2, 2)]
)
def test_a_share_of_few_clients_leaves_some_to_spare(invited: int, whole: int, share: int) -> None:
    options = {"cohort_goal": 20, "over_commitment": 1.3, "minimum_cohort": 3, "minimum_reports": 3}
    assert Synchronous(**options).goal(invited) == whole
    assert Synchronous(**options, short_cohort="share").goal(invited) == share


def test_shares_in_decimals_are_counted_in_decimals() -> None:
    assert Synchronous(cohort_goal=100, over_commitment=1.1).invited == 110
    pacing = QuantileDeadline(share=0.07, slack=1.0, memory=0.0, start=1_000, shortest=1)
    assert pacing.next(1_000, np.arange(1, 101) * 10, invited=100) == 70  # the seventh of 100, not the eighth
