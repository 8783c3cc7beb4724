"""The global generators of NumPy and Python, while a user's code runs that may draw from them."""

from __future__ import annotations

import random  # noqa: TID251  not drawn from: a user's code may, and then its draws must have names
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def seeded_generators(key: int) -> Iterator[None]:
    """Seed them by a key of names, and put them back."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(key)
    np.random.seed(key % (1 << 32))  # noqa: NPY002, TID251
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
