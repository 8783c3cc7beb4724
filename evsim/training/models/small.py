"""Small models: frozen policies that build a `torch.nn.Module` for the shape of the data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import Norm, Predicts, check_image, check_tokens, norm


@final
@dataclass(frozen=True, kw_only=True)
class Softmax(Model):
    """Multinomial logistic regression on the flattened input."""

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        return seeded(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), n_classes)))


@final
@dataclass(frozen=True, kw_only=True)
class Mlp(Model):
    """Fully connected layers with ReLU.

    Attributes:
        hidden: width of each hidden layer.
        dropout: share of hidden units dropped in training.
    """

    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(all(width >= 1 for width in self.hidden), "hidden widths must be >= 1", hidden=self.hidden)
        require(0 <= self.dropout < 1, "0 <= dropout < 1 must hold", dropout=self.dropout)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        def make() -> nn.Module:
            layers: list[nn.Module] = [nn.Flatten()]
            width = prod(shape)
            for hidden in self.hidden:
                layers += [nn.Linear(width, hidden), nn.ReLU()]
                layers += [nn.Dropout(self.dropout)] if self.dropout else []
                width = hidden
            return nn.Sequential(*layers, nn.Linear(width, n_classes))

        return seeded(seed, make)


@final
@dataclass(frozen=True, kw_only=True)
class Cnn(Model):
    """Two convolutions, each with ReLU and 2x2 pooling, and one hidden layer; any image size from 4x4.

    The default on 28x28 is the model of McMahan et al. 2017: conv 5x5 32, pool, conv 5x5 64, pool, 3136-512-classes,
    1,663,370 parameters for 10 classes. `femnist_cnn` is LEAF's.

    Attributes:
        channels: of the two convolutions.
        hidden: width of the hidden layer.
        kernel: side of the convolution kernels, odd.
        norm: what follows each convolution.
        dropout: share of hidden units dropped in training.
    """

    channels: tuple[int, int] = (32, 64)
    hidden: int = 512
    kernel: int = 5
    norm: Norm = "none"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(min(self.channels) >= 1, "channels must be >= 1", channels=self.channels)
        require(self.hidden >= 1, "hidden must be >= 1", hidden=self.hidden)
        require(self.kernel >= 1 and self.kernel % 2 == 1, "kernel must be odd", kernel=self.kernel)
        require(0 <= self.dropout < 1, "0 <= dropout < 1 must hold", dropout=self.dropout)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        check_image("cnn", shape, 4)  # two poolings halve twice

        def make() -> nn.Module:
            first, second = self.channels
            flat = second * (shape[1] // 4) * (shape[2] // 4)
            return nn.Sequential(
                *self._block(shape[0], first),
                *self._block(first, second),
                nn.Flatten(),
                nn.Linear(flat, self.hidden),
                nn.ReLU(),
                *([nn.Dropout(self.dropout)] if self.dropout else []),
                nn.Linear(self.hidden, n_classes),
            )

        return seeded(seed, make)

    def _block(self, inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, self.kernel, padding=self.kernel // 2)
        normed = [] if self.norm == "none" else [norm(self.norm, outputs)]
        return [convolution, *normed, nn.ReLU(), nn.MaxPool2d(2)]


@final
@dataclass(frozen=True, kw_only=True)
class Gru(Model):
    """Embedding, one GRU layer and a linear layer on its last state: the next character of a text.

    Attributes:
        embedding: size of a character's vector.
        hidden: size of the state.
        predicts: "last": what follows the text; "every": what follows each character, output (batch, time, classes).
    """

    embedding: int = 8
    hidden: int = 64
    predicts: Predicts = "last"

    def __post_init__(self) -> None:
        require(
            self.embedding >= 1 and self.hidden >= 1, "sizes must be >= 1", embedding=self.embedding, hidden=self.hidden
        )

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        tokens = check_tokens("gru", shape, n_tokens)
        sizes = tokens, self.embedding, self.hidden, n_classes
        return seeded(seed, lambda: _GruClassifier(*sizes, per_step=self.predicts == "every"))


class _GruClassifier(nn.Module):
    """The cell is written out (Cho et al. 2014, PyTorch's gates), since nn.GRU cannot be vmapped over clients."""

    def __init__(self, n_tokens: int, embedding: int, hidden: int, n_classes: int, *, per_step: bool) -> None:
        super().__init__()
        self.per_step = per_step
        self.embedding = nn.Embedding(n_tokens, embedding)
        self.inputs = nn.Linear(embedding, 3 * hidden)
        self.state = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, n_classes)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reset_in, update_in, new_in = self.inputs(self.embedding(x)).chunk(3, -1)  # (batch, time, hidden) each
        state = torch.zeros_like(new_in[:, 0])
        states = []
        steps = (each.unbind(1) for each in (reset_in, update_in, new_in))  # one stack in the backward pass
        for reset_step, update_step, new_step in zip(*steps, strict=True):
            reset_state, update_state, new_state = self.state(state).chunk(3, -1)
            reset = torch.sigmoid(reset_step + reset_state)
            update = torch.sigmoid(update_step + update_state)
            new = torch.tanh(new_step + reset * new_state)
            state = new + update * (state - new)
            states.append(state)
        logits: torch.Tensor = self.out(torch.stack(states, 1) if self.per_step else state)
        return logits
