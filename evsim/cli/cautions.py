"""Caveats on stderr, each once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from evsim.base.caveat import Caveat, CaveatWarning, as_caveat
from evsim.cli.base import complain


def caution(caveats: Iterable[Caveat]) -> None:
    """Say caveats."""
    for caveat in caveats:
        complain(f"caveat: {caveat}")


def unsaid(caveats: Iterable[Caveat], said: Iterable[Caveat]) -> list[Caveat]:
    """The caveats of other names than those that this command has said."""
    keys = {caveat.key for caveat in said}
    return [caveat for caveat in caveats if caveat.key not in keys]


@contextmanager
def cautioned() -> Iterator[list[Caveat]]:
    """Whatever runs inside says its caveats here, not as warnings of Python; gives those that were said."""
    said: list[Caveat] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", CaveatWarning)
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
            if isinstance(message, CaveatWarning):
                caveat = as_caveat(message.args[0])
                said.append(caveat)
                caution([caveat])
            else:
                plain(message, category, *rest)  # type: ignore[arg-type]  # as Python calls it

        warnings.showwarning = show  # type: ignore[assignment]  # as Python documents it; put back on leaving
        yield said
