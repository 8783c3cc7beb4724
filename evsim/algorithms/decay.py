"""Learning-rate schedules over server steps: a function of the model version a client received."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, pi
from typing import Literal, final

import torch

from evsim.base.errors import require


@final
@dataclass(frozen=True, kw_only=True)
class Decay:
    """How a learning rate falls with the model version v.

    - "step": rate x factor^floor(v / every); FedScale is factor 0.98, every 10, floor 5e-5 (its code counts rounds from
      1 and decays one version earlier: at v = 9, 19, ...).
    - "exponential": rate x factor^(v / every).
    - "inverse_sqrt": rate / sqrt(1 + v / every).
    - "cosine": from rate to 0 in `every` versions, along half a cosine, then 0; wants a floor.

    Attributes:
        shape: one of the above.
        every: versions, the unit of v.
        factor: of "step" and "exponential".
        floor: the rate never falls below this.
    """

    shape: Literal["step", "exponential", "inverse_sqrt", "cosine"] = "step"
    every: int = 10
    factor: float = 0.98
    floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.every >= 1, "every must be >= 1", every=self.every)
        require(0 < self.factor <= 1, "0 < factor <= 1 must hold", factor=self.factor)
        require(isfinite(self.floor) and self.floor >= 0, "floor must be >= 0", floor=self.floor)
        require(self.shape != "cosine" or self.floor > 0, "a cosine needs a floor > 0", floor=self.floor)

    def rate(self, start: float, version: torch.Tensor) -> torch.Tensor:
        """The learning rate at a version; 0-dim or (clients,), float64.

        >>> Decay(factor=0.5, every=10).rate(0.4, torch.tensor([0, 9, 10, 25]))
        tensor([0.4000, 0.4000, 0.2000, 0.1000], dtype=torch.float64)
        """
        v = version.double() / self.every
        if self.shape == "cosine":
            share = 0.5 * (1 + torch.cos(pi * v.clamp(max=1.0)))
        elif self.shape == "inverse_sqrt":
            share = torch.rsqrt(1 + v)
        else:
            share = torch.pow(torch.full_like(v, self.factor), v.floor() if self.shape == "step" else v)
        return (start * share).clamp(min=self.floor)
