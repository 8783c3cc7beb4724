"""Caveats on stderr, each once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from evsim.base.caveat import Caveat, CaveatWarning
from evsim.cli.base import complain


def caution(caveats: Iterable[Caveat]) -> None:
    """Say caveats."""
    for caveat in caveats:
        complain(f"caveat: {caveat}")


@contextmanager
def cautioned() -> Iterator[None]:
    """Whatever runs inside says its caveats here, not as warnings of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CaveatWarning)
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
            if issubclass(category, CaveatWarning):
                complain(f"caveat: {message}")
            else:
                plain(message, category, *rest)  # type: ignore[arg-type]  # as Python calls it

        warnings.showwarning = show  # type: ignore[assignment]  # as Python documents it; put back on leaving
        yield
