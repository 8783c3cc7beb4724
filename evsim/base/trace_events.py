"""The format of trace events, which https://ui.perfetto.dev, chrome://tracing and Perfetto's trace processor read.

Google, "Trace Event Format" (2016): JSON with complete events ("X": a bar), counters ("C") and names ("M").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

_US_PER_MS = 1000
SERVER, CLIENTS, WORLD = 1, 2, 3  # "processes" of the picture


@final
class TraceEvents:
    """Bars and curves; instants in ms."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def name(self, process: int, name: str) -> None:
        """What a group of tracks is called."""
        self.events.append({"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}})

    def name_track(self, process: int, track: int, name: str) -> None:
        """What a track is called."""
        about = {"ph": "M", "name": "thread_name", "pid": process, "tid": track}
        self.events.append({**about, "args": {"name": name}})

    def bar(self, name: str, span: tuple[int, int], place: tuple[int, int], words: dict[str, Any]) -> None:
        """A bar from an instant to another one, on a track of a process."""
        (began, ended), (process, track) = span, place
        times = {"ts": began * _US_PER_MS, "dur": (ended - began) * _US_PER_MS}
        self.events.append({"ph": "X", "name": name, "pid": process, "tid": track, **times, "args": words})

    def count(self, name: str, at: int, values: dict[str, float], process: int = SERVER) -> None:
        """A point of one or several curves."""
        self.events.append({"ph": "C", "name": name, "pid": process, "ts": at * _US_PER_MS, "args": values})

    def write(self, path: Path) -> None:
        """As a file."""
        text = json.dumps({"traceEvents": self.events, "displayTimeUnit": "ms"}, allow_nan=False)
        path.write_text(text, encoding="utf-8")
