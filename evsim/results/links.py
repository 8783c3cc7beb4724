"""How much of the server's link was in use, from the transfers of all tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray
    from evsim.results.run import Run

_BINS = 400


def link_use(run: Run, bins: int = _BINS) -> pd.DataFrame:
    """Mean kbit/s that the server sent (`down`) and received (`up`) from each instant `at` (ms) to the next.

    A transfer counts with its mean rate as long as it lasts: sums over a run are exact.
    """
    tasks = run.tasks
    edges = np.linspace(0, max(run.end_ms, 1), bins + 1)
    begin = tasks["dispatched_at"].to_numpy(np.int64)
    up = begin + (tasks["download_ms"] + tasks["compute_ms"]).to_numpy(np.int64)
    lasts = {way: tasks[f"{way}_ms"].to_numpy(np.int64) for way in ("download", "upload")}
    return pd.DataFrame(
        {
            "at": edges[:-1],
            "down": _mean_rate(edges, begin, lasts["download"], tasks["bytes_down"].to_numpy(np.int64)),
            "up": _mean_rate(edges, up, lasts["upload"], tasks["bytes_up"].to_numpy(np.int64)),
        }
    )


def _mean_rate(edges: FloatArray, begin: IntArray, lasts: IntArray, size: IntArray) -> FloatArray:
    """Bits that have passed at each edge, and their differences over time: bits per ms are kbit/s."""
    some = lasts > 0
    begin, end, bits = begin[some], (begin + lasts)[some], size[some] * 8.0
    rate = bits / (end - begin)
    knots = np.concatenate([begin, end])
    change = np.concatenate([rate, -rate])
    order = np.argsort(knots, kind="stable")
    knots, slope = knots[order], np.cumsum(change[order])
    if not len(knots):
        return np.zeros(len(edges) - 1)
    passed = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(knots))])
    return np.asarray(np.diff(np.interp(edges, knots, passed)) / np.diff(edges))
