"""Low-rank adapters: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022 (arXiv 2106.09685).

A layer with weight W gives ``W x + b + (alpha / rank) B A x``, equation 3. W and b stay as they are; A (rank, in) and B
(out, rank) are trained. B starts at zero, so the adapted model equals its base; A as in the authors' code, uniform on
+-1/sqrt(in). For a convolution A is one of as many output channels as the rank, and B a 1x1 convolution after it, which
adds ``B A`` to W likewise.

The adapted layer holds its weight and bias under their own names, and A and B beside them as ``lora_a`` and
``lora_b``: a file of the base fits, and so does one of base and adapters. Whoever reads ``layer.weight`` gets
W + (alpha / rank) B A.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING, cast, final

import torch
from torch import nn
from torch.nn.functional import conv2d, linear
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import ModelError, Problem, report, require
from evsim.training.models.patterns import matching, near

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEY = "model.lora"
_SEEDS = 1 << 63
ADAPTERS = ("lora_a", "lora_b")


@final
@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters for linear layers and convolutions; nothing else of the model trains.

    Attributes:
        rank: of what is added to a weight; at most the smaller side of it.
        targets: patterns over the names of modules, such as "*.attn.*"; what matches and is no linear layer or
            convolution is left alone, but every pattern must match one.
        alpha: what is added is scaled by alpha / rank; the rank itself, a factor of 1, if not given.
        train: patterns over the names of leaves that train in full beside the adapters, such as "head.*".
    """

    rank: int
    targets: tuple[str, ...]
    alpha: float | None = None
    train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank must be >= 1", rank=self.rank)
        require(len(self.targets) > 0, "targets must name something", targets=self.targets)
        alpha = self.alpha
        require(alpha is None or (isfinite(alpha) and alpha > 0), "alpha must be > 0", alpha=alpha)

    @property
    def scale(self) -> float:
        """Alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A linear layer with an adapter."""

    scale: float
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def __init__(self, base: nn.Linear, lora: Lora) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        _adopt(self, base, lora, (lora.rank, base.in_features))

    @property
    @override
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # torch declares an attribute
        """The weight that the layer amounts to."""
        return _held(self) + self.scale * (self.lora_b @ self.lora_a)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, _held(self), self.bias) + self.scale * linear(linear(x, self.lora_a), self.lora_b)


class LoraConv2d(nn.Conv2d):
    """A convolution of one group with an adapter."""

    scale: float
    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def __init__(self, base: nn.Conv2d, lora: Lora) -> None:
        nn.Module.__init__(self)
        for name, value in vars(base).items():
            if not name.startswith("_") or name == "_reversed_padding_repeated_twice":
                setattr(self, name, value)
        _adopt(self, base, lora, (lora.rank, base.in_channels, *base.kernel_size))

    @property
    @override
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # torch declares an attribute
        """The weight that the layer amounts to."""
        held = _held(self)
        return held + self.scale * (self.lora_b @ self.lora_a.flatten(1)).reshape(held.shape)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self._conv_forward(x, self.lora_a, None)
        base: torch.Tensor = self._conv_forward(x, _held(self), self.bias)
        return base + self.scale * conv2d(inner, self.lora_b[:, :, None, None])


def adapt(model: nn.Module, lora: Lora, seed: int) -> None:
    """Give the targets adapters, in place, drawn by the seed and their names.

    Raises:
        ModelError: with every pattern that matches no layer to adapt, and every layer that cannot have this rank.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    problems = [*_unmatched(lora, modules), *_unfit(lora, modules)]
    if problems:
        raise ModelError(report(problems))
    swapped = {}
    for name in matching(lora.targets, [name for name, module in modules.items() if _is_layer(module)]):
        base = modules[name]
        made = _adapted(base, lora)
        swapped[id(base)] = made.train(base.training)
        _draw(made, rng.key(seed, "lora", name))
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001  named_children leaves out a second name
            if child is not None and id(child) in swapped:
                parent._modules[name] = swapped[id(child)]  # noqa: SLF001


def adapters(names: Iterator[str] | Mapping[str, object] | list[str]) -> list[str]:
    """The names that are of adapters."""
    return [name for name in names if name.rpartition(".")[2] in ADAPTERS]


def merged(tensors: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Leaves of a base and its adapters as leaves of a model without adapters: W + scale B A."""
    found = {name: leaf for name, leaf in tensors.items() if name.rpartition(".")[2] not in ADAPTERS}
    for name in adapters(tensors):
        path, _, kind = name.rpartition(".")
        if kind == ADAPTERS[0]:
            held, a, b = found[f"{path}.weight"], tensors[name], tensors[f"{path}.lora_b"]
            found[f"{path}.weight"] = held + scale * (b @ a.flatten(1)).reshape(held.shape)
    return found


def _adapted(base: nn.Module, lora: Lora) -> LoraLinear | LoraConv2d:
    return LoraConv2d(base, lora) if isinstance(base, nn.Conv2d) else LoraLinear(cast("nn.Linear", base), lora)


def _adopt(own: LoraLinear | LoraConv2d, base: nn.Module, lora: Lora, shape: tuple[int, ...]) -> None:
    held = base._parameters["weight"]  # noqa: SLF001  `weight` is a property here
    assert held is not None  # noqa: S101  `_is_layer` has looked
    own._parameters |= {"weight": held, "bias": base._parameters["bias"]}  # noqa: SLF001
    own.scale = lora.scale
    own.lora_a = nn.Parameter(torch.empty(shape, dtype=held.dtype))
    own.lora_b = nn.Parameter(torch.zeros(held.shape[0], lora.rank, dtype=held.dtype))


def _held(layer: nn.Module) -> torch.Tensor:
    """The weight of the base."""
    held = layer._parameters["weight"]  # noqa: SLF001
    assert held is not None  # noqa: S101  for the type checker
    return held


@torch.no_grad()
def _draw(layer: LoraLinear | LoraConv2d, key: int) -> None:
    leaf = layer.lora_a
    bound = prod(leaf.shape[1:]) ** -0.5
    draws = torch.rand(leaf.shape, generator=torch.Generator().manual_seed(key % _SEEDS), dtype=torch.float32)
    leaf.copy_((2 * draws - 1) * bound)


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a linear layer or convolution that has a weight of its own and does with it what torch's do."""
    plain = type(module).forward in (nn.Linear.forward, nn.Conv2d.forward)
    return plain and module._parameters.get("weight") is not None  # noqa: SLF001


def _unmatched(lora: Lora, modules: Mapping[str, nn.Module]) -> Iterator[Problem]:
    layers = [name for name, module in modules.items() if _is_layer(module)]
    for pattern in lora.targets:
        if matching([pattern], layers):
            continue
        others = [f"'{name}', a {type(modules[name]).__name__}" for name in matching([pattern], modules)]
        given = f"{pattern!r} matches {'only ' + ', '.join(others[:3]) if others else 'nothing'}"
        yield Problem(f"{_KEY}.targets", given, "a pattern that matches a Linear or a Conv2d", near(pattern, layers))


def _unfit(lora: Lora, modules: Mapping[str, nn.Module]) -> Iterator[Problem]:
    for name in matching(lora.targets, [name for name, module in modules.items() if _is_layer(module)]):
        module = modules[name]
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            given = f"'{name}' is a convolution of {module.groups} groups"
            yield Problem(f"{_KEY}.targets", given, "convolutions of one group")
            continue
        rows, columns = _held(module).flatten(1).shape
        if lora.rank > min(rows, columns):
            given = f"{lora.rank} for '{name}', whose weight is {rows} by {columns}"
            yield Problem(f"{_KEY}.rank", given, f"at most {min(rows, columns)}")
