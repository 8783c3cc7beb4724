"""FedCS: as many clients as a round has time for.

Nishio, Yonetani, Client Selection for Federated Learning with Heterogeneous Resources in Mobile Edge, ICC 2019 (arXiv
1804.08333), algorithm 3. Some idle clients, drawn at random, are asked what they can do. Starting from nobody, with
T_d = Theta = 0, the client k that lengthens the round least,

    max(T_d, down_k) - T_d + up_k + max(0, compute_k - Theta),

joins as long as T_d + Theta and what it adds stay below the deadline; T_d becomes max(T_d, down_k), Theta the rest of
the sum. So one message is sent to all at the pace of the slowest, and uploads follow one another while others compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.units import Duration
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import smallest_keys

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class FedCs(Selector[None]):
    """Adds clients while the round they would make is shorter than the deadline; times are those of the device classes.

    It chooses fewer clients than are wanted where no more fit, and the quickest one alone where not one fits. The paper
    has one link that all share: its round is an estimate, and transfers of evsim's `network` take what they take.

    Attributes:
        deadline: T_round, for everything below.
        asked: clients drawn at random and asked; the paper asks a tenth of 1000.
        beside: T_cs + T_agg, the time for asking and for merging.
    """

    memoryless: ClassVar[bool] = True
    may_choose_fewer: ClassVar[bool] = True
    needs_transfers: ClassVar[bool] = True

    deadline: Duration
    asked: int = 100
    beside: Duration = 0

    def __post_init__(self) -> None:
        require(self.asked >= 1, "asked must be >= 1", asked=self.asked)
        require(0 <= self.beside < self.deadline, "0 <= beside < deadline must hold", beside=self.beside)

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        idle = view.idle
        asked = smallest_keys(idle, min(self.asked, len(idle)), key)
        down, up = np.nan_to_num(view.declared_transfers_ms[asked]).T  # what nothing is declared of takes no time
        compute = np.nan_to_num(view.declared_ms[asked]) - down - up
        return asked[greedy(down, np.maximum(compute, 0.0), up, float(self.deadline - self.beside), n)], None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None


def greedy(down: FloatArray, compute: FloatArray, up: FloatArray, limit: float, n: int) -> IntArray:
    """Positions of those who join, in that order; at most n, and somebody if there is anybody.

    Where the one that adds least does not fit, nobody else does.

    >>> greedy(np.array([1.0, 2.0, 9.0]), np.array([5.0, 6.0, 1.0]), np.array([3.0, 3.0, 3.0]), limit=14.0, n=3)
    array([0, 1])
    """
    chosen: list[int] = []
    left = np.ones(len(down), np.bool_)
    sent = done = 0.0
    while len(chosen) < min(n, len(down)):
        more = np.maximum(down - sent, 0.0) + up + np.maximum(compute - done, 0.0)
        best = int(np.argmin(np.where(left, more, np.inf)))
        if chosen and not sent + done + more[best] < limit:
            break
        chosen.append(best)
        left[best] = False
        done += float(up[best] + max(0.0, compute[best] - done))
        sent = max(sent, float(down[best]))
        if not sent + done < limit:
            break
    return np.array(chosen, np.int64)
