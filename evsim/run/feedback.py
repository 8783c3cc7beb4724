"""What flows from learning to the timeline, in order: kept while a model is trained, to be replayed without.

All that the timeline ever learns of the learning side are answers to six questions (`_Kind`). Those since the last
checkpoint wait in memory; a checkpoint brings them to the disk as one Arrow file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import numpy as np
import pyarrow as pa

from evsim.base.errors import ResumeError
from evsim.base.vocabulary import Feedback, FloatArray, IntArray

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_Kind = Literal["train", "apply", "losses", "metrics", "client_metrics", "diverged"]
_NOBODY = np.empty(0, np.int64)
_LAYOUT = pa.schema(
    [
        ("kind", pa.string()),
        ("asked", pa.list_(pa.int64())),
        ("names", pa.list_(pa.string())),
        ("values", pa.list_(pa.float64())),
        ("valid", pa.list_(pa.bool_())),
        ("weight", pa.list_(pa.float64())),
    ]
)


@final
@dataclass(frozen=True, eq=False)
class Answer:
    """One answer of the learning side.

    Attributes:
        kind: what was asked for.
        asked: the tasks of "train" and "apply", the clients of "losses" and "client_metrics".
        values: utilities, losses, metrics (of clients one metric after the other); 1.0 if diverged.
        names: of metrics.
        valid, weight: of "train" and "apply"; no weight where the merge tells none.
    """

    kind: _Kind
    asked: IntArray
    values: FloatArray
    names: Sequence[str] = ()
    valid: Any = ()
    weight: FloatArray | None = None

    @property
    def feedback(self) -> Feedback:
        """The answer to "train" and "apply"."""
        return Feedback(self.asked, self.values, np.asarray(self.valid, np.bool_), self.weight)


class Learner(Protocol):
    """The learning side, as far as a run asks it anything while the clock moves."""

    @property
    def diverged(self) -> bool:
        """Whether the current version is not finite."""

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        """Fix the inputs of new tasks."""

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks."""

    def train(self, tasks: IntArray) -> Feedback:
        """Train now."""

    def apply(self, tasks: IntArray, *, by: str, goal: int) -> Feedback:
        """Train, merge, step."""

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        """Losses of the current model."""


@final
class Telling:
    """The learning side as the timeline sees it (a `LearningPort`): a journal answers first, then training.

    Args:
        learning: trains.
        breakable: wraps what may be broken off.
        on_answer: called after each new answer.
    """

    def __init__(
        self,
        learning: Learner,
        *,
        breakable: Callable[[], AbstractContextManager[None]],
        on_answer: Callable[[Answer], None],
    ) -> None:
        self._learning, self._breakable, self._on_answer = learning, breakable, on_answer
        self._known: deque[Answer] = deque()
        self._on_caught_up: Callable[[], None] = lambda: None

    def replay(self, known: Iterable[Answer], on_caught_up: Callable[[], None]) -> None:
        """Give these answers first, and train nothing while they last.

        `on_caught_up` is called as soon as the last one is due: it brings the learning side to where it was.
        """
        self._known, self._on_caught_up = deque(known), on_caught_up

    @property
    def replays(self) -> bool:
        """Whether answers come from the journal."""
        return bool(self._known)

    @property
    def diverged(self) -> bool:
        """Whether the current version is not finite."""
        return bool(self._answer("diverged", _NOBODY, self._is_diverged).values[0])

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        """Fix the inputs of new tasks; a checkpoint holds those of the replayed ones."""
        if not self._known:
            self._learning.dispatched(tasks, clients, nth, max_steps)

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks."""
        if not self._known:
            self._learning.discard(tasks)

    def train(self, tasks: IntArray) -> Feedback:
        """Train now."""
        return self._answer("train", tasks, lambda: _of_feedback("train", self._learning.train(tasks))).feedback

    def apply(self, tasks: IntArray, *, by: str, goal: int) -> Feedback:
        """Train, merge, step."""
        return self._answer(
            "apply", tasks, lambda: _of_feedback("apply", self._learning.apply(tasks, by=by, goal=goal))
        ).feedback

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        """Losses of the current model."""
        return self._answer(
            "losses", clients, lambda: Answer("losses", clients, self._learning.losses(clients, max_samples))
        ).values

    def metrics(self, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Metrics of the current model."""

        def asked() -> Answer:
            found = measure()
            return Answer("metrics", _NOBODY, np.array(list(found.values()), np.float64), list(found))

        answer = self._answer("metrics", _NOBODY, asked)
        return dict(zip(answer.names, answer.values.tolist(), strict=True))

    def client_metrics(
        self, clients: IntArray, measure: Callable[[], Mapping[str, FloatArray]]
    ) -> dict[str, FloatArray]:
        """Metrics of the current model on the samples of each of some clients, (clients,)."""

        def asked() -> Answer:
            found = measure()
            return Answer("client_metrics", clients, np.concatenate(list(found.values())), list(found))

        answer = self._answer("client_metrics", clients, asked)
        return dict(zip(answer.names, answer.values.reshape(len(answer.names), len(clients)), strict=True))

    def _is_diverged(self) -> Answer:
        return Answer("diverged", _NOBODY, np.array([float(self._learning.diverged)]))

    def _answer(self, kind: _Kind, asked: IntArray, ask: Callable[[], Answer]) -> Answer:
        if self._known:
            answer = self._known.popleft()
            if answer.kind != kind or not np.array_equal(answer.asked, asked):
                raise ResumeError(
                    f"the journal answers {answer.kind} of {answer.asked.tolist()[:5]}, but the run asks {kind} of "
                    f"{asked.tolist()[:5]}: it is not the run that was interrupted; run it again into another folder"
                )
            if not self._known:
                self._on_caught_up()
            return answer
        with self._breakable():
            answer = ask()
        self._on_answer(answer)
        return answer


def _of_feedback(kind: Literal["train", "apply"], told: Feedback) -> Answer:
    return Answer(kind, told.tasks, told.utility, (), told.valid, told.weight)


def write_answers(answers: Sequence[Answer], path: Path) -> None:
    """An Arrow file."""
    columns = [
        [answer.kind for answer in answers],
        [answer.asked for answer in answers],
        [list(answer.names) for answer in answers],
        [answer.values for answer in answers],
        [list(answer.valid) for answer in answers],
        [answer.weight for answer in answers],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _LAYOUT, strict=True)]
    with pa.ipc.new_file(str(path), _LAYOUT) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=_LAYOUT))


def read_answers(path: Path) -> Iterator[Answer]:
    """What `write_answers` wrote.

    Raises:
        ResumeError: if it cannot be read.
    """
    with _readable(path), pa.ipc.open_file(str(path)) as reader:
        table = reader.read_all()
        table.validate(full=True)
    for kind, asked, names, values, valid, weight in zip(*(column for column in table.columns), strict=True):
        yield Answer(
            kind.as_py(),
            np.asarray(asked.values, np.int64),
            np.asarray(values.values, np.float64),
            names.as_py(),
            np.asarray(valid.as_py(), np.bool_),
            np.asarray(weight.values, np.float64) if weight.is_valid else None,
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ResumeError(f"{path}: cannot be read ({error}); the run cannot go on from there") from error
