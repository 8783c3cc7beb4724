"""The slot of work: how many of the scheduled steps each client does, from what its device declares.

It is fixed once for a run, so the clock prices exactly what is trained. A client never does more than the schedule of
its client rule says: state the most there, and let this slot say who does less.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import ClientInfo, WorkBySteps
from evsim.algorithms.company import name_of
from evsim.base.errors import PolicyError, Problem, report, require
from evsim.base.policy import Policy
from evsim.base.units import Duration
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray


@final
@dataclass(frozen=True, eq=False)
class Promised:
    """What each client's device class promises of a task, ms, without jitter; one entry per client.

    Attributes:
        transfer_ms: both transfers.
        step_ms: computing a step of a whole mini-batch, or of all samples where they are fewer.
        before_ms: computing before the first step, such as a pass for the loss.
    """

    transfer_ms: FloatArray
    step_ms: FloatArray
    before_ms: FloatArray


class Workload(Policy, ABC):
    """Says how much each client does."""

    slot: ClassVar[str] = "work"

    @abstractmethod
    def steps(self, clients: ClientInfo, scheduled: IntArray, promised: Promised) -> IntArray:
        """Local steps of each client, at least 1; more than `scheduled` means all of them.

        `scheduled` and `promised` are for mini-batches of the sizes that `batch_sizes` gave.
        """

    def batch_sizes(self, clients: ClientInfo, most: int) -> IntArray:
        """Samples of a mini-batch of each client, at least 1; more than `most`, the client rule's, means `most`."""
        return np.full(len(clients), most, np.int64)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        rule, drawn = scenario.client_rule, scenario.client_rule.schedule.is_drawn
        if not isinstance(rule, WorkBySteps):
            given = f"client rule {name_of(rule)} does not say what so many steps cost"
            yield Problem("work", given, "a client rule that does, such as sgd, adam or fedprox")
        elif drawn:
            yield Problem("work", "client_rule.epochs are drawn for each task", "epochs or steps that are a number")


@final
@dataclass(frozen=True, kw_only=True)
class ByDeadline(Workload):
    """As many steps as a client's device class promises to finish in time; at least `minimum` (TimelyFL, FedProx).

    steps = floor((deadline - transfers - work before the first step) / time of a step).

    Attributes:
        deadline: from dispatch to the report's arrival.
        minimum: steps of those who would not even finish these.
    """

    deadline: Duration
    minimum: int = 1

    def __post_init__(self) -> None:
        require(self.deadline > 0, "deadline must be > 0", deadline=self.deadline)
        require(self.minimum >= 1, "minimum must be >= 1", minimum=self.minimum)

    @override
    def steps(self, clients: ClientInfo, scheduled: IntArray, promised: Promised) -> IntArray:
        left = self.deadline - promised.transfer_ms - promised.before_ms
        fit = np.floor(left / np.maximum(promised.step_ms, 1e-9))
        return np.clip(fit, self.minimum, np.maximum(scheduled, self.minimum)).astype(np.int64)


@final
@dataclass(frozen=True, kw_only=True)
class ByClass(Workload):
    """Shares of the schedule by speed class: clients sorted by computing speed, in classes of equal size.

    Attributes:
        shares: of the scheduled steps, in (0, 1], fastest class first; rounded up. Without them everybody does all.
        batch_sizes_of: samples of a mini-batch by class, fastest first, at most those of the client rule; without them
            everybody has those. Smaller ones mean more steps in a pass.
    """

    shares: tuple[float, ...] = ()
    batch_sizes_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = len(self.shares) + len(self.batch_sizes_of)
        require(given > 0, "shares must not be empty, or batch_sizes_of be given")
        require(all(0 < each <= 1 for each in self.shares), "shares must lie in (0, 1]", shares=self.shares)
        sizes = self.batch_sizes_of
        require(all(each >= 1 for each in sizes), "batch_sizes_of must be >= 1", batch_sizes_of=sizes)

    @override
    def batch_sizes(self, clients: ClientInfo, most: int) -> IntArray:
        if not self.batch_sizes_of:
            return super().batch_sizes(clients, most)
        if max(self.batch_sizes_of) > most:
            raise _too_large("work.batch_sizes_of", max(self.batch_sizes_of), most)
        return np.array(self.batch_sizes_of, np.int64)[speed_class(clients, len(self.batch_sizes_of))]

    @override
    def steps(self, clients: ClientInfo, scheduled: IntArray, promised: Promised) -> IntArray:
        if not self.shares:
            return scheduled
        share = np.array(self.shares)[speed_class(clients, len(self.shares))]
        return np.ceil(np.round(share * scheduled, 9)).astype(np.int64)


@final
@dataclass(frozen=True, kw_only=True)
class ByColumn(Workload):
    """What a column of the speed trace says of a client's device; `population.speed.columns` has to ask for it.

    Attributes:
        steps_in: the column of the local steps, whole numbers >= 1; more than are scheduled are all of them.
        share_in: instead, the column of the shares of the scheduled steps, in (0, 1]; rounded up.
        batch_size_in: the column of the samples of a mini-batch, whole numbers from 1 to those of the client rule.
    """

    steps_in: str | None = None
    share_in: str | None = None
    batch_size_in: str | None = None

    def __post_init__(self) -> None:
        steps, share = self.steps_in, self.share_in
        given = (steps is not None) + (share is not None)
        require(given < 2, "one of steps_in and share_in is needed, not both", steps_in=steps, share_in=share)  # noqa: PLR2004
        require(given > 0 or self.batch_size_in is not None, "steps_in, share_in or batch_size_in is needed")

    @override
    def batch_sizes(self, clients: ClientInfo, most: int) -> IntArray:
        if self.batch_size_in is None:
            return super().batch_sizes(clients, most)
        sizes = column_of(clients, self.batch_size_in, "work.batch_size_in")
        usable = _whole(sizes) & (sizes <= most)
        expected = f"a whole number from 1 to client_rule.batch_size, {most}"
        _refuse_unusable(clients, sizes, usable, f"column {self.batch_size_in!r}", expected)
        return np.where(usable, sizes, most).astype(np.int64)

    @override
    def steps(self, clients: ClientInfo, scheduled: IntArray, promised: Promised) -> IntArray:
        if self.share_in is not None:
            share = column_of(clients, self.share_in, "work.share_in")
            usable, expected = (share > 0) & (share <= 1), "a share in (0, 1]"
            _refuse_unusable(clients, share, usable, f"column {self.share_in!r}", expected)
            return np.ceil(np.round(np.where(usable, share, 1) * scheduled, 9)).astype(np.int64)
        if self.steps_in is None:
            return scheduled
        steps = column_of(clients, self.steps_in, "work.steps_in")
        usable = _whole(steps)
        _refuse_unusable(clients, steps, usable, f"column {self.steps_in!r}", "a whole number >= 1")
        return np.minimum(np.where(usable, steps, 1), scheduled).astype(np.int64)


def column_of(clients: ClientInfo, name: str, key: str) -> FloatArray:
    """A further column of the speed trace, one number per client.

    Raises:
        PolicyError: if `population.speed.columns` did not ask for it; `key` says who wants it.
    """
    if name not in clients.more:
        asked = ", ".join(clients.more) or "none"
        hint = f"write population.speed = {{ path = ..., columns = [{name!r}] }}"
        raise PolicyError(report([Problem(key, f"column {name!r}", f"a column that is read ({asked})", hint)]))
    return clients.more[name]


def _whole(values: FloatArray) -> BoolArray:
    return np.asarray((values >= 1) & (values == np.floor(values)) & np.isfinite(values))


def _too_large(where: str, given: int, most: int) -> PolicyError:
    hint = "state the largest in client_rule.batch_size"
    return PolicyError(report([Problem(where, str(given), f"at most client_rule.batch_size, {most}", hint)]))


def _refuse_unusable(clients: ClientInfo, given: FloatArray, usable: BoolArray, where: str, expected: str) -> None:
    """Raise an error for the first client with data and a value that means nothing."""
    if len(bad := np.flatnonzero(~usable & (clients.samples > 0))):
        client = int(bad[0])
        value = "nothing" if np.isnan(given[client]) else f"{given[client]:g}"
        device = int(clients.device[client])
        raise PolicyError(report([Problem(f"work: {where}", f"{value} for device {device}", expected)]))


def speed_class(clients: ClientInfo, n_classes: int) -> IntArray:
    """The class of each client with data, fastest first, in classes of equal size; equal ones by id. Others: the last.

    >>> info = ClientInfo.unknown(np.array([5, 5, 0, 5, 5]))
    >>> from dataclasses import replace
    >>> speed_class(replace(info, compute_ms=np.array([9.0, 1.0, 3.0, 4.0, 4.0])), 2).tolist()
    [1, 0, 1, 0, 1]
    """
    having = np.flatnonzero(clients.samples > 0)
    order = having[np.argsort(clients.compute_ms[having], kind="stable")]
    found = np.full(len(clients), n_classes - 1, np.int64)
    found[order] = np.arange(len(order)) * n_classes // max(len(order), 1)
    return found


def checked_batch_sizes(work: Workload, clients: ClientInfo, most: int) -> IntArray:
    """Samples of a mini-batch of each client, no more than `most`.

    Raises:
        PolicyError: if they are not one integer >= 1 per client.
    """
    found = work.batch_sizes(clients, most)
    _check_integers(f"work {name_of(work)}.batch_sizes", found, len(clients))
    if len(empty := np.flatnonzero((found < 1) & (clients.samples > 0))):
        client = int(empty[0])
        given = f"{int(found[client])} samples for client {client}"
        raise PolicyError(report([Problem(f"work {name_of(work)}.batch_sizes", given, "at least 1")]))
    return np.clip(found, 1, most).astype(np.int64)


def _check_integers(where: str, found: object, n: int) -> None:
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.shape != (n,):
        given = f"{type(found).__name__} {getattr(found, 'shape', '')} {getattr(found, 'dtype', '')}".strip()
        raise PolicyError(report([Problem(where, given, f"an array of {n} integers")]))


def checked_steps(work: Workload, clients: ClientInfo, scheduled: IntArray, promised: Promised) -> IntArray:
    """Steps of each client, no more than are scheduled.

    Raises:
        PolicyError: if a client with data would do less than one.
    """
    found = work.steps(clients, scheduled, promised)
    where = f"work {name_of(work)}.steps"
    _check_integers(where, found, len(scheduled))
    idle = np.flatnonzero((found < 1) & (clients.samples > 0))
    if len(idle):
        client = int(idle[0])
        given = f"{int(found[client])} steps for client {client}"
        raise PolicyError(report([Problem(where, given, "at least 1", "a client without work has nothing to report")]))
    return np.minimum(found, scheduled).astype(np.int64)
