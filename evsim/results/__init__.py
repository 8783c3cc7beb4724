"""Runs as tidy tables, their metrics, plots and reports.

Columns ending in ``_at`` (and ``at``) are instants in ms since virtual time 0, ``_ms`` durations, ``bytes_`` bytes,
``_kbps`` kbit/s; ``docs/data_dictionary.md`` explains each.
"""

from __future__ import annotations

from evsim.results.groups import by_group
from evsim.results.run import Run, load_run, load_runs, stack
from evsim.results.whole_study import StudyRuns, load_study

__all__ = ["Run", "StudyRuns", "by_group", "load_run", "load_runs", "load_study", "stack"]
