"""A run as a picture of time: a file that https://ui.perfetto.dev and chrome://tracing show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evsim.base.errors import require
from evsim.base.trace_events import CLIENTS, SERVER, TraceEvents

if TYPE_CHECKING:
    from evsim.timeline.audience import RunFacts


@final
class Perfetto:
    """Writes ``perfetto.json`` into the run folder: tasks as bars, one track per client, rounds above them.

    Args:
        tasks: most tasks that are drawn; the first ones of the run.
        file: name of the file in the run folder.
    """

    every = True

    def __init__(self, tasks: int = 100_000, file: str = "perfetto.json") -> None:
        require(tasks >= 1, "tasks must be >= 1", tasks=tasks)
        require(Path(file).name == file, "file must be a plain name, it lies in the run folder", file=file)
        self._most, self._name = tasks, file
        self._path: Path | None = None
        self._given: dict[int, tuple[int, int]] = {}  # task -> (when, to whom), of tasks at work
        self._n_tasks = 0
        self._out = TraceEvents()

    def started(self, run: RunFacts) -> None:
        """Name the tracks."""
        require(run.folder is not None, "perfetto needs a run folder to write into")
        assert run.folder is not None  # noqa: S101  for the type checker
        self._path = run.folder / self._name
        self._out.name(SERVER, "server")
        self._out.name(CLIENTS, "clients")

    def dispatched(self, at: int, task: int, client: int) -> None:
        """A bar begins."""
        if self._n_tasks < self._most:
            self._n_tasks += 1
            self._given[task] = (at, client)

    def reported(self, at: int, task: int, client: int) -> None:
        """A bar ends with a report."""
        self._bar(at, task, "report")

    def dropped(self, at: int, task: int, client: int) -> None:
        """A bar ends with a loss."""
        self._bar(at, task, "dropped")

    def stopped(self, at: int, task: int, client: int) -> None:
        """A bar is cut by the server."""
        self._bar(at, task, "stopped")

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        """A round as a bar of the server's."""
        began = int(row["started_at"])
        words = {name: row[name] for name in ("reason", "reports", "dropped", "version")}
        self._out.bar(f"round {row['round']}", (began, at), (SERVER, 0), words)

    def evaluated(self, at: int, version: int, metrics: dict[str, float]) -> None:
        """A curve below the bars."""
        values = {name: value for name, value in metrics.items() if value == value}  # noqa: PLR0124  not NaN
        self._out.count("metrics", at, values)

    def ended(self, at: int, reason: str) -> None:
        """Tasks at work end here; the file is written."""
        for task in list(self._given):
            self._bar(at, task, "in flight")
        if self._path is not None:
            self._out.write(self._path)

    def _bar(self, at: int, task: int, end: str) -> None:
        if task in self._given:
            began, client = self._given.pop(task)
            self._out.bar(f"task {task}", (began, at), (CLIENTS, client), {"end": end})
