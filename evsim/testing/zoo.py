"""Modules as people write them: what executors must train all alike, and what they must refuse.

Every entry takes 8x8 images with one channel and gives logits of 5 classes. Modules draw their weights from torch's
global generator; `made` seeds it.
"""

from __future__ import annotations

import random  # noqa: TID251  a user's module may
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

SIDE = 8
N_CLASSES = 5
_PIXELS = SIDE * SIDE
_WIDE = 6


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


class Two(nn.Module):
    """Two linear layers; `between` is what subclasses change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(_PIXELS, _WIDE), nn.Linear(_WIDE, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.b(self.between(torch.tanh(self.a(x.flatten(1)))))
        return logits

    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of hidden activations."""
        return hidden


class Frozen(Two):
    """The first layer keeps its weights; so does one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a.requires_grad_(requires_grad=False)
        self.b.bias.requires_grad = False


class Unused(Two):
    """Has a layer that no forward pass uses, and a scalar and an empty parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.empty = nn.Linear(3, 3), nn.Parameter(torch.zeros(0, 4))
        self.scale = nn.Parameter(torch.tensor(1.5))

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.scale


class Masked(Two):
    """A boolean mask and a table of integers that never change, and one of them outside of the state dict."""

    mask: torch.Tensor
    order: torch.Tensor
    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(_WIDE) % 3 > 0)
        self.register_buffer("order", torch.arange(_WIDE - 1, -1, -1))
        self.register_buffer("shift", torch.linspace(0, 1, _WIDE), persistent=False)

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, self.order] * self.mask + self.shift


class Flagged(Two):
    """Sets a boolean buffer in its first pass and scales by it afterwards; counts passes outside of the state dict."""

    ready: torch.Tensor
    passes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        scaled = torch.where(self.ready, 1 / (1 + self.passes), 1.0) * hidden
        self.ready = torch.ones_like(self.ready)
        self.passes = self.passes + 1
        return scaled


class Narrow(Two):
    """Counts down in unsigned bytes, and up in place."""

    left: torch.Tensor
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("left", torch.full((3,), 200, dtype=torch.uint8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int32))

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.left = self.left - 1
            self.steps += 1
        return hidden


class Tied(nn.Module):
    """One matrix in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(_PIXELS, _WIDE), nn.Linear(_PIXELS, _WIDE, bias=False)
        self.b.weight = self.a.weight
        self.out = nn.Linear(2 * _WIDE, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        logits: torch.Tensor = self.out(torch.cat([torch.tanh(self.a(x)), torch.sin(self.b(x.flip(1)))], 1))
        return logits


class StillNorm(Two):
    """BatchNorm and dropout that the author has put into evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(_WIDE).eval()
        self.drop = nn.Dropout(0.5).eval()

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.drop(self.norm(hidden))
        return normed


class StillByTrain(StillNorm):
    """The same by a ``train`` method of its own."""

    def __init__(self) -> None:
        super().__init__()
        super().train()

    @override
    def train(self, mode: bool = True) -> StillByTrain:
        super().train(mode)
        self.norm.eval()
        self.drop.eval()
        return self


class Sparse(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(3, 4, sparse=True), nn.Linear(4, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.table((x.flatten(1) > 0).long() + (x.flatten(1) > 1).long()).sum(1))
        return logits


class Remembering(Two):
    """Keeps what it saw last for its author to look at, and never uses it."""

    seen: torch.Tensor | None = None

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen = hidden.detach()
        return hidden


class Branching(Two):
    """Looks at numbers to decide what to do."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if float(hidden.detach().sum()) > 0 else 2 * hidden


class _Doubled(torch.autograd.Function):
    """A function that cannot be vmapped."""

    @staticmethod
    @override
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Any) -> Any:
        return 2 * grads[0]


class OwnFunction(Two):
    """A derivative of its own."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = _Doubled.apply(hidden)  # type: ignore[no-untyped-call]
        return doubled


class Listed(Two):
    """Parameters in a list and a dictionary of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(_WIDE)) for _ in range(2)])
        self.shifts = nn.ParameterDict({"one": nn.Parameter(torch.rand(_WIDE))})

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = hidden * self.scales[0] + self.shifts["one"] - self.scales[1]
        return moved


class LowRank(nn.Module):
    """A parametrization that adds a trained product of two small matrices to a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.rand(2, _PIXELS)), nn.Parameter(torch.rand(_WIDE, 2))

    @override
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def _adapted() -> nn.Module:
    model = Two()
    model.a.requires_grad_(requires_grad=False)
    register_parametrization(model.a, "weight", LowRank())
    return model


class Attention(nn.Module):
    """A transformer layer over the rows of an image, with its own dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(SIDE, 2, 16, dropout=dropout, batch_first=True)
        self.out = nn.Linear(SIDE, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.layer(x.squeeze(1)).mean(1))
        return logits


class FunctionalDropout(Two):
    """Drops in evaluation mode, too: ``training=True`` is the default of the function."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(hidden, 0.3)


class Noisy(Two):
    """Adds noise from torch's, NumPy's and Python's global generators, in every mode."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        outside = random.random() + np.random.rand()  # noqa: NPY002, S311
        return hidden + 0.1 * torch.rand_like(hidden) + 0.1 * outside


class SometimesNoisy(Two):
    """Draws only for full mini-batches of 3 and only in training."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.rand_like(hidden) if self.training and len(hidden) == 3 else hidden


def _layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(_PIXELS, _WIDE), *between, nn.Linear(_WIDE, N_CLASSES))


def _normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    first = norm(nn.Linear(_PIXELS, _WIDE))
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(_WIDE, N_CLASSES))


def _older(norm: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """A function of torch that tells us to use a newer one."""

    def quietly(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module)

    return quietly


#: Modules that any executor may batch or not, but must train alike.
ZOO: dict[str, Callable[[], nn.Module]] = {
    "frozen": Frozen,
    "unused": Unused,
    "masked": Masked,
    "flagged": Flagged,
    "narrow": Narrow,
    "tied": Tied,
    "still_norm": StillNorm,
    "still_by_train": StillByTrain,
    "all_still": lambda: Two().eval(),
    "sparse": Sparse,
    "remembering": Remembering,
    "branching": Branching,
    "own_function": OwnFunction,
    "listed": Listed,
    "low_rank": _adapted,
    "half": lambda: Two().half(),
    "weight_norm": lambda: _normed(parametrizations.weight_norm),
    "spectral_norm": lambda: _normed(parametrizations.spectral_norm),
    "orthogonal": lambda: _normed(parametrizations.orthogonal),
    "older_weight_norm": lambda: _normed(_older(weight_norm)),
    "older_spectral_norm": lambda: _normed(_older(spectral_norm)),
    "cumulative_norm": lambda: _layers(nn.BatchNorm1d(_WIDE, momentum=None)),
    "stateless_norm": lambda: _layers(nn.BatchNorm1d(_WIDE, track_running_stats=False)),
    "attention": lambda: Attention(0.0),
    "shared_dropout": lambda: _layers(*[nn.Dropout(0.3)] * 2),
}
#: Modules that draw from global generators.
STOCHASTIC: dict[str, Callable[[], nn.Module]] = {
    "functional_dropout": FunctionalDropout,
    "noisy": Noisy,
    "sometimes_noisy": SometimesNoisy,
    "alpha_dropout": lambda: _layers(nn.AlphaDropout(0.3)),
    "randomized_relu": lambda: _layers(nn.RReLU()),
    "attention_dropout": lambda: Attention(0.2),
}


class Counting(Two):
    """Refused: counts its calls in an attribute and uses the count."""

    calls = 0

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return hidden * self.calls


class OwnGenerator(Two):
    """Refused: draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + float(self.generator.random())


class Aliased(Two):
    """Refused: uses a parameter through a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = [self.b.weight]

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.a(x.flatten(1))) @ self.mine[0].T


class Clamped(Two):
    """Refused: changes its parameters in the forward pass."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        self.b.weight.data.clamp_(-0.1, 0.1)
        return hidden


class Centred(Two):
    """Refused: subtracts the mean of the first mini-batch it ever saw, kept in a buffer that does not exist before."""

    centre: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", None)

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.centre is None:
            self.centre = hidden.detach().mean(0)
        return hidden - self.centre


class Growing(Two):
    """Refused: a buffer gets longer with every pass."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, hidden.detach()[0, :1]])
        return hidden


class Auxiliary(Two):
    """Refused: gives two outputs in training mode."""

    @override
    def forward(self, x: torch.Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Complex(Two):
    """Refused: has complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(_WIDE, dtype=torch.complex64))

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden * self.turn).abs()


class Failing(Two):
    """Refused: raises in training mode."""

    @override
    def between(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise LookupError("no such thing")
        return hidden


class Renormed(Sparse):
    """Refused: an embedding that rescales its own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, max_norm=0.5)


#: Modules that are refused before any training, with a part of the sentence.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counting": (Counting, "another output for the same parameters"),
    "own_generator": (OwnGenerator, "another output for the same parameters"),
    "centred": (Centred, "another output for the same parameters"),
    "growing": (Growing, "a forward pass after which buffer 'seen' is float64 of shape (1,); expected float64 of"),
    "aliased": (Aliased, "another result once its parameters are exchanged"),
    "clamped": (Clamped, "a forward pass that changes parameter 'b.weight'"),
    "renormed": (Renormed, "a forward pass that changes parameter 'table.weight'"),
    "auxiliary": (Auxiliary, "tuple in training mode for 4 samples"),
    "complex": (Complex, "'turn' of complex numbers; expected real ones"),
    "failing": (Failing, "LookupError: no such thing"),
    "all_frozen": (lambda: Two().requires_grad_(requires_grad=False), "every parameter has requires_grad = False"),
    "nothing": (nn.Flatten, "no parameters"),
    "lazy": (lambda: _layers(nn.LazyLinear(_WIDE)), "not initialised"),
}


class Picky(Two):
    """Fails at a sample above 1000."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > TOO_MUCH:
            self.complain()
        return super().forward(x.clamp(max=3.0))

    def complain(self) -> None:
        """Fail."""
        raise LookupError("too much\nof it")


class PickyOutput(Picky):
    """Gives no logits there."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = Two.forward(self, x.clamp(max=3.0))
        return logits[:, :0] if float(x.max()) > TOO_MUCH else logits


class _FailsBackwards(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, hidden: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.fails = float(x.max()) > TOO_MUCH
        return hidden.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Any) -> Any:
        if ctx.fails:
            raise LookupError("too much, backwards")
        return grads[0], None


class PickyBackwards(Two):
    """Fails there in the backward pass."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = _FailsBackwards.apply(super().forward(x.clamp(max=3.0)), x)  # type: ignore[no-untyped-call]
        return logits


TOO_MUCH = 1000
#: Modules that fail at a sample above `TOO_MUCH`, and "norm", which fails at a mini-batch of one.
FAILING: dict[str, Callable[[], nn.Module]] = {
    "picky": Picky,
    "picky_output": PickyOutput,
    "picky_backwards": PickyBackwards,
    "norm": lambda: _layers(nn.BatchNorm1d(_WIDE)),
}
