"""Central differential privacy of clients: DP-FedAvg, with adaptive clipping if wanted.

McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, algorithm 1 (FedAvg with the fixed
denominator); Andrew et al., Differentially Private Learning with Adaptive Clipping, NeurIPS 2021, algorithm 1.

    D = (sum_k u_k min(1, S / ||u_k||) + N(0, (z_D S)^2)) / m

k runs over *clients*: u_k is the sum of all that client k reported in the step (`central_dp`).

m is the *expected* number of reports, never the number of arrivals, and every report weighs the same. With adaptive
clipping S <- S exp(-eta_S (b - gamma)), where b = (sum_k ([||u_k|| <= S] - 1/2) + N(0, sigma_b^2)) / m + 1/2 is a
noised share. Both sums together keep the promise of z when z_D = (z^-2 - (2 sigma_b)^-2)^(-1/2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, isfinite
from typing import final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, StepInfo
from evsim.algorithms.central_dp import CentralDp
from evsim.algorithms.client_sums import ClientSum
from evsim.algorithms.clip import clipped
from evsim.algorithms.local_dp import gaussian_noise
from evsim.algorithms.privacy import Privacy, Sampling, account
from evsim.algorithms.tree import Payload, Tree
from evsim.base import rng
from evsim.base.errors import PolicyError, require


@final
@dataclass(frozen=True)
class DpSum:
    """What a step has so far, and the client whose reports are coming in.

    Attributes:
        bound: S.
        total: the sum of the clipped updates of the clients before.
        within: sum_k ([||u_k|| <= S] - 1/2) over the clients before.
        own: what the client that reports now adds up to; None before the first.
    """

    bound: float
    total: Tree
    within: float = 0.0
    own: ClientSum | None = None

    def closed(self) -> DpSum:
        """With the last client's part."""
        if self.own is None:
            return self
        short = clipped(self.own.update, self.bound)
        inside = 0.5 if short is self.own.update else -0.5
        return DpSum(self.bound, tree.add(self.total, short), self.within + inside)


@final
@dataclass(frozen=True, kw_only=True)
class DpMean(CentralDp[DpSum]):
    """Clips what each client adds, sums, adds noise, divides by the expected cohort. Any server optimizer may follow.

    `evsim.algorithms.privacy` says what epsilon that gives.

    Attributes:
        adaptive: let S follow the gamma-quantile of the norms.
        target_quantile: gamma; of the norms of clients, however many reports each had.
        clip_rate: eta_S.
        count_noise: sigma_b; None takes m / 20.
    """

    adaptive: bool = False
    target_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise: float | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        rate, noise = self.clip_rate, self.count_noise
        require(0 <= self.target_quantile <= 1, "0 <= target_quantile <= 1 must hold", given=self.target_quantile)
        require(isfinite(rate) and rate > 0, "clip_rate must be > 0", clip_rate=rate)
        require(noise is None or (isfinite(noise) and noise >= 0), "count_noise must be >= 0", count_noise=noise)

    @override
    def privacy(self, sampling: Sampling, steps: int) -> Privacy:
        return account(self, sampling, steps)

    @override
    def check_cohort(self, cohort: int) -> None:
        self.sum_multiplier(cohort)

    def sum_multiplier(self, cohort: int) -> float:
        """z_D: the noise on the sum of updates, in units of S.

        Raises:
            PolicyError: if the noise on the count alone is less private than promised.
        """
        if not self.adaptive or self.noise_multiplier == 0.0:
            return self.noise_multiplier
        spare = self.noise_multiplier**-2 - (2 * self._count_noise(cohort)) ** -2
        if spare <= 0:
            least = self.noise_multiplier / 2
            raise PolicyError(f"merge dp: count_noise must be > noise_multiplier / 2 = {least}, or z cannot be kept")
        return float(spare**-0.5)

    @override
    def init_state(self, model: Tree) -> State:
        return {"dp": {"max_norm": torch.tensor(self.max_norm, dtype=torch.float64)}}

    @override
    def init(self, server: State, info: StepInfo) -> DpSum:
        self.refuse_buffers(server)
        bound = float(server["dp"]["max_norm"])
        return DpSum(bound, tree.zeros(server["model"]))

    @override
    def add(self, acc: DpSum, update: Payload, weight: dict[str, float], meta: ReportMeta) -> DpSum:
        if acc.own is not None and acc.own.is_of(meta):
            return replace(acc, own=acc.own.plus(update["model"], 1.0))
        return replace(acc.closed(), own=ClientSum.first(meta, update["model"], 1.0))

    @override
    def finish(self, acc: DpSum, server: State, info: StepInfo) -> Payload:
        cohort, total = self.divisor(info.cohort_goal), acc.closed().total
        scale = self.sum_multiplier(cohort) * acc.bound
        noise = gaussian_noise(total, scale, rng.stream(info.seed, "dp", info.version))
        noisy = {name: leaf + noise[name].to(leaf) for name, leaf in total.items()}
        return {"model": tree.scale(noisy, 1 / cohort), "buffers": {}}

    @override
    def next_state(self, acc: DpSum, server: State, info: StepInfo) -> State:
        if not self.adaptive:
            return {}
        cohort = self.divisor(info.cohort_goal)
        draw = rng.stream(info.seed, "dp-count", info.version).standard_normal()
        share = (acc.closed().within + self._count_noise(cohort) * draw) / cohort + 0.5
        bound = acc.bound * exp(-self.clip_rate * (share - self.target_quantile))
        return {"dp": {"max_norm": torch.tensor(bound, dtype=torch.float64)}}

    def _count_noise(self, cohort: int) -> float:
        return cohort / 20 if self.count_noise is None else self.count_noise
