"""Tasks trained and added up at once: what executors give where a merge needs no single update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evsim.algorithms import tree
from evsim.algorithms.base import State
from evsim.algorithms.sums import WeightedSums
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
from evsim.training.executors.stacking import is_shared

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree
    from evsim.training.executors.base import Result

#: Weights of tasks by payload, a column each; the entry "" serves payloads not named.
Weights = Mapping[str, FloatArray]


@final
@dataclass(frozen=True, eq=False)
class Block:
    """What some tasks gave, all at once; columns in the order of `places`.

    Attributes:
        places: of the tasks in the sequence given to the executor.
        sums: the weighted sums of their updates that are finite.
        finite: whether each update is finite, (tasks,).
        mean_square_loss: as in `Result`, (tasks,).
        states: each client's next state; {} where the rule keeps none.
    """

    places: IntArray
    sums: WeightedSums
    finite: BoolArray
    mean_square_loss: FloatArray
    states: Sequence[State]


def added_up(results: Iterable[Result], weights: Weights) -> Block:
    """Add results up one by one in float64, at places 0, 1, ..."""
    sums, finite, squares, states = WeightedSums(), [], [], []
    for place, result in enumerate(results):
        finite.append(tree.is_finite(result.update))
        squares.append(result.mean_square_loss)
        states.append(result.state)
        if finite[-1]:
            sums.add(result.update, _weight(weights, place))
    return Block(np.arange(len(finite)), sums, np.array(finite, np.bool_), np.array(squares, np.float64), states)


def added_up_in_few(train: Callable[[], Iterable[Result]], weights: Weights) -> Block:
    """The same in the precision of training, for a few results; trains them again if one is not finite.

    For large models summing in float64 takes a tenth of the training, and looking at each update alone a hundredth; a
    finite sum has finite terms, and one that is not is rare.
    """
    return _added_up_blindly(train(), weights) or added_up(train(), weights)


def _added_up_blindly(results: Iterable[Result], weights: Weights) -> Block | None:
    sums, squares, states = WeightedSums(), [], []
    for place, result in enumerate(results):
        sums.add(result.update, _weight(weights, place), exact=False)
        squares.append(result.mean_square_loss)
        states.append(result.state)
    if not tree.is_finite(sums.totals):
        return None
    finite = np.ones(len(squares), np.bool_)
    return Block(np.arange(len(squares)), sums, finite, np.array(squares, np.float64), states)


def _weight(weights: Weights, place: int) -> dict[str, float]:
    return {name: float(column[place]) for name, column in weights.items()}


def weights_at(weights: Weights, places: IntArray | slice) -> dict[str, FloatArray]:
    """The weights of some tasks."""
    return {name: column[places] for name, column in weights.items()}


def stacked_sums(stacked: Payload, weights: Weights, count: int) -> tuple[WeightedSums, BoolArray]:
    """Weighted sums over the leading dimension, and which clients' updates are finite.

    Sums are taken in the precision of the leaves: one product per leaf that reads each number once. A finite sum has
    finite terms, so only if it is not is each client looked at, and then the sum is taken in float64.
    """
    sums = _dotted(stacked, weights, count)
    if tree.is_finite(sums.totals):
        return sums, np.ones(count, np.bool_)
    finite = _finite(stacked, count)
    good = torch.from_numpy(np.flatnonzero(finite))
    kept = {
        name: {k: leaf.index_select(0, good.to(leaf.device)).double() for k, leaf in leaves.items()}
        for name, leaves in stacked.items()
    }
    return _dotted(kept, weights_at(weights, np.flatnonzero(finite)), len(good)) if len(
        good
    ) else WeightedSums(), finite


def _dotted(stacked: Payload, weights: Weights, count: int) -> WeightedSums:
    columns = {name: weights.get(name, weights[""]) for name in stacked}
    totals = {name: _dot(leaves, columns[name], count) for name, leaves in stacked.items()}
    return WeightedSums(totals, {name: float(column.sum()) for name, column in columns.items()})


def _dot(leaves: Tree, column: FloatArray, count: int) -> Tree:
    if not leaves:
        return {}
    device = next(iter(leaves.values())).device
    weights = torch.from_numpy(np.ascontiguousarray(column)).to(device)
    return {name: _dot_leaf(leaf, weights, count) for name, leaf in leaves.items()}


def _dot_leaf(leaf: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    if is_shared(leaf):
        return leaf[0].double() * weights.sum()
    flat = leaf.reshape(count, -1)
    flat = flat if flat.is_floating_point() else flat.double()  # counters
    total: torch.Tensor = weights.to(flat.dtype) @ flat
    return total.reshape(leaf.shape[1:])


def _finite(stacked: Payload, count: int) -> BoolArray:
    finite = np.ones(count, np.bool_)
    for leaves in stacked.values():
        for leaf in leaves.values():
            finite &= torch.isfinite(leaf).reshape(count, -1).all(1).cpu().numpy()
    return finite
