"""Models of text: recurrent cells written out, since torch's own cannot be vmapped over clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import Predicts, check_tokens


@final
@dataclass(frozen=True, kw_only=True)
class CharLstm(Model):
    """LEAF's model of Shakespeare: characters as vectors of 8, two layers of LSTM with 256 units, a linear layer.

    Caldas et al., LEAF: A Benchmark for Federated Settings, 2018, and its code (models/shakespeare/stacked_lstm.py). A
    gate has one bias, and that of the forget gate starts at 1, as in TensorFlow's cell: 817,872 parameters for LEAF's
    80 characters, 820,522 for 90. Input (batch, time) of token ids.

    Attributes:
        embedding: size of a character's vector.
        hidden: units of each layer.
        layers: of LSTM.
        predicts: "last": what follows the text, output (batch, classes), as in LEAF; "every": what follows each
            character, output (batch, time, classes).
    """

    embedding: int = 8
    hidden: int = 256
    layers: int = 2
    predicts: Predicts = "last"

    def __post_init__(self) -> None:
        sizes = {"embedding": self.embedding, "hidden": self.hidden, "layers": self.layers}
        for name, value in sizes.items():
            require(value >= 1, f"{name} must be >= 1", **{name: value})

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        tokens = check_tokens("char_lstm", shape, n_tokens)
        return seeded(seed, lambda: _CharLstm(self, tokens, n_classes))


class _CharLstm(nn.Module):
    def __init__(self, options: CharLstm, n_tokens: int, n_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, options.embedding)
        sizes = [options.embedding] + [options.hidden] * (options.layers - 1)
        self.layers = nn.ModuleList(_Lstm(inputs, options.hidden) for inputs in sizes)
        self.out = nn.Linear(options.hidden, n_classes)
        self.every = options.predicts == "every"

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.embedding(x)
        for layer in self.layers:
            states = layer(states)
        logits: torch.Tensor = self.out(states if self.every else states[:, -1])
        return logits


class _Lstm(nn.Module):
    """(batch, time, inputs) to (batch, time, hidden): Hochreiter and Schmidhuber 1997, with a forget gate."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.state = nn.Linear(inputs, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)
        self.hidden = hidden
        with torch.no_grad():
            self.inputs.bias.zero_()
            self.inputs.bias[hidden : 2 * hidden] = 1.0

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.inputs(x)  # of all steps at once: in, forget, new, out
        state = cell = torch.zeros_like(gates[:, 0, : self.hidden])
        weight = self.state.weight.mT  # once: stacked over clients a linear layer copies its weights at every call
        states = []
        for step in gates.unbind(1):  # one stack in the backward pass
            enter, forget, new, out = (step + state @ weight).chunk(4, -1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            state = torch.sigmoid(out) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1)
