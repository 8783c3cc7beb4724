"""The caveats of a scenario on stderr, once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evsim.cli.base import complain

if TYPE_CHECKING:
    from evsim.scenario import Scenario


def caution(scenario: Scenario) -> list[str]:
    """Say the caveats of a scenario, and return them."""
    from evsim.scenario.caveats import caveats

    found = caveats(scenario)
    for caveat in found:
        complain(f"caveat: {caveat}")
    return found


@contextmanager
def cautioned(scenario: Scenario) -> Iterator[None]:
    """Say the caveats of a scenario; what runs inside does not warn of them again, as it would from Python."""
    said = caution(scenario)
    with warnings.catch_warnings():
        for caveat in said:
            warnings.filterwarnings("ignore", message=re.escape(caveat), category=UserWarning)
        yield
