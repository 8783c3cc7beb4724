"""A selector in one readable method: `score` looks at one client at a time.

For ideas and teaching. It costs a Python call per idle client and selection (about a millisecond per thousand);
a selector for a million clients works on the arrays of the view instead.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import PolicyError, Problem, report
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import largest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, slots=True)
class ClientRecord:
    """What the server knows of one client.

    Attributes:
        client: id.
        samples: declared data size.
        declared_ms: task duration promised by the device class, ms; NaN if unknown.
        selected, successes, failures: tasks given, reports used, tasks that ended otherwise.
        last_duration_ms: of the last report, late ones included; NaN before the first.
        last_utility: of the last report that had one; NaN before the first, or if `needs_utility` is False.
    """

    client: int
    samples: int
    declared_ms: float
    selected: int
    successes: int
    failures: int
    last_duration_ms: float
    last_utility: float


class PerClient(Selector[None]):
    """Takes the idle clients with the highest score, ties in random order.

    >>> from evsim.timeline.manager import ClientManager
    >>> class Fastest(PerClient):
    ...     def score(self, client: ClientRecord, view: ClientView) -> float:
    ...         return -client.declared_ms
    >>> manager = ClientManager(Fastest(), n_clients=3, seed=0)
    >>> manager.register_client(np.arange(3), now=0, declared_ms=np.array([30.0, 10.0, 20.0]))
    >>> manager.select_clients(2, now=0).tolist()
    [1, 2]
    """

    @abstractmethod
    def score(self, client: ClientRecord, view: ClientView) -> float:
        """How much this idle client is wanted; not NaN."""

    @final
    @override
    def init(self, n_clients: int) -> None:
        return None

    @final
    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        idle = view.idle
        scores = np.array([self.score(record, view) for record in _records(view, idle)])
        self._check(idle, scores)
        return largest(idle, scores, n, key), None

    @final
    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None

    @override
    def told(self, state: None, view: ClientView, chosen: IntArray) -> Mapping[str, float | FloatArray]:
        return {"score": np.array([self.score(record, view) for record in _records(view, chosen)])}

    def _check(self, idle: IntArray, scores: FloatArray) -> None:
        if np.isnan(scores).any():
            client = int(idle[np.isnan(scores)][0])
            where, given = f"{type(self).__name__}.score", f"NaN for client {client}"
            hint = "declared_ms, last_duration_ms and last_utility are NaN where nothing is known"
            raise PolicyError(report([Problem(where, given, "a number", hint)]))


def _records(view: ClientView, clients: IntArray) -> list[ClientRecord]:
    columns = (
        view.samples,
        view.declared_ms,
        view.selected,
        view.successes,
        view.failures,
        view.last_duration_ms,
        view.last_utility,
    )
    lists = [column[clients].tolist() for column in columns]
    return [ClientRecord(*values) for values in zip(clients.tolist(), *lists, strict=True)]
