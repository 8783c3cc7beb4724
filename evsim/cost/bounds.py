"""What a phase of a task may last, and the words for one that lasts longer.

A price beyond `units.LONGEST_PHASE` is a slip of the keyboard (a rate in the wrong unit, an exponent too many). The
error names client and phase, every factor of the product, and the key that is farthest from what people write there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evsim.base.errors import TraceError

if TYPE_CHECKING:
    from evsim.cost.model import CostModel
    from evsim.traces.speed import DeviceSpeed


@final
@dataclass(frozen=True)
class Factor:
    """One factor of a phase: the key that sets it, its value, and how many times too long it makes the phase."""

    key: str
    value: float
    excess: float


def too_long(phase: str, client: int, factors: list[Factor]) -> TraceError:
    """The error for a phase outside of [0, LONGEST_PHASE]."""
    worst = max(factors, key=lambda factor: factor.excess)
    listed = ", ".join(f"{factor.key} = {factor.value:g}" for factor in factors)
    return TraceError(f"the {phase} of client {client} would last longer than ten years ({listed}); change {worst.key}")


def of_computing(cost: CostModel, speed: DeviceSpeed, client: int, passes: float, jitter: float) -> list[Factor]:
    """What a computation is made of; `passes` are samples before they are scaled."""
    rate = float(speed.compute_ms_per_sample[client])
    return [
        Factor("population.speed.compute_ms_per_sample", rate, rate / 20),
        Factor("cost.training_factor", cost.training_factor, cost.training_factor / 3),
        Factor("cost.sample_scale", cost.sample_scale, cost.sample_scale),
        Factor("population.speed.compute_jitter", speed.compute_jitter, jitter),
        Factor("samples (of the data or cost.samples_per_client, times client_rule.epochs)", passes, passes / 1e6),
    ]


def of_transfer(key: str, speed: DeviceSpeed, client: int, size: float, jitter: float) -> list[Factor]:
    """What a transfer is made of; `key` is the rate's."""
    rate = float(getattr(speed, key)[client])
    latency = float(speed.latency_ms[client])
    return [
        Factor(f"population.speed.{key}", rate, 5_000 / rate),
        Factor("cost.model_bytes", size, size / 1e7),
        Factor("population.speed.network_jitter", speed.network_jitter, jitter),
        Factor("population.speed.latency_ms", latency, latency / 100),
    ]
