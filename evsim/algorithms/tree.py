"""Arithmetic on trees of tensors, leaf by leaf, for one client or for many stacked along a leading dimension.

A tree maps parameter names to tensors. A scale is a number, a 0-dim tensor, or a tensor of shape ``(clients,)`` that
meets leaves of shape ``(clients, ...)``: the same rule then serves one client and a whole chunk. ``torch._foreach``
applies one fused kernel per operation instead of one per leaf.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Tree = dict[str, torch.Tensor]
Payload = dict[str, Tree]
Scale = float | torch.Tensor


def add(a: Tree, b: Tree) -> Tree:
    """A + b."""
    return _fused(torch._foreach_add, a, _leaves(b, a))


def sub(a: Tree, b: Tree) -> Tree:
    """A - b."""
    return _fused(torch._foreach_sub, a, _leaves(b, a))


def mul(a: Tree, b: Tree) -> Tree:
    """A * b, element by element."""
    return _fused(torch._foreach_mul, a, _leaves(b, a))


def scale(a: Tree, s: Scale) -> Tree:
    """A * s."""
    if isinstance(s, torch.Tensor):
        return {name: leaf * _fit(s, leaf).to(leaf.dtype) for name, leaf in a.items()}
    return _fused(torch._foreach_mul, a, s)


def add_scaled(a: Tree, b: Tree, s: Scale) -> Tree:
    """A + s * b."""
    if isinstance(s, torch.Tensor):
        return {name: torch.addcmul(leaf, b[name], _fit(s, leaf).to(leaf.dtype)) for name, leaf in a.items()}
    return _fused(torch._foreach_add, a, _leaves(b, a), alpha=s)


def div(a: Tree, b: Tree) -> Tree:
    """A / b, element by element."""
    return _fused(torch._foreach_div, a, _leaves(b, a))


def sqrt(a: Tree) -> Tree:
    """Square root, element by element."""
    return _fused(torch._foreach_sqrt, a)


def shift(a: Tree, c: float) -> Tree:
    """A + c, element by element."""
    return _fused(torch._foreach_add, a, c)


def accumulate(total: Tree, a: Tree, s: float) -> None:
    """Total + s * a, into the leaves of `total`: for accumulators that nobody else holds."""
    for name, leaf in total.items():
        leaf.add_(a[name], alpha=s)


def zeros(a: Tree) -> Tree:
    """A tree of zeros of the same shapes."""
    return {name: torch.zeros_like(leaf) for name, leaf in a.items()}


def cast(a: Tree, dtype: torch.dtype) -> Tree:
    """Floating-point leaves in another precision; integer leaves as they are."""
    return {name: leaf.to(dtype) if leaf.is_floating_point() else leaf for name, leaf in a.items()}


def apply(f: Callable[[torch.Tensor], torch.Tensor], a: Tree) -> Tree:
    """F of every leaf."""
    return {name: f(leaf) for name, leaf in a.items()}


def double(a: Tree) -> Tree:
    """Every leaf in float64, integer ones too."""
    return {name: leaf.double() for name, leaf in a.items()}


def flat(a: Tree) -> torch.Tensor:
    """All leaves of one client as one vector, in the order of the names in the tree."""
    return torch.cat([leaf.reshape(-1) for leaf in a.values()]) if a else torch.zeros(0)


def unflat(vector: torch.Tensor, like: Tree) -> Tree:
    """The inverse of `flat`."""
    parts = torch.split(vector, [leaf.numel() for leaf in like.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}


def dot(a: Tree, b: Tree) -> torch.Tensor:
    """Inner product over all leaves of one client, a 0-dim tensor."""
    return torch.stack([(leaf * b[name]).sum() for name, leaf in a.items()]).sum()


def norm(a: Tree, like: torch.Tensor | None = None) -> torch.Tensor:
    """Euclidean norm over all leaves, in float64.

    One client's, 0-dim; or one per client where leaves are stacked: `like` then has shape (clients,).
    """
    clients = 0 if like is None else like.dim()
    parts = [leaf.reshape(*leaf.shape[:clients], -1).double() for leaf in a.values()]
    squares = torch.stack([torch.linalg.vector_norm(part, dim=-1) for part in parts])
    total: torch.Tensor = torch.linalg.vector_norm(squares, dim=0)
    return total


def is_finite(payload: Payload) -> bool:
    """Whether every number of a payload is finite."""
    return all(_all_finite(leaf) for tree in payload.values() for leaf in tree.values())


def _all_finite(leaf: torch.Tensor) -> bool:
    """A finite sum has finite terms, and a sum is quick; one that is not finite may merely have overflowed."""
    return isfinite(float(leaf.sum())) or bool(torch.isfinite(leaf).all())


def _leaves(a: Tree, order: Tree) -> list[torch.Tensor]:
    return [a[name] for name in order]  # a tree read from disk may have another order of names


def _fused(operation: Callable[..., Any], a: Tree, *others: object, **options: object) -> Tree:
    """One kernel for all leaves; torch refuses empty lists."""
    return dict(zip(a, operation(list(a.values()), *others, **options), strict=True)) if a else {}


def _fit(s: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    return s.reshape(s.shape + (1,) * (leaf.dim() - s.dim()))
