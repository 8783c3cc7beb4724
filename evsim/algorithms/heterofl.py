"""Sub-models by width: weak devices hold some channels of every hidden layer, and train and send those.

HeteroFL (Diao, Ding, Tarokh, ICLR 2021, section 3): rate r holds the first ceil(r n) of n channels; the server averages
each number over the clients that hold it, and what nobody held stays as it was.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import ClientInfo, GroupedBroadcast, State, Wires
from evsim.algorithms.workload import speed_class
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.clients import Kept
    from evsim.algorithms.tree import Payload
    from evsim.base.vocabulary import IntArray


@dataclass(frozen=True, kw_only=True)
class Narrowed(GroupedBroadcast):
    """Channels of every hidden layer by group; subclasses say which.

    For fully connected and convolutional networks: the first dimension of a leaf counts outputs, the second inputs,
    others (a kernel's height and width) are whole. What one layer gives is what the next one takes, so which channels a
    group holds may depend on their number only. A part that does not fit is refused before a run begins.

    Attributes:
        first: name of the layer that takes the data, such as "conv1"; all its inputs are held.
        last: name of the layer that gives the logits; all its outputs are held.
        rates: share of the channels of each group, in (0, 1]; groups are speed classes of equal size, fastest first.
    """

    first: str
    last: str
    rates: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)

    def __post_init__(self) -> None:
        require(len(self.rates) > 0, "rates must not be empty")
        require(all(0 < rate <= 1 for rate in self.rates), "rates must lie in (0, 1]", rates=self.rates)

    @abstractmethod
    def channels(self, n: int, rate: float) -> IntArray:
        """Which of n channels a group of this rate holds."""

    @property
    @override
    def n_groups(self) -> int:
        return len(self.rates)

    @override
    def groups(self, clients: ClientInfo) -> IntArray:
        return speed_class(clients, len(self.rates))

    @override
    def wires(self, model: Wires) -> Wires:
        return model

    @override
    def send(self, server: State) -> Payload:
        return {"model": server["model"], "buffers": server["buffers"]}

    @override
    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Kept:
        layer = leaf.rpartition(".")[0]
        whole = (layer == self.last, layer == self.first)  # outputs, inputs
        return [
            self.channels(n, self.rates[group]) if place < len(whole) and not whole[place] else None
            for place, n in enumerate(shape)
        ]


@final
@dataclass(frozen=True, kw_only=True)
class HeteroFL(Narrowed):
    """The first ceil(r n) channels of every hidden layer, so that a narrow model lies inside of each wider one.

    Printed with uniform weights: `weighting = "uniform"`. Its scaler, its masked loss and its BatchNorm without running
    statistics belong into the model and the objective, and are not here; rates are fixed for a run (the paper's "fix").
    """

    @override
    def channels(self, n: int, rate: float) -> IntArray:
        return np.arange(ceil(round(rate * n, 9)))
