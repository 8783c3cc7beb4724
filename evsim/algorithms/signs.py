"""One bit per number: signSGD with a vote, and its form with error feedback.

Bernstein et al., signSGD with Majority Vote is Communication Efficient and Fault Tolerant, ICLR 2019 (arXiv
1810.05291), algorithm 1: clients send sign(v), the server steps along the sign of the sum of signs. Magnitudes are
lost: a vote of (1, 1, -10) is +, so clients that differ bias it.

Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019, algorithm 1:
p = v + e; send ||p||_1 / d sign(p); e <- p - sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo, Upload, Wires
from evsim.algorithms.company import name_of
from evsim.algorithms.sums import WeightedSums
from evsim.base.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.base import Wire
    from evsim.algorithms.tree import Payload

_SCALE_BYTES = 4


@final
@dataclass(frozen=True, kw_only=True)
class Sign(Upload):
    """The sign of every number of the model's update, as 1 or -1: 1 bit, 1/32x. Use it with merge `majority`.

    One bit cannot say 0: a number that did not change is sent as 1 or -1, by a draw of the task.
    """

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        yield from _only_the_model(self, scenario)
        if not isinstance(scenario.merge, Majority):
            given = f"upload Sign with merge {name_of(scenario.merge)}"
            yield Problem("merge", given, 'kind = "majority": a sign has lost its size', "or use upload ef_sign")

    @override
    def wires(self, update: Wires) -> Wires:
        return {**update, "model": _one_bit(update["model"], 0)}

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        stream = np.random.Generator(np.random.Philox(key=key))
        return {**update, "model": {name: _one_or_other(v, stream) for name, v in update["model"].items()}}, state


@final
@dataclass(frozen=True, kw_only=True)
class EfSign(Upload):
    """||p||_1 / d sign(p) of each parameter, p = update + residual: 1 bit per number and 4 B per parameter.

    The residual is the client's state and changes only when a report is accepted. sign(0) is 1, as one bit has no 0.
    """

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        yield from _only_the_model(self, scenario)

    @override
    def wires(self, update: Wires) -> Wires:
        return {**update, "model": _one_bit(update["model"], _SCALE_BYTES)}

    @override
    def init_client(self, update: Payload) -> State:
        return {"model": tree.zeros(update["model"])}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        whole = tree.add(update["model"], state["model"])
        sent = tree.apply(_scaled_sign, whole)
        return {**update, "model": sent}, {"model": tree.sub(whole, sent)}


@final
@dataclass(frozen=True, kw_only=True)
class Majority(Merge[WeightedSums]):
    """The sign of the sum of the signs of all updates, number by number; 0 where the votes are equal.

    Every report of a positive weight has one vote. Buffers are averaged. The server optimizer's learning rate is the
    step of every number.
    """

    style = "model"

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> WeightedSums:
        return WeightedSums()

    @override
    def add(self, acc: WeightedSums, update: Payload, weight: dict[str, float], meta: ReportMeta) -> WeightedSums:
        votes = 1.0 if weight.get("model", weight[""]) > 0 else 0.0
        acc.add({**update, "model": tree.apply(torch.sign, update["model"])}, {**weight, "model": votes})
        return acc

    @override
    def finish(self, acc: WeightedSums, server: State, info: StepInfo) -> Payload:
        means = acc.means()
        return {**means, "model": tree.apply(torch.sign, means["model"])} if "model" in means else means


def _only_the_model(upload: Upload, scenario: Any) -> Iterator[Problem]:
    extra = scenario.client_rule.sends - {"model", "buffers"}
    if extra:
        given = f"{name_of(upload)} does not know what to do with {' and '.join(repr(name) for name in sorted(extra))}"
        yield Problem("upload", given, "a client rule that sends the model only")


def _one_bit(leaves: dict[str, Wire], extra: int) -> dict[str, Wire]:
    return {name: wire.but(value_bits=1, extra_bytes=wire.extra_bytes + extra) for name, wire in leaves.items()}


def _one_or_other(v: torch.Tensor, stream: np.random.Generator) -> torch.Tensor:
    coins = torch.from_numpy(stream.integers(0, 2, tuple(v.shape))).to(v) * 2 - 1
    return torch.where(v == 0, coins, v.sign())


def _scaled_sign(p: torch.Tensor) -> torch.Tensor:
    size = p.abs().mean() if p.numel() else p.sum()
    return torch.where(p < 0, -size, size)


__all__ = ["EfSign", "Majority", "Sign"]
