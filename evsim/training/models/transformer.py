"""A small causal transformer: Vaswani et al. 2017, in the form of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import Predicts, check_tokens

_STD = 0.02  # of initial weights, as GPT-2 has it


@final
@dataclass(frozen=True, kw_only=True)
class Transformer(Model):
    """Learned positions, blocks of causal attention and two linear layers with norms before them, a last norm.

    Where classes are the tokens the output layer has the weights of the embedding, as in GPT-2, whose sizes (12 layers,
    12 heads, width 768, 1,024 positions, 50,257 tokens) give its 124,439,808 parameters. Linear layers are named
    ``blocks.N.attn.q``, ``.k``, ``.v``, ``.out`` and ``blocks.N.mlp.up``, ``.down``: LoRA's targets. Input (batch,
    time) of token ids.

    Attributes:
        layers: blocks.
        heads: of attention; they share `width` between them.
        width: size of a token's vector.
        dropout: share of activations dropped in training after the embedding, attention and linear layers.
        predicts: "every": what follows each token, output (batch, time, classes); "last": what follows the text, output
            (batch, classes).
    """

    layers: int = 2
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    predicts: Predicts = "every"

    def __post_init__(self) -> None:
        for name, value in {"layers": self.layers, "heads": self.heads, "width": self.width}.items():
            require(value >= 1, f"{name} must be >= 1", **{name: value})
        require(self.width % self.heads == 0, "heads must divide width", heads=self.heads, width=self.width)
        require(0 <= self.dropout < 1, "0 <= dropout < 1 must hold", dropout=self.dropout)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        tokens = check_tokens("transformer", shape, n_tokens)
        return seeded(seed, lambda: CausalTransformer(self, shape[0], tokens, n_classes))


@final
class CausalTransformer(nn.Module):
    """The module: sizes of `options`, texts of at most `time` tokens."""

    def __init__(self, options: Transformer, time: int, n_tokens: int, n_classes: int) -> None:
        super().__init__()
        width = options.width
        self.tokens, self.positions = nn.Embedding(n_tokens, width), nn.Embedding(time, width)
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.Sequential(*(_Block(options) for _ in range(options.layers)))
        self.norm = nn.LayerNorm(width)
        self.out = None if n_classes == n_tokens else nn.Linear(width, n_classes, bias=False)
        self.every = options.predicts == "every"
        self.apply(_initialise)
        for name, leaf in self.named_parameters():  # GPT-2: what is added to a sum of many parts starts smaller
            if name.endswith(("attn.out.weight", "mlp.down.weight")):
                nn.init.normal_(leaf, std=_STD / (2 * options.layers) ** 0.5)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.tokens(x) + self.positions.weight[: x.shape[-1]]
        states = self.norm(self.blocks(self.dropout(states)))
        states = states if self.every else states[:, -1]
        weight = self.tokens.weight if self.out is None else self.out.weight
        return nn.functional.linear(states, weight)


class _Block(nn.Module):
    def __init__(self, options: Transformer) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(options.width), _Attention(options)
        self.norm2, self.mlp = nn.LayerNorm(options.width), _Mlp(options)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        added: torch.Tensor = x + self.mlp(self.norm2(x))
        return added


class _Attention(nn.Module):
    def __init__(self, options: Transformer) -> None:
        super().__init__()
        width = options.width
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(options.dropout)
        self.heads = options.heads

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        out: torch.Tensor = self.dropout(self.out(mixed.transpose(-3, -2).flatten(-2)))
        return out

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to (batch, heads, time, width / heads)."""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-3, -2)


class _Mlp(nn.Module):
    def __init__(self, options: Transformer) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(options.width, 4 * options.width), nn.Linear(4 * options.width, options.width)
        self.dropout = nn.Dropout(options.dropout)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dropout(self.down(nn.functional.gelu(self.up(x), approximate="tanh")))
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
