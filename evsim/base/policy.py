"""What a policy says about the company it is in: what cannot work with it, and what only seems to.

Every slot's abstract class is a `Policy`, so a plug-in speaks for itself as a built-in policy does, and no list
elsewhere has to know it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from evsim.base.caveat import Caveat
    from evsim.base.errors import Problem


class Policy:
    """A value that decides something in a scenario; by default it fits everywhere.

    Both methods get the whole scenario, its tables and slots as attributes (`scenario.aggregation`, `scenario.merge`).
    They are asked when every table could be made, before anything is opened: a policy looks, and never loads.
    """

    def problems(self, scenario: Any) -> Iterable[Problem]:
        """What makes the scenario impossible; `where` is a dotted key, such as "merge.cohort"."""
        return ()

    def caveats(self, scenario: Any) -> Iterable[Caveat]:
        """What runs, but cannot mean what it seems to."""
        return ()


def policies(value: object) -> Iterator[Policy]:
    """Every policy in a scenario, in the order of its fields: in tables, in chains and inside other policies too.

    >>> from evsim.algorithms.clip import Clip
    >>> from evsim.algorithms.int8 import Int8
    >>> [type(each).__name__ for each in policies((Clip(max_norm=1.0), (Int8(), "text")))]
    ['Clip', 'Int8']
    """
    if isinstance(value, Policy):
        yield value
    if isinstance(value, tuple | list):
        for each in value:
            yield from policies(each)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from policies(getattr(value, item.name))
