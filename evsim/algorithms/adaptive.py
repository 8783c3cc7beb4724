"""The adaptive server optimizers FedAdagrad, FedAdam and FedYogi.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2. With D the merged update, added:

    m <- beta1 m + (1 - beta1) D;   v <- by rule;   w <- w + eta m / (sqrt(v) + tau)

m starts at 0, v at tau squared, there is no bias correction, tau is outside the root. Presets, which change exactly
what is said here and no default of a hyper-parameter:

- "paper": as above.
- "flower": v starts at 0; FedAdam multiplies eta by sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)), t the round from 1.
- "fedscale" (FedYogi only): v starts at tau. Its uniform weighting is the weighting slot's business; its use of the
  optimizer on BatchNorm statistics is not imitated.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ServerOptimizer, State, StepInfo
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree

Preset = Literal["paper", "flower", "fedscale"]


@final
@dataclass(frozen=True, kw_only=True)
class FedAdagrad(ServerOptimizer):
    """V <- v + D^2; with beta1 = 0, the paper's choice, m is D.

    Attributes:
        learning_rate: eta.
        beta1: decay of the first moment.
        tau: degree of adaptivity.
        preset: "paper" or "flower".
    """

    keeps = frozenset({"first", "second"})

    learning_rate: float = 0.1
    beta1: float = 0.0
    tau: float = 1e-3
    preset: Literal["paper", "flower"] = "paper"

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.tau, self.beta1)

    @override
    def init(self, model: Tree) -> State:
        return _start(model, 0.0 if self.preset == "flower" else self.tau**2)

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        update = merged["model"]
        second = tree.add(server["second"], tree.mul(update, update))
        return _step(server, update, second, (self.learning_rate, self.beta1, self.tau))


@final
@dataclass(frozen=True, kw_only=True)
class FedAdam(ServerOptimizer):
    """V <- beta2 v + (1 - beta2) D^2.

    Attributes:
        learning_rate: eta.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: degree of adaptivity.
        preset: "paper" or "flower".
    """

    keeps = frozenset({"first", "second"})

    learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    preset: Literal["paper", "flower"] = "paper"

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.tau, self.beta1, self.beta2)

    @override
    def init(self, model: Tree) -> State:
        return _start(model, 0.0 if self.preset == "flower" else self.tau**2)

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        update = merged["model"]
        squares = tree.mul(update, update)
        second = tree.add_scaled(tree.scale(server["second"], self.beta2), squares, 1 - self.beta2)
        return _step(server, update, second, (self._rate(info.version), self.beta1, self.tau))

    def _rate(self, version: int) -> float:
        if self.preset == "paper":
            return self.learning_rate
        t = version + 2  # the round counts from 1, and flower adds one more
        return float(self.learning_rate * (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t))


@final
@dataclass(frozen=True, kw_only=True)
class FedYogi(ServerOptimizer):
    """V <- v - (1 - beta2) D^2 sign(v - D^2), with sign(0) = 0.

    Attributes:
        learning_rate: eta.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        tau: degree of adaptivity.
        preset: "paper", "flower" or "fedscale".
    """

    keeps = frozenset({"first", "second"})

    learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    preset: Preset = "paper"

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.tau, self.beta1, self.beta2)

    @override
    def init(self, model: Tree) -> State:
        return _start(model, {"paper": self.tau**2, "flower": 0.0, "fedscale": self.tau}[self.preset])

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        update = merged["model"]
        squares = tree.mul(update, update)
        sign = tree.apply(torch.sign, tree.sub(server["second"], squares))
        second = tree.add_scaled(server["second"], tree.mul(squares, sign), -(1 - self.beta2))
        return _step(server, update, second, (self.learning_rate, self.beta1, self.tau))


def _check(rate: float, tau: float, *betas: float) -> None:
    require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)
    require(isfinite(tau) and tau > 0, "tau must be > 0", tau=tau)
    require(all(0 <= beta < 1 for beta in betas), "0 <= beta < 1 must hold", betas=betas)


def _start(model: Tree, second: float) -> State:
    return {"first": tree.zeros(model), "second": tree.apply(lambda leaf: torch.full_like(leaf, second), model)}


def _step(server: State, update: Tree, second: Tree, constants: tuple[float, float, float]) -> State:
    rate, beta1, tau = constants
    first = tree.add_scaled(tree.scale(server["first"], beta1), update, 1 - beta1)
    move = tree.div(first, tree.shift(tree.sqrt(second), tau))
    return {**server, "first": first, "second": second, "model": tree.add_scaled(server["model"], move, rate)}
