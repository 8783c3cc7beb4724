"""How many threads one operation uses.

Threads of an operation wait for each other at its end. If a neighbour takes a core, each such wait can last as long as
the system's time slice: more than a small operation takes on one thread, a hundredfold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evsim.base.errors import require

_MOST = 1024


def check_threads(threads: int | None) -> None:
    """Refuse what torch does not take; None is torch's own setting."""
    require(threads is None or 1 <= threads <= _MOST, f"threads must be >= 1 and <= {_MOST}", threads=threads)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Run with so many threads per operation, then put the process' own setting back."""
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
