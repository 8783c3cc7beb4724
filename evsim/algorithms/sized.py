"""A client rule whose clients have batch sizes of their own, for the cost model."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, final

import numpy as np

from evsim.algorithms.base import ClientRule, WorkBySteps
from evsim.algorithms.company import name_of
from evsim.base.errors import PolicyError, Problem, report
from evsim.base.vocabulary import IntArray
from evsim.cost.work import Work


@final
class Sized:
    """What tasks of all clients ask, each with its own batch size; arguments have one entry per client.

    Args:
        rule: the rule of all of them; its class has a field `batch_size`, and it is a `WorkBySteps`.
        sizes: samples of a mini-batch of each client, at least 1.

    Raises:
        PolicyError: if the rule has no such field.
    """

    def __init__(self, rule: ClientRule, sizes: IntArray) -> None:
        self._schedule, self._places = rule.schedule, list[IntArray]()
        self._rules: list[Any] = []
        for size in np.unique(sizes).tolist():
            self._places.append(np.flatnonzero(sizes == size))
            self._rules.append(rule if size == rule.schedule.batch_size else with_batch_size(rule, size))
        self._sizes = sizes

    def n_steps(self, n_samples: IntArray) -> IntArray:
        """Scheduled steps."""
        return self._schedule.n_steps(n_samples, size=self._sizes)

    def work(self, n_samples: IntArray) -> Work:
        """What scheduled tasks ask."""
        return self.work_of(n_samples, self.n_steps(n_samples))

    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        """What tasks of so many steps ask."""
        samples, forward = np.zeros(len(n_samples), np.int64), np.zeros(len(n_samples), np.int64)
        for places, rule in zip(self._places, self._rules, strict=True):
            some = rule.work_of(n_samples[places], steps[places])
            samples[places], forward[places] = some.samples, some.forward_samples
        return Work(samples, forward)


def with_batch_size(rule: Any, size: int) -> Any:
    """The rule with another batch size; a `WorkBySteps` as well.

    Raises:
        PolicyError: if it has none that could be changed.
    """
    has = is_dataclass(rule) and "batch_size" in {item.name for item in fields(rule)}
    changed: Any = replace(rule, batch_size=size) if has else rule
    if not isinstance(rule, WorkBySteps) or changed.schedule.batch_size != size:
        given = f"batch sizes for client rule {name_of(rule)}"
        raise PolicyError(report([Problem("work", given, "a client rule with batch_size, such as sgd or fedprox")]))
    return changed
