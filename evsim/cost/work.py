"""What a task asks of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from evsim.base.vocabulary import IntArray


@final
@dataclass(frozen=True)
class Work:
    """What a client rule asks of each client of a cohort: one entry per client.

    Attributes:
        samples: samples that go through forward and backward pass.
        forward_samples: samples that go through a forward pass only (a loss query, an extra evaluation).
    """

    samples: IntArray
    forward_samples: IntArray
