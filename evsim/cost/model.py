"""What a scenario says of costs: the `[cost]` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from evsim.base.errors import require

_MOST_SAMPLES = 10**12
_MOST_BYTES = 10**15  # a petabyte; sums over a million tasks still fit into 64 bits


@final
@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The `[cost]` table of a scenario.

    transfer = bytes / rate x jitter + latency; compute = ms per sample x samples x `training_factor` (3: a backward
    pass costs two forward passes, FedScale's convention; phones measured 3 to 17) x jitter. Jitter is a log-normal
    factor of median 1 per task. A phase that lasts longer than ten years is an error that names client, phase and key.

    Attributes:
        model_bytes: charged size of the dense model; None charges the real one.
        sample_scale: multiplies each client's own samples.
        training_factor: cost of training on a sample relative to a forward pass.
        samples_per_client: data size of every client in a dry run without `[data]`.
        availability_check: "throughout": a task is lost when its device leaves before it is done; "at_completion": only
            when the device is away at the instant of completion (FedScale's looser rule).
    """

    model_bytes: int | None = None
    sample_scale: float = 1.0
    training_factor: float = 3.0
    samples_per_client: int | None = None
    availability_check: Literal["throughout", "at_completion"] = "throughout"

    def __post_init__(self) -> None:
        size = self.model_bytes
        require(size is None or size > 0, "model_bytes must be > 0", model_bytes=size)
        require(size is None or size <= _MOST_BYTES, f"model_bytes must be <= {_MOST_BYTES}", model_bytes=size)
        require(0 < self.sample_scale < np.inf, "sample_scale must be > 0", sample_scale=self.sample_scale)
        require(0 < self.training_factor < np.inf, "training_factor must be > 0", training_factor=self.training_factor)
        samples = self.samples_per_client
        require(
            samples is None or 0 < samples <= _MOST_SAMPLES,
            f"samples_per_client must be > 0 and <= {_MOST_SAMPLES}",
            samples_per_client=samples,
        )

    def wire_bytes(self, payload_bytes: int, true_model_bytes: int) -> int:
        """Charged size of a payload: in proportion, when a small model stands for a big one."""
        if self.model_bytes is None:
            return payload_bytes
        return round(self.model_bytes * payload_bytes / true_model_bytes)
