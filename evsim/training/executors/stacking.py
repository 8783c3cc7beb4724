"""Trees of several clients stacked along a leading dimension, and back.

A leaf that is the same for all clients is *shared*: expanded along that dimension, with stride 0, it takes no memory
and ``torch.func.vmap`` can treat it as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evsim.algorithms.tree import Payload, Tree


def stack_payloads(payloads: Sequence[Payload]) -> Payload:
    """One payload with a leading dimension (clients,); shared leaves if all clients have the very same payload."""
    first = payloads[0]
    if all(payload is first for payload in payloads):
        count = len(payloads)
        return {name: {k: leaf.expand(count, *leaf.shape) for k, leaf in tree.items()} for name, tree in first.items()}
    return {
        name: {k: torch.stack([payload[name][k] for payload in payloads]) for k in tree} for name, tree in first.items()
    }


def first(payload: Payload, count: int) -> Payload:
    """The payload of the first clients."""
    return {name: {k: leaf[:count] for k, leaf in tree.items()} for name, tree in payload.items()}


def between(payload: Payload, start: int, stop: int) -> Payload:
    """The payload of some clients in a row."""
    return {name: {k: leaf[start:stop] for k, leaf in tree.items()} for name, tree in payload.items()}


def take(payload: Payload, places: torch.Tensor) -> Payload:
    """The payload of any clients; shared leaves stay shared."""
    return {
        name: {k: leaf[: len(places)] if is_shared(leaf) else leaf.index_select(0, places) for k, leaf in tree.items()}
        for name, tree in payload.items()
    }


def unstack(payload: Payload, count: int, *, own: bool = False) -> list[Payload]:
    """One payload per client: views, or with `own` copies, which do not keep the others' memory alive."""
    parts: list[Payload] = [{name: {} for name in payload} for _ in range(count)]
    for name, tree in payload.items():
        for k, leaf in tree.items():
            for part, piece in zip(parts, leaf.unbind(0), strict=True):
                part[name][k] = piece.clone() if own else piece
    return parts


def is_shared(leaf: torch.Tensor) -> bool:
    """Whether all clients have this leaf in common."""
    return leaf.shape[0] > 1 and leaf.stride(0) == 0


def split_shared(tree: Tree) -> tuple[Tree, dict[str, int | None]]:
    """The tree as vmap wants it: shared leaves without the leading dimension, and where that dimension is."""
    leaves = {name: leaf[0] if is_shared(leaf) else leaf for name, leaf in tree.items()}
    return leaves, {name: None if is_shared(leaf) else 0 for name, leaf in tree.items()}
