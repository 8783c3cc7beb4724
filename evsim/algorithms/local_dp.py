"""Upload: local differential privacy, the client clips its update and adds noise before it sends it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.algorithms.clip import clipped
from evsim.base.errors import Problem, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.tree import Payload, Tree


def gaussian_noise(like: Tree, scale: float, stream: np.random.Generator) -> Tree:
    """A tree of independent N(0, scale^2), drawn leaf after leaf in float64."""
    return {name: torch.from_numpy(scale * stream.standard_normal(tuple(leaf.shape))) for name, leaf in like.items()}


@final
@dataclass(frozen=True, kw_only=True)
class LocalDpNoise(Upload):
    """u min(1, S/||u||) + N(0, (z S)^2) on the model's update; buffers and other payloads are not protected.

    A promise about each report: `evsim.algorithms.privacy.epsilon_of_release` gives the epsilon of one, and that of a
    client is what all of its reports give together, whether one step uses them or several do.

    Attributes:
        max_norm: S.
        noise_multiplier: z.
    """

    max_norm: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        require(isfinite(self.max_norm) and self.max_norm > 0, "max_norm must be > 0", max_norm=self.max_norm)
        z = self.noise_multiplier
        require(isfinite(z) and z >= 0, "noise_multiplier must be >= 0", noise_multiplier=z)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        extra = scenario.client_rule.sends - {"model", "buffers"}
        if extra:
            given = f"local_dp_noise does not protect {' and '.join(repr(name) for name in sorted(extra))}"
            yield Problem("upload", given, "a client rule that sends the model")

    @override
    def wires(self, update: Wires) -> Wires:
        return update

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        stream = np.random.Generator(np.random.Philox(key=key))
        short = clipped(update["model"], self.max_norm)
        noise = gaussian_noise(short, self.noise_multiplier * self.max_norm, stream)
        return {**update, "model": {name: leaf + noise[name].to(leaf) for name, leaf in short.items()}}, state
