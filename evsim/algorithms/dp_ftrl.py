"""DP-FTRL: differential privacy by noise on prefix sums, from a tree, whoever takes part.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, Practical and Private (Deep) Learning without Sampling or Shuffling,
ICML 2021: the prefix sums with a tree of plain binary digits. With S_t = D_1 + ... + D_t over the steps of a tree,

    w_t = w_0 + eta (S_t + Z_t),      Z_t = the sum of the tree's nodes that make up 1 ... t.

A node (level h, number i) covers 2^h steps and carries its own N(0, (z S / m)^2). The binary digits of t say which
nodes make up 1 ... t, so that Z_t has the variance popcount(t) (z S / m)^2. This merge gives D_t + (Z_t - Z_(t-1)): a
server optimizer that is linear, `sgd` or `fedavgm`, then makes exactly the w_t above, or its form with momentum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, StepInfo
from evsim.algorithms.central_dp import CentralDp
from evsim.algorithms.client_sums import ClientSum
from evsim.algorithms.clip import clipped
from evsim.algorithms.company import name_of
from evsim.algorithms.fedavgm import FedAvgM
from evsim.algorithms.local_dp import gaussian_noise
from evsim.algorithms.privacy import Privacy, Sampling, account_of_tree
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.tree import Payload, Tree
from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATE = "dp_ftrl"
_NEVER = -1


@final
@dataclass(frozen=True)
class PrefixSum:
    """What a step has so far, and the client whose reports are coming in.

    Attributes:
        now: the server's version, which counts the steps before.
        last: the step in which each client was used last, (clients,); -1: never.
        total: the sum of the clipped updates of the clients before.
        used: places of the clients in it, the one that reports now included.
        own: what that one adds up to; None before the first.
    """

    now: int
    last: torch.Tensor
    total: Tree
    used: tuple[int, ...] = ()
    own: ClientSum | None = None

    def closed(self, bound: float) -> Tree:
        """The sum with the last client's part."""
        return self.total if self.own is None else tree.add(self.total, clipped(self.own.update, bound))


@final
@dataclass(frozen=True, kw_only=True)
class DpFtrl(CentralDp[PrefixSum]):
    """Clips what each client adds, and adds the noise of a tree: D_t + Z_t - Z_(t-1). Nothing is sampled.

    What it promises holds whoever is there, but needs a bound on how often a client takes part. The merge itself keeps
    it: a report of a client that was used too short a time ago is left out, whatever the selection does; m stays. Late
    reports count for the step that uses them. Momentum of the server is not reset where a tree ends.

    Attributes:
        restart_every: steps after which a new tree begins, from the model as it is; None: one tree for the run.
        separation: a client is used again no sooner than so many steps after; None: at most once in a tree.
    """

    restart_every: int | None = None
    separation: int | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        every, apart = self.restart_every, self.separation
        require(every is None or every >= 1, "restart_every must be >= 1", restart_every=every)
        require(apart is None or apart >= 1, "separation must be >= 1", separation=apart)

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        yield from super().caveats(scenario)
        optimizer = scenario.server_optimizer
        if not isinstance(optimizer, ServerSgd | FedAvgM):
            yield Caveat(
                "tree_noise_does_not_cancel",
                "the noise of a step takes back noise of earlier ones, which only a linear server optimizer lets it "
                "do: what is left is as private, and noisier",
                f"server optimizer {name_of(optimizer)}",
                "use server_optimizer.kind = sgd or fedavgm",
            )
        clients, limits = (
            scenario.population.clients,
            (self.separation or self.restart_every, scenario.stop.server_steps),
        )
        window = min((limit for limit in limits if limit), default=0)
        wanted = window * scenario.aggregation.reports_per_step
        if clients and wanted > clients:
            yield Caveat(
                "too_few_clients_for_the_separation",
                "there are not enough clients for full cohorts of clients that were not used lately, so reports are "
                "left out of the sum, whose noise and divisor stay",
                f"{wanted} reports in {window} steps, {clients} clients",
                "lower merge.separation (and look at epsilon), take more clients, or a smaller cohort",
            )

    @override
    def privacy(self, sampling: Sampling, steps: int) -> Privacy:
        return account_of_tree(self.noise_multiplier, self.delta, self.squared_occurrences(steps), steps)

    def squared_occurrences(self, steps: int) -> int:
        """s2, at most: over all nodes of all trees, the sum of the squares of how often a client is in a node.

        >>> once = DpFtrl(max_norm=1.0, noise_multiplier=1.0)
        >>> [once.squared_occurrences(steps) for steps in (100, 1000, 1024)]
        [7, 10, 11]
        """
        size = self.restart_every or max(steps, 1)
        full, rest = divmod(steps, size)
        used = full + 1 if self.separation is None else -(-steps // self.separation)  # in no more trees than that
        whole = min(full, used)
        last = _of_tree(rest, self.separation) if rest and used > full else 0
        return whole * _of_tree(size, self.separation) + last

    @override
    def init_state(self, model: Tree) -> State:
        return {_STATE: {"last": torch.zeros(0, dtype=torch.int64)}}  # as long as there are clients, from step 1 on

    @override
    def init(self, server: State, info: StepInfo) -> PrefixSum:
        self.refuse_buffers(server)
        last = server[_STATE]["last"]
        if not len(last):
            last = torch.full((info.n_clients,), _NEVER, dtype=torch.int64)
        return PrefixSum(info.version, last, tree.zeros(server["model"]))

    @override
    def add(self, acc: PrefixSum, update: Payload, weight: dict[str, float], meta: ReportMeta) -> PrefixSum:
        if acc.own is not None and acc.own.is_of(meta):
            return replace(acc, own=acc.own.plus(update["model"], 1.0))
        place = meta.client if meta.place is None else meta.place
        if not self._may_be_used(int(acc.last[place]), acc.now):
            return acc
        own = ClientSum.first(meta, update["model"], 1.0)
        return replace(acc, total=acc.closed(self.max_norm), used=(*acc.used, place), own=own)

    @override
    def finish(self, acc: PrefixSum, server: State, info: StepInfo) -> Payload:
        total = acc.closed(self.max_norm)
        if self.noise_multiplier:
            total = tree.add(total, self._noise(total, info))
        return {"model": tree.scale(total, 1 / self.divisor(info.cohort_goal)), "buffers": {}}

    @override
    def next_state(self, acc: PrefixSum, server: State, info: StepInfo) -> State:
        last = acc.last.clone()
        last[list(acc.used)] = info.version
        return {_STATE: {"last": last}}

    def _may_be_used(self, last: int, now: int) -> bool:
        if last == _NEVER:
            return True
        if self.separation is not None:
            return now - last >= self.separation
        return self.restart_every is not None and last // self.restart_every < now // self.restart_every

    def _noise(self, like: Tree, info: StepInfo) -> Tree:
        """The noise on the sum, m (Z_t - Z_(t-1)): the node that ends with step t, less those that it replaces."""
        number, before = divmod(info.version, self.restart_every) if self.restart_every else (0, info.version)
        step = before + 1
        level = (step & -step).bit_length() - 1
        found = self._node(like, info.seed, number, level, step >> level)
        for below in range(level):
            found = tree.sub(found, self._node(like, info.seed, number, below, before >> below))
        return found

    def _node(self, like: Tree, seed: int, number: int, level: int, index: int) -> Tree:
        stream = rng.stream(seed, "dp-ftrl", number, level, index)
        noise = gaussian_noise(like, self.noise_multiplier * self.max_norm, stream)
        return {name: noise[name].to(leaf) for name, leaf in like.items()}


def _of_tree(steps: int, separation: int | None) -> int:
    """s2 of one tree, at most: on each level as many nodes as possible hold a client as often as they can.

    >>> _of_tree(8, 1), _of_tree(2, 2)  # 8 in one node, 4 in two, 2 in four, 1 in eight
    (120, 2)
    """
    apart = steps if separation is None else min(separation, steps)
    total, found, level = -(-steps // apart), 0, 0
    while steps >> level:
        most = -(-(1 << level) // apart)
        nodes = min(steps >> level, total // most)
        left = min(total - nodes * most, most) if nodes < steps >> level else 0
        found += nodes * most**2 + left**2
        level += 1
    return found
