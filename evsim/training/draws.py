"""Draws that a module takes from the global generators of torch, NumPy and Python, given names.

A module may draw with ``torch.rand``, ``nn.functional.dropout`` or ``random.random``. Wherever evsim runs a module, the
generators are seeded by a key of names and put back afterwards, so its draws are a function of the seed as all others.
"""

from __future__ import annotations

import pickle
import random  # noqa: TID251  not drawn from: a user's module may, and then its draws must have names
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from evsim.base.draws import seeded_generators

_SEEDS = 1 << 63


@contextmanager
def named_draws(key: int, device: torch.device, others: bool = True) -> Iterator[None]:  # noqa: FBT001, FBT002
    """Seed the global generators by a key and put them back; `others`: those of NumPy and Python, too."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(key % _SEEDS)  # torch.manual_seed would reseed every GPU
        if device.type == "cuda":
            torch.cuda.manual_seed(key % _SEEDS)
        if not others:
            yield
            return
        with seeded_generators(key):
            yield


def torch_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that a module on this device draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def drawn_from(run: Callable[[], Any], device: torch.device) -> tuple[bool, bool]:
    """Whether `run` draws from torch's generator, and whether from NumPy's or Python's; all are put back."""
    with named_draws(0, device):
        before, others = torch_state(device), _others()
        run()
        return not torch.equal(before, torch_state(device)), others != _others()


def _others() -> object:
    return random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002
