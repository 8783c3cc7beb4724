"""Every event of a run as a line of text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.timeline.audience import RunFacts

COLUMNS = ("at_ms", "event", "client", "task", "detail")
_EVENTS = (
    "checked_in",
    "checked_out",
    "selected",
    "dispatched",
    "reported",
    "dropped",
    "stopped",
    "deadline_passed",
    "round_closed",
    "evaluated",
    "ended",
)


@final
class CsvLog:
    """Writes ``events.csv`` into the run folder: one line per event, in the order in which they happen.

    Args:
        events: which ones; all by default.
        file: name of the file in the run folder.
    """

    every = True

    def __init__(self, events: Sequence[str] = _EVENTS, file: str = "events.csv") -> None:
        unknown = [event for event in events if event not in _EVENTS]
        require(not unknown, f"events must be among {', '.join(_EVENTS)}", unknown=unknown)
        require(Path(file).name == file, "file must be a plain name, it lies in the run folder", file=file)
        self._wanted, self._name = frozenset(events), file
        self._file: IO[str] | None = None
        self._lines: Any = None

    def started(self, run: RunFacts) -> None:
        """Open the file."""
        require(run.folder is not None, "csv_log needs a run folder to write into")
        assert run.folder is not None  # noqa: S101  for the type checker
        self._file = (run.folder / self._name).open("w", encoding="utf-8", newline="")
        self._lines = csv.writer(self._file, lineterminator="\n")
        self._lines.writerow(COLUMNS)

    def checked_in(self, at: int, client: int) -> None:
        """A device comes online."""
        self._write(at, "checked_in", client)

    def checked_out(self, at: int, client: int) -> None:
        """A device leaves."""
        self._write(at, "checked_out", client)

    def selected(self, at: int, client: int) -> None:
        """The selector chose a client."""
        self._write(at, "selected", client)

    def dispatched(self, at: int, task: int, client: int) -> None:
        """A task is given."""
        self._write(at, "dispatched", client, task)

    def reported(self, at: int, task: int, client: int) -> None:
        """A report arrives."""
        self._write(at, "reported", client, task)

    def dropped(self, at: int, task: int, client: int) -> None:
        """A device leaves with its task unfinished."""
        self._write(at, "dropped", client, task)

    def stopped(self, at: int, task: int, client: int) -> None:
        """The server stops a task."""
        self._write(at, "stopped", client, task)

    def deadline_passed(self, at: int, number: int) -> None:
        """A round's deadline passes."""
        self._write(at, "deadline_passed", detail=f"round {number}")

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        """A round or buffer is closed; what was written so far reaches the disk."""
        number, reason, reports, version = (row[name] for name in ("round", "reason", "reports", "version"))
        detail = f"round {number}: {reason}, {reports} reports, version {version}"
        self._write(at, "round_closed", detail=detail)
        if self._file is not None:
            self._file.flush()

    def evaluated(self, at: int, version: int, metrics: dict[str, float]) -> None:
        """The model was evaluated."""
        values = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        self._write(at, "evaluated", detail=f"version {version}: {values}")

    def ended(self, at: int, reason: str) -> None:
        """The run is over."""
        self._write(at, "ended", detail=reason)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, at: int, event: str, client: int | str = "", task: int | str = "", detail: str = "") -> None:
        if event in self._wanted and self._file is not None:
            self._lines.writerow((at, event, client, task, detail))
