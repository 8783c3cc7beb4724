"""A scenario tried out in small before it is run: what `evsim check` calls fine, runs.

Everything that a run opens is open already, and every client priced (`assembly.open_all`). Here
aggregation and selection make a few server steps without training (`rehearsal`), and a few clients train a few
mini-batches, serially and in memory, through every slot of the method up to an evaluation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.schedule import last_batches_of_one
from evsim.base.caveat import Caveat
from evsim.base.culprit import explain
from evsim.base.errors import EvsimError, TrainingError
from evsim.base.user_code import said
from evsim.base.vocabulary import IntArray
from evsim.run.assembly import learning_of
from evsim.run.rehearsal import rehearse
from evsim.run.suspects import suspects
from evsim.timeline.audience import Audience
from evsim.training.executors.base import Executor, Job, Runner
from evsim.training.executors.probe import batch_of_one
from evsim.training.executors.serial import Serial

if TYPE_CHECKING:
    from evsim.run.assembly import Opened
    from evsim.scenario import Scenario
    from evsim.training.data.base import FederatedData

_STEPS = 2  # a full mini-batch and the last one of a pass
_TESTED = 64  # samples of the test set
_MOST_REPORTS = 64  # a merge that needs more updates than these is not tried


def try_out(scenario: Scenario, opened: Opened) -> tuple[Caveat, ...]:
    """Make the listeners, choose and train in small; what it is worth saying about that.

    Raises:
        EvsimError: if something does not work.
    """
    try:
        Audience([spec.make() for spec in scenario.listener])
        played = tuple(rehearse(scenario, opened))
        return played if opened.model is None else (*played, *_train(scenario, opened))
    except EvsimError:
        raise
    except Exception as error:  # of a plug-in, or of a combination that nobody thought of
        text = explain(error) or f"a first server step in small failed: {said(error)}"
        raise TrainingError(text) from error


def _train(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    data, schedule = opened.data, scenario.client_rule.schedule
    if data is None:
        return
    batch = np.full(len(opened.samples), schedule.batch_size)
    if opened.own is not None:
        batch = opened.own.batch_sizes(schedule.batch_size)
    watched = _Watched(jobs=[])
    learning = learning_of(scenario, replace(opened, data=_cut(data, batch)), watched)
    try:
        samples = opened.samples
        alone = batch_of_one(watched.jobs[0], samples, batch)
        if alone is not None:
            yield alone
            spared = np.where(last_batches_of_one(schedule, samples, batch), 0, samples)
            samples = spared if spared.any() else samples
        chosen = chosen_clients(samples, batch)
        clients = np.resize(chosen, min(max(scenario.merge.minimum_updates, len(chosen)), _MOST_REPORTS))
        tasks = np.arange(len(clients))
        if len(clients) < scenario.merge.minimum_updates:
            return
        learning.dispatched(tasks, clients, np.zeros_like(tasks), np.full_like(tasks, _STEPS))
        heard = learning.apply(tasks)
        learning.evaluate(scenario.evaluation.batch_size)
    finally:
        learning.close()
    if not heard.valid.any():
        yield Caveat(
            "diverges_at_once",
            "the first mini-batches give no finite update: nothing would be learnt",
            f"clients {', '.join(map(str, chosen))}",
            "lower client_rule.learning_rate, or look at the inputs and the model"
            + suspects(tomllib.loads(scenario.to_toml())),
        )


@final
@dataclass(frozen=True, kw_only=True)
class _Watched(Executor):
    """Serial, and shows the job it was given."""

    jobs: list[Job]

    @override
    def open(self, job: Job) -> Runner:
        self.jobs.append(job)
        return Serial(threads=1).open(job)


def chosen_clients(samples: IntArray, batch_size: IntArray | int) -> IntArray:
    """The client with the least data, the one with the most, and one whose last mini-batch holds a single sample.

    >>> chosen_clients(np.array([0, 7, 3, 20, 11]), 5).tolist()
    [2, 3, 4]
    """
    having = np.flatnonzero(samples > 0)
    sizes, batch = samples[having], np.broadcast_to(batch_size, samples.shape)[having]
    found = [int(having[sizes.argmin()]), int(having[sizes.argmax()])]
    single = having[(sizes % batch == 1) & (batch > 1)]
    return np.array(list(dict.fromkeys([*found, *single[:1].tolist()])), np.int64)


def _cut(data: FederatedData, batch_size: IntArray) -> FederatedData:
    """Of every client only a full mini-batch and the last one of a pass; of the test set only its first samples."""
    sizes = data.sizes
    rest = np.where(sizes % batch_size, sizes % batch_size, batch_size)
    kept = np.where(sizes > batch_size, np.minimum(sizes, batch_size + rest), sizes)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)
    index = data.index[np.repeat(data.offsets[:-1], kept) + within]
    return replace(data, index=index, offsets=offsets, x_test=data.x_test[:_TESTED], y_test=data.y_test[:_TESTED])
